"""Comparison of agents on the same tasks; pure functions.

Scores are (R, N): R runs (seeds) of an agent on N tasks. Aggregates are those of Agarwal et al.
2021, arXiv:2108.13264, and equal rliable's. Intervals differ: rliable takes tasks as given and
resamples the runs of each. Here tasks are a sample, as goals are, and so are the runs if there are
several. With one run, intervals are over tasks only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from metarl.evaluation.statistics import SHARE, Bounds, Estimate, estimate

Scores = Float[np.ndarray, "_ N"]
"""Scores of runs on N tasks."""


def mean_over_runs(
    scores: Float[np.ndarray, "_ N C"], classes: Sequence[str], *, bounds: Bounds
) -> Estimate:
    """The mean of each column over runs and tasks, with its 95 % interval.

    The interval is over tasks within their class, and over runs if there are several.
    """
    return estimate(scores.mean(0), classes, bounds=bounds, of_runs=[scores.mean(1)])


def mean_difference(
    ours: Scores, theirs: Scores, classes: Sequence[str], *, bounds: Bounds
) -> Estimate:
    """Our mean minus their mean, paired by task."""
    low, high = bounds
    return estimate(
        (ours.mean(0) - theirs.mean(0))[:, None],
        classes,
        bounds=(low - high, high - low),
        of_runs=[scores.mean(1)[:, None] for scores in (ours, theirs)],
    )


def probability_of_improvement(ours: Scores, theirs: Scores, classes: Sequence[str]) -> Estimate:
    """Probability that a run of ours scores higher than one of theirs, on a random task.

    Ties count half (Mann-Whitney U; section 4.3 of the paper).
    """
    x, y = ours[:, None], theirs[None]
    better = (x > y) + 0.5 * (x == y)
    return estimate(
        better.mean((0, 1))[:, None],
        classes,
        bounds=SHARE,
        of_runs=[better.mean(axes)[:, None] for axes in ((1, 2), (0, 2))],
    )


def performance_profile(
    scores: Scores, levels: Float[np.ndarray, " L"], classes: Sequence[str]
) -> Estimate:
    """The share of runs and tasks that score more than each level (equation 3 of the paper)."""
    return mean_over_runs((scores[..., None] > levels).astype(float), classes, bounds=SHARE)
