"""Conjugate gradient against sb3-contrib's solver and a direct one; line search by hand."""

import pytest
import torch
from sb3_contrib.common.utils import conjugate_gradient_solver

from metarl.optim import conjugate_gradient, line_search


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
