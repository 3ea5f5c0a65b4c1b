"""Agents beside each other on the same tasks; pure functions.

Scores are (R, N): R runs (seeds) of an agent on N tasks. Aggregates are those of Agarwal et al.
2021, arXiv:2108.13264, and equal rliable's. What is resampled is a choice: rliable takes tasks as
given and resamples the runs of each; where tasks are a sample themselves, as goals are, they have
to be resampled too, and for both agents alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from metarl.errors import UserError
from metarl.evaluation import RESAMPLES_AT_ONCE

Scores = Float[np.ndarray, "*B _ N"]
"""Of runs on N tasks, perhaps for many resamples B at once."""
Over = Literal["runs", "tasks", "both"]
"""`runs`: those of each task by themselves, as rliable does. `tasks`: within their class.
`both`: whole runs, and tasks within their class."""


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


def mean_difference(ours: Scores, theirs: Scores) -> Float[np.ndarray, "*B"]:
    """How much more our mean is."""
    return np.asarray(ours.mean((-2, -1)) - theirs.mean((-2, -1)))


def probability_of_improvement(ours: Scores, theirs: Scores) -> Float[np.ndarray, "*B"]:
    """How likely a run of ours scores higher than one of theirs, on a task drawn at random.

    Ties count half (Mann-Whitney U; section 4.3 of the paper).
    """
    x, y = ours[..., :, None, :], theirs[..., None, :, :]
    return np.asarray(((x > y) + 0.5 * (x == y)).mean((-3, -2, -1)))


def performance_profile(
    scores: Scores, levels: Float[np.ndarray, " L"]
) -> Float[np.ndarray, "*B L"]:
    """The share of runs and tasks that score more than each level (equation 3 of the paper)."""
    return (scores[..., None] > levels).mean((-3, -2))


def interval(
    statistic: Callable[..., Float[np.ndarray, "*B S"]],
    *agents: Float[np.ndarray, "_ N"],
    classes: Sequence[str],
    rng: np.random.Generator,
    over: Over,
    resamples: int = 2000,
) -> tuple[Float[np.ndarray, "*S"], Float[np.ndarray, "*S"]]:
    """95 % percentile interval of a statistic of one agent's scores, or of several agents'.

    Args:
        statistic: takes the scores of each agent, for many resamples at once.
        agents: their scores on the same tasks, which are resampled together.
        classes: of the tasks.
        over: what is resampled.
    """
    draws = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, resamples - start)
        drawn = resample(agents, count, classes=classes, rng=rng, over=over)
        draws.append(np.asarray(statistic(*drawn)))
    low, high = np.percentile(np.concatenate(draws), [2.5, 97.5], axis=0)
    return np.asarray(low), np.asarray(high)


def resample(
    agents: Sequence[Float[np.ndarray, "_ N"]],
    count: int,
    *,
    classes: Sequence[str],
    rng: np.random.Generator,
    over: Over,
) -> list[Float[np.ndarray, "B _ N"]]:
    """The scores of all agents as they might have come out too, `count` times."""
    num_tasks = len(classes)
    tasks = np.broadcast_to(np.arange(num_tasks), (count, 1, num_tasks))
    if over != "runs":
        groups = [np.flatnonzero(np.asarray(classes) == name) for name in dict.fromkeys(classes)]
        drawn = [rng.choice(group, (count, 1, len(group))) for group in groups]
        tasks = np.concatenate(drawn, axis=2)
    resampled = []
    for scores in agents:
        runs = len(scores)
        if over == "runs":
            rows = rng.integers(runs, size=(count, runs, num_tasks))
        elif over == "both":
            rows = rng.integers(runs, size=(count, runs, 1))
        else:
            rows = np.arange(runs)[:, None]
        resampled.append(scores[rows, tasks])
    return resampled
