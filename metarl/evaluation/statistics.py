"""From rollouts to adaptation curves and honest intervals; pure functions.

Every task plays the same number of episodes and each of them counts, so no quota, order of
finishing or early end can favour successes. Aggregates are those of Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264. How often the
intervals hold the truth is measured by `benchmarks/interval_coverage.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from metarl.types import AdaptationCurve

SHARES = (0.5, 0.8, 0.95)
"""Of the final success: how soon they are reached is the speed of adaptation."""
CONFIDENCE = 0.95
RESAMPLES_AT_ONCE = 200  # of the bootstrap: more are no faster, and need more memory
IQM_TASKS = 10
"""The fewest tasks whose bootstrap covers an interquartile mean about as often as it says."""
ROUNDING = 1e-9
"""Of a mean: returns that differ by less are the same."""
Bounds = tuple[float, float]
"""Between which scores lie."""
SHARE: Bounds = (0.0, 1.0)
REAL: Bounds = (-math.inf, math.inf)
Scores = Float[np.ndarray, "*B N C"]
Statistic = Callable[[Scores], Float[np.ndarray, "*B C"]]
"""Of the scores of N tasks, perhaps for many resamples B at once."""


def mean(scores: Scores) -> Float[np.ndarray, "*B C"]:
    """Mean over all tasks, whatever their stratum."""
    return scores.mean(axis=-2)


def iqm(scores: Scores) -> Float[np.ndarray, "*B C"]:
    """Interquartile mean: of the middle half of all tasks, whatever their stratum."""
    return stats.trim_mean(scores, 0.25, axis=-2)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic for each column of a curve, with its 95 % interval."""

    value: list[float]
    low: list[float | None]
    """None where the scores allow no interval."""
    high: list[float | None]


def bounds_of(measure: str) -> Bounds:
    """Between what the scores of a curve lie."""
    return SHARE if measure.startswith("success") else REAL


def estimate(
    scores: Float[np.ndarray, "N C"],
    classes: Sequence[str] | None = None,
    *,
    bounds: Bounds,
    of_runs: Sequence[Float[np.ndarray, "_ C"]] = (),
) -> Estimate:
    """The mean of each column, with the 95 % interval that tasks (and runs) of its kind allow.

    Tasks are a sample of those of their class. Between two finite bounds the interval is Wilson's,
    else Student's t. There is none where nothing varies (one task alone, or the same return on
    all), or where scores are infinite.

    Args:
        scores: of each task; the mean over runs where there are several.
        classes: of the tasks, which are strata; None where there are none. Where a class has one
            task, all are taken for one stratum, which makes the interval wider (collapsed strata,
            Cochran 1977, "Sampling Techniques", section 5A.12).
        bounds: between which scores lie.
        of_runs: means of the runs of each agent over all tasks; a single run adds nothing.
    """
    strata = [scores[rows] for rows in strata_of(classes, len(scores))]
    runs = [
        (_spread(means) / len(means), float(len(means) - 1)) for means in of_runs if len(means) > 1
    ]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        value = scores.mean(0)
        if math.isfinite(bounds[0]) and math.isfinite(bounds[1]):
            low, high = _wilson(value, strata, runs, bounds)
        else:
            low, high = _student(value, strata, runs, bounds)
    return Estimate(value=value.tolist(), low=_known(low), high=_known(high))


def strata_of(classes: Sequence[str] | None, num_tasks: int) -> list[Int[np.ndarray, " _"]]:
    """The rows of each class; all together where a class has only one, or where there is none."""
    names = np.asarray(classes or [""] * num_tasks)
    strata = [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]
    return strata if min(map(len, strata)) > 1 else [np.arange(num_tasks)]


def said_of_intervals(classes: Sequence[str] | None, num_tasks: int, *, bounded: str | None) -> str:
    """What `estimate` does with these tasks, in words.

    Args:
        bounded: the measure whose intervals are Wilson's, if there is one.
    """
    if num_tasks == 1:
        which = f"Wilson's of {bounded}, else none" if bounded else "none"
        return f"95 % intervals over 1 task: {which}"
    over = "over tasks"
    if len(set(classes or [])) > 1:
        stratified = len(strata_of(classes, num_tasks)) > 1
        over += " within their class" if stratified else ", not within classes, as some have only 1"
    which = f"Wilson's of {bounded}, else Student's t" if bounded else "Student's t"
    return f"95 % intervals {over}: {which}"


Parts = list[tuple[Float[np.ndarray, " C"], float]]
"""Variances that add up to that of a mean, with their degrees of freedom."""


