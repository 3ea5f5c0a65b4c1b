"""From rollouts to adaptation curves and honest intervals; pure functions.

Every task plays the same number of episodes and each of them counts, so no quota, order of
finishing or early end can favour successes. Aggregates are those of Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from metarl.types import AdaptationCurve, Rollout

Scores = Float[np.ndarray, "N *C"]
Statistic = Callable[[list[Scores]], Float[np.ndarray, "*C"]]


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
        episodes=[slots_per_task * column for column in range(returns.shape[1])],
        returns=returns,
        success_any=by_task(by_episode.any(-1)),
        success_last=by_task(by_episode[..., -1]),
    )


def join(curves: Sequence[AdaptationCurve]) -> AdaptationCurve:
    """Curves of several batches of tasks as one."""
    return AdaptationCurve(
        env_names=[name for curve in curves for name in curve.env_names],
        episodes=curves[0].episodes,
        returns=torch.cat([curve.returns for curve in curves]),
        success_any=torch.cat([curve.success_any for curve in curves]),
        success_last=torch.cat([curve.success_last for curve in curves]),
    )


def first_rows(curve: AdaptationCurve, count: int) -> AdaptationCurve:
    """The curve of the first `count` tasks."""
    return AdaptationCurve(
        env_names=curve.env_names[:count],
        episodes=curve.episodes,
        returns=curve.returns[:count],
        success_any=curve.success_any[:count],
        success_last=curve.success_last[:count],
    )


def mean(strata: list[Scores]) -> Float[np.ndarray, "*C"]:
    """Mean over all scores, whatever their stratum."""
    return np.concatenate(strata).mean(axis=0)


def iqm(strata: list[Scores]) -> Float[np.ndarray, "*C"]:
    """Interquartile mean: of the middle half of all scores, whatever their stratum."""
    return stats.trim_mean(np.concatenate(strata), 0.25, axis=0)


def bootstrap_interval(
    strata: list[Scores],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[Float[np.ndarray, "*C"], Float[np.ndarray, "*C"]]:
    """Percentile interval of a statistic; each stratum (task class) is resampled by itself.

    Rows are resampled whole, so the C columns of one task stay together.
    """
    draws = np.stack(
        [
            statistic([rows[rng.integers(len(rows), size=len(rows))] for rows in strata])
            for _ in range(resamples)
        ]
    )
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
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
    episodes: list[int]
    """Episodes of experience before each column of the curve."""
    mean: dict[str, Estimate]
    """By measure: `return`, `success_any`, `success_last`."""
    iqm: dict[str, Estimate]
    area_under_curve: dict[str, float]
    """Mean of the curve of means over its episodes."""
    episodes_to_threshold: dict[str, int | None]
    """Episodes of experience until mean success reaches the threshold; None where it never does."""


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
    later = [k for k, episodes in enumerate(curve.episodes) if episodes >= adaptation_episodes]
    scores = curve.success_any[:, later].double().mean(1, keepdim=True)
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
    measures = {
        "return": curve.returns,
        "success_any": curve.success_any,
        "success_last": curve.success_last,
    }
    strata = {
        measure: [scores[group].double().cpu().numpy() for group in groups]
        for measure, scores in measures.items()
    }
    means = {measure: _estimate(rows, mean, seed) for measure, rows in strata.items()}
    return Summary(
        num_tasks=sum(len(group) for group in groups),
        episodes=curve.episodes,
        mean=means,
        iqm={measure: _estimate(rows, iqm, seed) for measure, rows in strata.items()},
        area_under_curve={m: float(np.mean(estimate.value)) for m, estimate in means.items()},
        episodes_to_threshold={
            m: next(
                (k for k, v in zip(curve.episodes, means[m].value, strict=True) if v >= threshold),
                None,
            )
            for m in ("success_any", "success_last")
        },
    )


def _estimate(strata: list[Scores], statistic: Statistic, seed: int) -> Estimate:
    low, high = bootstrap_interval(strata, statistic, rng=np.random.default_rng(seed))
    return Estimate(value=statistic(strata).tolist(), low=low.tolist(), high=high.tolist())
