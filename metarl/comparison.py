"""Agents beside each other on the same tasks; pure functions.

Scores are (R, N): R runs (seeds) of an agent on N tasks. Aggregates are those of Agarwal et al.
2021, arXiv:2108.13264, and equal rliable's. Intervals do not: rliable takes tasks as given and
resamples the runs of each, while here tasks are a sample, as goals are, and runs another, where
there are several. Of one run there is no interval over runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from metarl.errors import UserError
from metarl.evaluation import SHARE, Bounds, Estimate, estimate

Scores = Float[np.ndarray, "_ N"]
"""Of runs on N tasks."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run plays: who, and all that has to be alike where runs are compared."""

    experiment: str
    seed: int
    distribution: str
    split_hash: str
    horizon: int
    """Steps of an episode."""
    reward_version: str | None
    """Where rewards have versions, as Meta-World's; None where they have not, or it is unknown."""
    total_episodes: int
    slots_per_task: int


def check_alike(settings: Sequence[Setting]) -> None:
    """Checks that runs can stand beside each other.

    Raises:
        UserError: they are not of the same tasks or are judged by other measures, the seeds of an
            experiment are not played alike, or one run is there twice.
    """
    first = settings[0]
    known: set[tuple[str, int]] = set()
    firsts: dict[str, Setting] = {}
    for setting in settings:
        if setting.split_hash != first.split_hash:
            raise UserError(
                f"{first.experiment} was played on tasks of {first.distribution}, "
                f"{setting.experiment} on others of {setting.distribution}; compare runs on "
                "the same tasks, for example with --tasks"
            )
        if setting.horizon != first.horizon:
            raise UserError(
                f"an episode of {first.experiment} has {first.horizon} steps, one of "
                f"{setting.experiment} {setting.horizon}; play the same with --tasks"
            )
        versions = {first.reward_version, setting.reward_version} - {None}
        if len(versions) > 1:
            raise UserError(
                f"{first.experiment} is paid by {first.reward_version} rewards, "
                f"{setting.experiment} by {setting.reward_version}; play the same with --tasks"
            )
        if (setting.experiment, setting.seed) in known:
            raise UserError(
                f"{setting.experiment}, seed {setting.seed}, is there twice; name it once"
            )
        known.add((setting.experiment, setting.seed))
        alike = firsts.setdefault(setting.experiment, setting)
        if (alike.total_episodes, alike.slots_per_task) != (
            setting.total_episodes, setting.slots_per_task,
        ):  # fmt: skip
            raise UserError(
                f"the seeds of {setting.experiment} were played for different numbers of "
                "episodes; evaluate them alike, with --episodes"
            )


def mean_over_runs(
    scores: Float[np.ndarray, "_ N C"], classes: Sequence[str], *, bounds: Bounds
) -> Estimate:
    """The mean of each column over runs and tasks; its interval is over tasks of their class, and
    over runs where there are several."""
    return estimate(scores.mean(0), classes, bounds=bounds, of_runs=[scores.mean(1)])


def mean_difference(
    ours: Scores, theirs: Scores, classes: Sequence[str], *, bounds: Bounds
) -> Estimate:
    """How much more our mean is, paired by task."""
    low, high = bounds
    return estimate(
        (ours.mean(0) - theirs.mean(0))[:, None],
        classes,
        bounds=(low - high, high - low),
        of_runs=[scores.mean(1)[:, None] for scores in (ours, theirs)],
    )


def probability_of_improvement(ours: Scores, theirs: Scores, classes: Sequence[str]) -> Estimate:
    """How likely a run of ours scores higher than one of theirs, on a task drawn at random.

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
