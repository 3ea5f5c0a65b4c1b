"""From rollouts to adaptation curves and honest intervals; pure functions.

Every task plays the same number of episodes and each of them counts, so no quota, order of
finishing or early end can favour successes. Aggregates are those of Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from metarl.types import AdaptationCurve, Rollout

SHARES = (0.5, 0.8, 0.95)
"""Of the final success: how soon they are reached is the speed of adaptation."""
RESAMPLES_AT_ONCE = 200  # of the bootstrap: more are no faster, and need more memory
Scores = Float[np.ndarray, "*B N C"]
Statistic = Callable[[Scores], Float[np.ndarray, "*B C"]]
"""Of the scores of N tasks, perhaps for many resamples B at once."""


def adaptation_curve(
    trial: Sequence[Rollout], env_names: Sequence[str], *, slots_per_task: int = 1
) -> AdaptationCurve:
    """How each task went in each episode of a trial, in the order in which they were played."""
    reward = torch.cat([rollout.reward for rollout in trial], dim=1)
    success = torch.cat([rollout.success for rollout in trial], dim=1)
    episode_end = torch.cat([rollout.episode_end for rollout in trial], dim=1)
    if not (episode_end == episode_end[:1]).all() or not episode_end[:, -1].all():
        raise ValueError("episodes must end at the same steps in every slot, and with the trial")
    horizon = int(episode_end[0].nonzero()[0]) + 1

    def by_task(scores: Tensor) -> Float[Tensor, "N C"]:
        return scores.double().unflatten(0, (-1, slots_per_task)).mean(1)

    by_episode = success.unflatten(1, (-1, horizon))
    returns = by_task(reward.double().unflatten(1, (-1, horizon)).sum(-1))
    return AdaptationCurve(
        env_names=list(env_names),
        experience=[slots_per_task * column for column in range(returns.shape[1])],
        scores={
            "return": returns,
            "success_any": by_task(by_episode.any(-1)),
            "success_last": by_task(by_episode[..., -1]),
        },
    )


def join(curves: Sequence[AdaptationCurve]) -> AdaptationCurve:
    """Curves of several batches of tasks as one."""
    return AdaptationCurve(
        env_names=[name for curve in curves for name in curve.env_names],
        experience=curves[0].experience,
        scores={m: torch.cat([curve.scores[m] for curve in curves]) for m in curves[0].scores},
    )


def first_rows(curve: AdaptationCurve, count: int) -> AdaptationCurve:
    """The curve of the first `count` tasks."""
    return AdaptationCurve(
        env_names=curve.env_names[:count],
        experience=curve.experience,
        scores={measure: scores[:count] for measure, scores in curve.scores.items()},
    )


def mean(scores: Scores) -> Float[np.ndarray, "*B C"]:
    """Mean over all tasks, whatever their stratum."""
    return scores.mean(axis=-2)


def iqm(scores: Scores) -> Float[np.ndarray, "*B C"]:
    """Interquartile mean: of the middle half of all tasks, whatever their stratum."""
    return stats.trim_mean(scores, 0.25, axis=-2)


def bootstrap_interval(
    strata: Sequence[Float[np.ndarray, "N C"]],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Percentile interval of a statistic; each stratum (task class) is resampled by itself.

    Rows are resampled whole, so the C columns of one task stay together.
    """
    draws = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, resamples - start)
        drawn = [rows[rng.integers(len(rows), size=(count, len(rows)))] for rows in strata]
        draws.append(statistic(np.concatenate(drawn, axis=1)))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(draws), [tail, 100 - tail], axis=0)
    return low, high


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic for each column of a curve, with its 95 % interval."""

    value: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is reported of one group of tasks (a class, or all of them)."""

    num_tasks: int
    experience: list[int]
    """Episodes of experience before each column of the curve."""
    mean: dict[str, Estimate]
    """By measure, as in `AdaptationCurve.scores`."""
    iqm: dict[str, Estimate]
    area_under_curve: dict[str, float]
    """Mean of the curve of means over its episodes."""
    episodes_to_threshold: dict[str, int | None]
    """Episodes of experience until mean success reaches the threshold; None where it never does."""
    episodes_to_share: dict[str, dict[str, int | None]]
    """By measure of success: episodes of experience until its mean reaches 50, 80 and 95 % of what
    it is in the end; None where it is 0 in the end."""


def summarize(
    curve: AdaptationCurve, *, threshold: float, seed: int
) -> tuple[Summary, dict[str, Summary]]:
    """The summary of all tasks (stratified by class), and of each class."""
    rows = _rows_by_class(curve)
    overall = _summary(curve, list(rows.values()), threshold=threshold, seed=seed)
    by_class = {
        name: _summary(curve, [group], threshold=threshold, seed=seed)
        for name, group in rows.items()
    }
    return overall, by_class


def success_after(
    curve: AdaptationCurve, *, adaptation_episodes: int, seed: int
) -> tuple[Estimate, dict[str, Estimate]]:
    """Success at any step in the episodes that follow adaptation: of all tasks, of each class.

    A task's score is the share of its test episodes that succeeded: as many for every task.
    """
    later = [k for k, episodes in enumerate(curve.experience) if episodes >= adaptation_episodes]
    scores = curve.scores["success_any"][:, later].double().mean(1, keepdim=True)
    rows = _rows_by_class(curve)
    strata = {name: scores[group].cpu().numpy() for name, group in rows.items()}
    overall = _estimate(list(strata.values()), mean, seed)
    return overall, {name: _estimate([group], mean, seed) for name, group in strata.items()}


def _rows_by_class(curve: AdaptationCurve) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(curve.env_names):
        rows.setdefault(name, []).append(row)
    return rows


def _summary(
    curve: AdaptationCurve, groups: list[list[int]], *, threshold: float, seed: int
) -> Summary:
    strata = {
        measure: [scores[group].double().cpu().numpy() for group in groups]
        for measure, scores in curve.scores.items()
    }
    means = {measure: _estimate(rows, mean, seed) for measure, rows in strata.items()}
    successes = [measure for measure in means if measure.startswith("success")]
    return Summary(
        num_tasks=sum(len(group) for group in groups),
        experience=curve.experience,
        mean=means,
        iqm={measure: _estimate(rows, iqm, seed) for measure, rows in strata.items()},
        area_under_curve={m: float(np.mean(estimate.value)) for m, estimate in means.items()},
        episodes_to_threshold={
            m: episodes_to(threshold, curve.experience, means[m].value) for m in successes
        },
        episodes_to_share={
            m: {
                f"{share:.0%}": episodes_to(
                    share * means[m].value[-1] or math.inf, curve.experience, means[m].value
                )
                for share in SHARES
            }
            for m in successes
        },
    )


def episodes_to(level: float, experience: Sequence[int], scores: Sequence[float]) -> int | None:
    """The experience before the first score that reaches the level; None where none does."""
    return next((k for k, v in zip(experience, scores, strict=True) if v >= level), None)


def _estimate(
    strata: Sequence[Float[np.ndarray, "N C"]], statistic: Statistic, seed: int
) -> Estimate:
    low, high = bootstrap_interval(strata, statistic, rng=np.random.default_rng(seed))
    value = statistic(np.concatenate(strata))
    return Estimate(value=value.tolist(), low=low.tolist(), high=high.tolist())
