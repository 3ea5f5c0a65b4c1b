"""The page on differentiation is right: its Python runs, and both ways give the same result."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parents[1] / "docs" / "differentiation.md").read_text()


def test_the_examples_run_and_agree() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/differentiation.md", "exec"), names)
    torch.testing.assert_close(names["same_gradient"], names["meta_gradient"])
    assert names["meta_gradient"].abs().min() > 1e-3
    # The losses are quadratic: the Jacobian is that of autograd, and the Hessian by φ is constant.
    meta, vector = names["meta"], names["vector"]

    def query_loss(meta: torch.Tensor) -> torch.Tensor:
        rows = meta.repeat(8, 1)
        for _ in range(2):
            losses = names["row_losses"](rows)
            (gradient,) = torch.autograd.grad(losses.sum(), rows, create_graph=True)
            rows = rows - 0.1 * gradient
        return (
            (names["outputs"](rows, names["query_x"]) - names["query_y"])
            .square()
            .mean((1, 2))
            .sum()
        )

    hessian = torch.autograd.functional.hessian(query_loss, meta)
    torch.testing.assert_close(names["curvature_product"], hessian @ vector)
    assert names["adapted_policies"].shape == names["jacobians"].adapted.shape
    torch.testing.assert_close(names["adapted_policies"], names["jacobians"].adapted)
