"""Linear probes: how well a linear map reads a task's goal from what an agent knows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

FOLDS = 5
FEWEST_TASKS = 20
"""Number of tasks below which a probe's score would say little."""


def probe_r2(
    known: Float[np.ndarray, "N Z"], goals: Float[np.ndarray, "N P"], *, ridge: float = 1e-3
) -> float | None:
    """R² of a ridge regression from `known` to the goals, on tasks that it was not fitted to.

    The tasks are divided into five folds; each is predicted by the fit to the others. R² is 1 minus
    the ratio of the squared error to that of the mean of all goals, with all P numbers of a goal
    together; 0 or less: nothing is known. `ridge` is relative to the variance of `known`.

    Returns:
        R², or None for fewer than 20 tasks, or if all goals are the same.
    """
    num_tasks = len(known)
    spread = ((goals - goals.mean(0)) ** 2).sum()
    if num_tasks < FEWEST_TASKS or spread == 0:
        return None
    fold = np.arange(num_tasks) % FOLDS
    error = 0.0
    for held_out in range(FOLDS):
        fitted, tested = fold != held_out, fold == held_out
        center, scale = known[fitted].mean(0), known[fitted].std(0)
        x = (known - center) / np.where(scale > 0, scale, 1.0)
        mean = goals[fitted].mean(0)
        gram = x[fitted].T @ x[fitted] + ridge * fitted.sum() * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x[fitted].T @ (goals[fitted] - mean))
        error += ((goals[tested] - mean - x[tested] @ weights) ** 2).sum()
    return float(1 - error / spread)