def _wilson(
    value: Float[np.ndarray, " C"],
    strata: Sequence[Float[np.ndarray, "_ C"]],
    runs: Parts,
    bounds: Bounds,
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Wilson's score interval of the mean of bounded scores.

    Wilson 1927, JASA 22, 209-212; equation 4 of Brown, Cai and DasGupta 2001, Statistical Science
    16, 101-133. In place of the number of tasks stands the effective one, p (1 - p) / V with V the
    stratified variance of the mean, as for surveys (Korn and Graubard 1998, Survey Methodology 24,
    193-201): it is their number where scores are 0 or 1 and there is one class, more where classes
    differ or a score is a mean over episodes. The variance of a class is taken with one score of
    each bound added, so that a class that always succeeds is not taken for one that cannot fail.
    """
    unit = bounds[1] - bounds[0]
    p = (value - bounds[0]) / unit
    num_tasks = sum(map(len, strata))
    centre, variance = np.zeros_like(p), np.zeros_like(p)
    for rows in strata:
        share, n = len(rows) / num_tasks, len(rows) + 2
        scaled = (rows - bounds[0]) / unit
        middle = (scaled.sum(0) + 1) / n
        centre += share * middle
        variance += share**2 * ((scaled**2).sum(0) + 1 - n * middle**2) / n / len(rows)
    parts = [(variance, math.inf), *((part / unit**2, df) for part, df in runs)]
    variance, quantile = _added(parts)
    per_task = quantile**2 * variance / (centre * (1 - centre))  # squared, by effective number
    half = np.sqrt(per_task * (p * (1 - p) + per_task / 4))
    low, high = ((p + per_task / 2 + sign * half) / (1 + per_task) for sign in (-1, 1))
    # the interval holds the mean, whatever rounding does
    return (
        bounds[0] + unit * np.minimum(low, p).clip(0),
        bounds[0] + unit * np.maximum(high, p).clip(max=1),
    )


def _student(
    value: Float[np.ndarray, " C"],
    strata: Sequence[Float[np.ndarray, "_ C"]],
    runs: Parts,
    bounds: Bounds,
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Student's t interval of the stratified mean, its degrees of freedom by Welch and
    Satterthwaite (Welch 1947, Biometrika 34, 28-35)."""
    num_tasks = sum(map(len, strata))
    tasks = [
        ((len(rows) / num_tasks) ** 2 * _spread(rows) / len(rows), float(len(rows) - 1))
        for rows in strata
        if len(rows) > 1
    ]
    variance, quantile = _added([*tasks, *runs] or [(np.zeros_like(value), math.inf)])
    half = quantile * np.sqrt(variance)
    half = np.where(half > ROUNDING * np.abs(value), half, math.nan)
    return (value - half).clip(*bounds), (value + half).clip(*bounds)


def _spread(rows: Float[np.ndarray, "_ C"]) -> Float[np.ndarray, " C"]:
    """Variance of the rows; exactly 0 where all are equal."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (rows - rows[0]).var(0, ddof=1)


def _added(parts: Parts) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """The sum of variances, and the quantile of Student's t with the degrees of freedom that it
    has (Satterthwaite 1946, Biometrics Bulletin 2, 110-114)."""
    total = np.sum([variance for variance, _ in parts], axis=0)
    inverse = np.sum([(variance / total) ** 2 / df for variance, df in parts], axis=0)
    return total, stats.t.ppf((1 + CONFIDENCE) / 2, 1 / inverse)


def _known(bounds: Float[np.ndarray, " C"]) -> list[float | None]:
    return [bound if math.isfinite(bound) else None for bound in bounds.tolist()]


def bootstrap_interval(
    strata: Sequence[Float[np.ndarray, "N C"]],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Percentile interval of a statistic that is no mean; each stratum is resampled by itself.

    Rows are resampled whole, so the C columns of one task stay together. Of few rows it covers too
    seldom, and of rows that are equal it has no width: see `iqm_estimate`.
    """
    draws = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, resamples - start)
        drawn = [rows[rng.integers(len(rows), size=(count, len(rows)))] for rows in strata]
        draws.append(statistic(np.concatenate(drawn, axis=1)))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(draws), [tail, 100 - tail], axis=0)
    return low, high


def iqm_estimate(
    scores: Float[np.ndarray, "N C"], classes: Sequence[str] | None, *, bounds: Bounds, seed: int
) -> Estimate:
    """The interquartile mean of each column, with a bootstrap interval where that is one: of
    unbounded scores of enough tasks. (Most successes are 0 or 1, and so is every resample's.)"""
    value = iqm(scores)
    low = high = np.full_like(value, math.nan)
    if bounds == REAL and len(scores) >= IQM_TASKS:
        strata = [scores[rows] for rows in strata_of(classes, len(scores))]
        low, high = bootstrap_interval(strata, iqm, rng=np.random.default_rng(seed))
        low, high = (np.where(low < high, bound, math.nan) for bound in (low, high))
    return Estimate(value=value.tolist(), low=_known(low), high=_known(high))


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
    """The summary of all tasks (stratified by class), and of each class.

    Args:
        seed: of the bootstrap.
    """
    by_class = {
        name: _summary(curve, rows, threshold=threshold, seed=seed)
        for name, rows in _rows_by_class(curve).items()
    }
    everything = list(range(len(curve.env_names)))
    return _summary(curve, everything, threshold=threshold, seed=seed), by_class


def success_after(
    curve: AdaptationCurve, *, adaptation_episodes: int
) -> tuple[Estimate, dict[str, Estimate]]:
    """Success at any step in the episodes that follow adaptation: of all tasks, of each class.

    A task's score is the share of its test episodes that succeeded: as many for every task.
    """
    later = [k for k, episodes in enumerate(curve.experience) if episodes >= adaptation_episodes]
    scores = curve.scores["success_any"][:, later].double().mean(1, keepdim=True).cpu().numpy()
    by_class = {
        name: estimate(scores[rows], bounds=SHARE) for name, rows in _rows_by_class(curve).items()
    }
    return estimate(scores, curve.env_names, bounds=SHARE), by_class


def _rows_by_class(curve: AdaptationCurve) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(curve.env_names):
        rows.setdefault(name, []).append(row)
    return rows


def _summary(curve: AdaptationCurve, rows: list[int], *, threshold: float, seed: int) -> Summary:
    classes = [curve.env_names[row] for row in rows]
    scores = {m: values[rows].double().cpu().numpy() for m, values in curve.scores.items()}
    means = {m: estimate(values, classes, bounds=bounds_of(m)) for m, values in scores.items()}
    successes = [measure for measure in means if measure.startswith("success")]
    return Summary(
        num_tasks=len(rows),
        experience=curve.experience,
        mean=means,
        iqm={
            m: iqm_estimate(values, classes, bounds=bounds_of(m), seed=seed)
            for m, values in scores.items()
        },
        area_under_curve={m: float(np.mean(of.value)) for m, of in means.items()},
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
