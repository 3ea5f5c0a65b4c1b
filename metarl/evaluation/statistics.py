"""Statistics of adaptation curves, with confidence intervals; pure functions.

Every task plays the same number of episodes and every episode counts, so no quota, order of
finishing or early end can favour successes. Aggregates are those of Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264.
`benchmarks/interval_coverage.py` measures the coverage of the intervals.
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
"""Shares of the final success; the episodes until they are reached measure adaptation speed."""
CONFIDENCE = 0.95
RESAMPLES_AT_ONCE = 200  # of the bootstrap: more need more memory and are no faster
IQM_TASKS = 10
"""Fewest tasks for which the bootstrap of an interquartile mean covers about as often as stated."""
ROUNDING = 1e-9
"""Relative rounding error of a mean; an interval narrower than this counts as none."""
Bounds = tuple[float, float]
"""Lowest and highest possible score."""
SHARE: Bounds = (0.0, 1.0)
REAL: Bounds = (-math.inf, math.inf)
Scores = Float[np.ndarray, "*B N C"]
Statistic = Callable[[Scores], Float[np.ndarray, "*B C"]]
"""Statistic of the scores of N tasks, optionally for B resamples at once."""


def mean(scores: Scores) -> Float[np.ndarray, "*B C"]:
    """Mean over all tasks, regardless of strata."""
    return scores.mean(axis=-2)


def iqm(scores: Scores) -> Float[np.ndarray, "*B C"]:
    """Interquartile mean: mean of the middle half of all tasks, regardless of strata."""
    return stats.trim_mean(scores, 0.25, axis=-2)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic for each column of a curve, with its 95 % interval."""

    value: list[float]
    low: list[float | None]
    """Lower ends of the intervals; None where the scores allow no interval."""
    high: list[float | None]


def bounds_of(measure: str) -> Bounds:
    """Bounds of the scores of a measure."""
    return SHARE if measure.startswith("success") else REAL


def estimate(
    scores: Float[np.ndarray, "N C"],
    classes: Sequence[str] | None = None,
    *,
    bounds: Bounds,
    of_runs: Sequence[Float[np.ndarray, "_ C"]] = (),
) -> Estimate:
    """The mean of each column, with a 95 % interval over tasks (and runs).

    The tasks of a class are a sample of that class. With two finite bounds the interval is
    Wilson's, else Student's t. There is none where nothing varies (a single task, or the same
    return on all tasks) or where scores are infinite.

    Args:
        scores: scores of each task, averaged over runs if there are several.
        classes: class of each task, its stratum; None without classes. If any class has only one
            task, all tasks form one stratum, which makes the interval wider (collapsed strata,
            Cochran 1977, "Sampling Techniques", section 5A.12).
        bounds: lowest and highest possible score.
        of_runs: for each agent, the means of its runs over all tasks; a single run adds nothing.
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
    """The rows of each class; one stratum of all rows if a class has one row or classes is None."""
    names = np.asarray(classes or [""] * num_tasks)
    strata = [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]
    return strata if min(map(len, strata)) > 1 else [np.arange(num_tasks)]


def said_of_intervals(classes: Sequence[str] | None, num_tasks: int, *, bounded: str | None) -> str:
    """Description of the intervals that `estimate` gives these tasks.

    Args:
        bounded: name of the measure whose intervals are Wilson's, if there is one.
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
"""Variances that add up to the variance of a mean, with their degrees of freedom."""


def _wilson(
    value: Float[np.ndarray, " C"],
    strata: Sequence[Float[np.ndarray, "_ C"]],
    runs: Parts,
    bounds: Bounds,
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Wilson's score interval of the mean of bounded scores.

    Wilson 1927, JASA 22, 209-212; equation 4 of Brown, Cai and DasGupta 2001, Statistical Science
    16, 101-133. As for surveys (Korn and Graubard 1998, Survey Methodology 24, 193-201), the number
    of tasks is replaced by the effective number p (1 - p) / V, where V is the stratified variance
    of the mean. It equals the number of tasks if scores are 0 or 1 and there is one class, and is
    larger if classes differ or a score is a mean over episodes. The variance of a class is computed
    with one score at each bound added, so that a class that always succeeds is not treated as one
    that cannot fail.
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
    per_task = (
        quantile**2 * variance / (centre * (1 - centre))
    )  # squared quantile per effective task
    half = np.sqrt(per_task * (p * (1 - p) + per_task / 4))
    low, high = ((p + per_task / 2 + sign * half) / (1 + per_task) for sign in (-1, 1))
    # the interval contains the mean in spite of rounding
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
    """Student's t interval of the stratified mean, with degrees of freedom by Welch and
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
    """Variance of the rows; exactly 0 if all are equal."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (rows - rows[0]).var(0, ddof=1)


def _added(parts: Parts) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """The sum of variances, and the quantile of Student's t for its degrees of freedom
    (Satterthwaite 1946, Biometrics Bulletin 2, 110-114)."""
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
    """Percentile bootstrap interval of a statistic; each stratum is resampled separately.

    Whole rows are resampled, so the C columns of a task stay together. With few rows the interval
    covers too seldom, and with equal rows it has no width; see `iqm_estimate`.
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
    """The interquartile mean of each column, with a bootstrap interval where that is meaningful.

    That is for unbounded scores of at least `IQM_TASKS` tasks. Most successes are 0 or 1, and then
    so is the interquartile mean of every resample.
    """
    value = iqm(scores)
    low = high = np.full_like(value, math.nan)
    if bounds == REAL and len(scores) >= IQM_TASKS:
        strata = [scores[rows] for rows in strata_of(classes, len(scores))]
        low, high = bootstrap_interval(strata, iqm, rng=np.random.default_rng(seed))
        low, high = (np.where(low < high, bound, math.nan) for bound in (low, high))
    return Estimate(value=value.tolist(), low=_known(low), high=_known(high))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Statistics of one group of tasks (a class, or all of them)."""

    num_tasks: int
    experience: list[int]
    """Episodes of experience before each column of the curve."""
    mean: dict[str, Estimate]
    """Means by measure, as in `AdaptationCurve.scores`."""
    iqm: dict[str, Estimate]
    area_under_curve: dict[str, float]
    """Mean of the curve of means over its columns, by measure."""
    episodes_to_threshold: dict[str, int | None]
    """Episodes of experience until mean success reaches the threshold; None if it never does."""
    episodes_to_share: dict[str, dict[str, int | None]]
    """Episodes of experience until mean success reaches 50, 80 and 95 % of its final value, by
    measure of success; None if the final value is 0."""


def summarize(
    curve: AdaptationCurve, *, threshold: float, seed: int
) -> tuple[Summary, dict[str, Summary]]:
    """The summary of all tasks (stratified by class), and of each class.

    Args:
        seed: seed of the bootstrap.
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
    """Success at any step in the episodes after adaptation, of all tasks and of each class.

    A task's score is the share of its test episodes that succeeded; every task has equally many.
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
    """The experience before the first score that reaches the level; None if none does."""
    return next((k for k, v in zip(experience, scores, strict=True) if v >= level), None)
