"""Conjugate gradient against sb3-contrib's solver and a direct one; line search by hand; what Adam
takes over."""

import pytest
import torch
from sb3_contrib.common.utils import conjugate_gradient_solver

from metarl.errors import UserError
from metarl.learning.optim import conjugate_gradient, line_search, load_state_dict, state_dict


def symmetric_positive_definite(size: int) -> torch.Tensor:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).double()
    return root @ root.T + torch.eye(size)


@pytest.mark.parametrize("iterations", [1, 5, 10])
def test_conjugate_gradient_is_sb3_contribs(
    iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, target = symmetric_positive_definite(30), torch.arange(30.0).double() / 30
    ours = conjugate_gradient(lambda v: matrix @ v, target, iterations=iterations)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # theirs starts near 0, ours at 0
    theirs = conjugate_gradient_solver(lambda v: matrix @ v, target, max_iter=iterations)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_conjugate_gradient_solves() -> None:
    matrix, target = symmetric_positive_definite(8), torch.ones(8).double()
    solution = conjugate_gradient(
        lambda v: matrix @ v, target, iterations=50, tolerance=1e-24
    )  # fmt: skip
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target))
    assert not conjugate_gradient(lambda v: matrix @ v, 0 * target, iterations=5).any()


def test_line_search_takes_the_first_that_is_accepted_and_otherwise_stays() -> None:
    start, step = torch.tensor([1.0]), torch.tensor([8.0])
    tried: list[float] = []

    def below_four(candidate: torch.Tensor) -> bool:
        tried.append(float(candidate))
        return float(candidate) < 4

    found, count, fraction = line_search(below_four, start, step, shrink=0.5, max_tries=5)
    assert (found.item(), count, fraction, tried) == (3.0, 3, 0.25, [9.0, 5.0, 3.0])
    found, count, fraction = line_search(below_four, start, step, shrink=0.5, max_tries=2)
    assert (found.item(), count, fraction) == (1.0, 2, 0.0)


def stepped(module: torch.nn.Module) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(module.parameters(), lr=0.5)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp_avg.nothing": torch.zeros(2)}, "optimizer.exp_avg.nothing, which is of no"),
        ({"momentum.weight": torch.zeros(3, 2)}, "optimizer.momentum.weight, which is of no"),
        ({"exp_avg.weight": torch.zeros(2, 3)}, "exp_avg.weight is .2, 3. of torch.float32, and"),
        ({"exp_avg.weight": torch.zeros(3, 2).double()}, "of torch.float64, and should be"),
        ({"step.bias": torch.tensor(1)}, "step.bias is .. of torch.int64"),
        ({"step.bias": torch.tensor(-1.0)}, "step.bias is negative"),
        ({"exp_avg_sq.bias": torch.tensor([0.0, -1e-9, 0.0])}, "exp_avg_sq.bias is negative"),
        ({"exp_avg_sq.bias": None}, "it has no tensor optimizer.exp_avg_sq.bias"),
        ({"learning_rate": torch.tensor(-1.0)}, "learning_rate is -1"),
    ],
)
def test_moments_that_are_not_of_these_parameters_are_named(
    change: dict[str, torch.Tensor | None], message: str
) -> None:
    module = torch.nn.Linear(2, 3)
    saved = state_dict(stepped(module), module)
    changed = {**saved, **{f"optimizer.{name}": tensor for name, tensor in change.items()}}
    optimizer = stepped(module)
    before = {k: t.clone() for k, t in state_dict(optimizer, module).items()}
    with pytest.raises(UserError, match=message):
        load_state_dict(optimizer, module, {k: t for k, t in changed.items() if t is not None})
    after = state_dict(optimizer, module)
    assert all(torch.equal(after[name], before[name]) for name in before), "nothing is taken over"
    load_state_dict(optimizer, module, saved)
