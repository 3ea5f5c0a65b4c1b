"""Coverage of the intervals of `metarl.evaluation.statistics.estimate`, compared with others.

python -m benchmarks.interval_coverage          three minutes on a core; a table in results/coverage

Scores are drawn many times from a distribution with a known mean. Coverage is the share of draws
whose 95 % interval contains that mean: averaged over the settings of a line (for success, p = 0,
0.02, … 1), and the smallest of them. No interval for a share of n successes that is not randomised
can have equal coverage for every p (Brown, Cai and DasGupta 2001, Statistical Science 16, 101-133,
section 2), so for small n the smallest is below 95 % if the average is 95 %.

The others: Wilson's with the effective number of tasks as estimated, with nothing added (Korn and
Graubard 1998, Survey Methodology 24, 193-201); stratified Wilson, weighted by size (Yan and Su
2010, Statistics in Biopharmaceutical Research 2, 329-335); the posterior with Jeffreys' prior on
each class, by Monte Carlo; and the percentile bootstrap within classes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import special, stats

from benchmarks import command_line
from metarl.evaluation.paired import mean_over_runs
from metarl.evaluation.record import count
from metarl.evaluation.statistics import (
    REAL,
    SHARE,
    Estimate,
    bootstrap_interval,
    estimate,
    iqm,
    mean,
)
from metarl.system.command_line import one_line_errors

RESULTS = Path(__file__).parents[1] / "results" / "coverage"
SEED = 0
RATES = np.linspace(0, 1, 51)
LOGITS = (-4, -2, 0, 1, 2, 3, 5, 7)
"""Log odds of success of an average run on an average task, for settings in which runs differ."""
Z = stats.norm.ppf(0.975)
Interval = Callable[[np.ndarray, list[str]], tuple[np.ndarray, np.ndarray]]
"""Function from scores (N, draws) and the classes of tasks to lower and upper ends."""


# -- intervals -------------------------------------------------------------------------------------


def ends(of: Estimate) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends; a missing interval becomes infinite and contains everything."""
    low, high = (np.array(bound, dtype=float) for bound in (of.low, of.high))
    return np.nan_to_num(low, nan=-np.inf), np.nan_to_num(high, nan=np.inf)


def ours(scores: np.ndarray, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval as reported."""
    return ends(estimate(scores, classes, bounds=SHARE))


def students(scores: np.ndarray, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval as reported."""
    return ends(estimate(scores, classes, bounds=REAL))


def wilson(p: np.ndarray, number: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's formula, for any number of tasks, also fractional."""
    half = z * np.sqrt(p * (1 - p) / number + z**2 / (4 * number**2))
    low, high = ((p + z**2 / (2 * number) + sign * half) / (1 + z**2 / number) for sign in (-1, 1))
    return np.minimum(low, p), np.maximum(high, p)


def by_class(scores: np.ndarray, classes: list[str]) -> np.ndarray:
    """Scores (H, n, draws) of H classes of equal size; classes with one task are pooled."""
    size = classes.count(classes[0])
    return scores.reshape(-1, size, scores.shape[1]) if size > 1 else scores[None]


def plain(scores: np.ndarray, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval with p (1 - p) / V + 1 tasks."""
    strata, p = by_class(scores, classes), scores.mean(0)
    if len(scores) == 1:
        return wilson(p, np.ones_like(p), np.full_like(p, Z))
    variance = strata.var(1, ddof=1).sum(0) / strata.shape[1] / len(strata) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        number = np.where(variance > 0, p * (1 - p) / variance + 1, len(scores))
    return wilson(p, number, np.full_like(p, Z))


def yan_su(scores: np.ndarray, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Means of the classes' Wilson intervals, with a smaller z that fits the mean."""
    strata = by_class(scores, classes)
    p, size = strata.mean(1), np.full(strata[:, 0].shape, float(strata.shape[1]))
    spread = np.sqrt(p * (1 - p) / size)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = Z * np.sqrt((spread**2).sum(0)) / spread.sum(0)
    z = np.where(spread.sum(0) > 0, z, Z / np.sqrt(len(strata)))
    low, high = wilson(p, size, np.broadcast_to(z, p.shape))
    return low.mean(0), high.mean(0)


def jeffreys(scores: np.ndarray, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of the mean of the classes' posteriors."""
    strata = by_class(scores, classes)
    won, size = strata.sum(1), strata.shape[1]
    rng = np.random.default_rng(SEED)
    drawn = rng.beta(won + 0.5, size - won + 0.5, (400, *won.shape)).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def bootstrap(
    scores: np.ndarray, classes: list[str], statistic: Callable[..., np.ndarray] = mean
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of `bootstrap_interval`, with fewer resamples."""
    rows = [np.flatnonzero(np.array(classes) == name) for name in dict.fromkeys(classes)]
    strata = [scores[group] for group in rows]
    return bootstrap_interval(strata, statistic, rng=np.random.default_rng(SEED), resamples=400)


# -- what is drawn ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Many draws of scores, with their true mean."""

    scores: np.ndarray
    """(N, draws), or (R, N, draws) of R runs."""
    truth: float


def rates(p: float, classes: int, differing: float) -> np.ndarray:
    """Success rates of classes, whose log odds are normal quantiles around those of p."""
    if p in (0, 1):
        return np.full(classes, p)
    spread = stats.norm.ppf((np.arange(classes) + 0.5) / classes)
    return special.expit(special.logit(p) + differing * spread)


def successes(p: float, *, classes: int, size: int, differing: float, draws: int) -> Drawn:
    """Draws of success in one episode of each task."""
    rng = np.random.default_rng([SEED, classes, size, round(100 * p)])
    each = rates(p, classes, differing)
    scores = rng.random((classes * size, draws)) < np.repeat(each, size)[:, None]
    return Drawn(scores.astype(float), float(each.mean()))


def shares(p: float, *, size: int, alike: float, draws: int) -> Drawn:
    """Draws of success shares of ten episodes per task; rates ~ Beta(alike p, alike (1 - p))."""
    rng = np.random.default_rng([SEED, size, round(100 * p)])
    own = np.full((size, draws), p)
    if 0 < p < 1 and np.isfinite(alike):
        own = rng.beta(alike * p, alike * (1 - p), (size, draws))
    return Drawn(rng.binomial(10, own) / 10, p)


RETURNS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "lognormal": lambda rng, shape: rng.lognormal(size=shape),
    "half succeed": lambda rng, shape: rng.normal(3 * (rng.random(shape) < 0.5), 0.1),
    "80 % succeed": lambda rng, shape: rng.normal(3 * (rng.random(shape) < 0.8), 0.1),
}


def returns(
    kind: str, *, classes: int, size: int, draws: int, of: Callable[..., np.ndarray] = mean
) -> Drawn:
    """Draws of returns of classes that differ in location and scale; truth from a million tasks."""
    place, scale = np.linspace(0, 5, classes), np.linspace(1, 3, classes)
    rng = np.random.default_rng([SEED, classes, size])
    scores = RETURNS[kind](rng, (classes * size, draws))
    scores = scores * np.repeat(scale, size)[:, None] + np.repeat(place, size)[:, None]
    many = RETURNS[kind](np.random.default_rng(SEED), (1_000_000, 1))
    truth = of(many)[0] if classes == 1 else (many.mean() * scale + place).mean()
    return Drawn(scores, float(truth))


def of_runs(logit: float, *, runs: int, size: int, differing: float, draws: int) -> Drawn:
    """Draws of success of several runs; both runs and tasks (by 2) differ in their log odds."""
    rng = np.random.default_rng([SEED, runs, size, round(100 + 10 * logit)])
    run = differing * rng.normal(size=(runs, 1, draws))
    task = 2 * rng.normal(size=(1, size, draws))
    scores = rng.random((runs, size, draws)) < special.expit(logit + run + task)
    spread = np.hypot(differing, 2) * stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    return Drawn(scores.astype(float), float(special.expit(logit + spread).mean()))


def failing_runs(succeeding: float, *, runs: int, size: int, draws: int) -> Drawn:
    """Draws of runs that either succeed on 95 % of all tasks or fail completely."""
    rng = np.random.default_rng([SEED, runs, size])
    good = rng.random((runs, 1, draws)) < succeeding
    scores = (rng.random((runs, size, draws)) < 0.95) & good
    return Drawn(scores.astype(float), 0.95 * succeeding)


# -- what is measured ------------------------------------------------------------------------------


def covered(interval: Interval, drawn: Drawn, classes: int) -> tuple[float, float]:
    """Coverage and mean width of an interval."""
    tasks = len(drawn.scores)
    names = [str(row * classes // tasks) for row in range(tasks)]
    low, high = interval(drawn.scores, names)
    rounding = 1e-9
    held = (low <= drawn.truth + rounding) & (drawn.truth - rounding <= high)
    finite = np.isfinite(high - low)
    return float(held.mean()), float(np.mean((high - low)[finite])) if finite.any() else np.inf


def line(
    name: str, intervals: dict[str, Interval], settings: Sequence[Drawn], classes: int = 1
) -> dict[str, object]:
    """Line of a table: average and smallest coverage and mean width of each interval."""
    measured = {}
    for label, interval in intervals.items():
        each = np.array([covered(interval, drawn, classes) for drawn in settings])
        measured[label] = [*np.round([each[:, 0].mean(), each[:, 0].min(), each[:, 1].mean()], 4)]
    return {"setting": name, "intervals": measured}


def over_runs(scores: np.ndarray, _: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The interval over tasks and runs, as in comparisons; scores are (R, N, draws)."""
    return ends(mean_over_runs(scores, [""] * scores.shape[1], bounds=SHARE))


def over_tasks(scores: np.ndarray, _: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The interval over tasks only, as if there were no other runs."""
    return ours(scores.mean(0), [""] * scores.shape[1])


def measure(draws: int) -> dict[str, list[dict[str, object]]]:
    """All tables."""
    successful: dict[str, Interval] = {
        "reported": ours, "plain": plain, "Yan and Su": yan_su, "Jeffreys": jeffreys,
        "bootstrap": bootstrap,
    }  # fmt: skip
    of_shares: dict[str, Interval] = {"reported": ours, "plain": plain, "bootstrap": bootstrap}
    real: dict[str, Interval] = {"reported": students, "bootstrap": bootstrap}
    fewer = max(draws // 4, 1)  # for lines with the slow bootstrap
    return {
        "Success, one class, one episode a task": [
            line(f"{count(n, 'task')}", successful,
                 [successes(p, classes=1, size=n, differing=0, draws=draws) for p in RATES])
            for n in (1, 2, 3, 5, 10, 20, 50)
        ],
        "Success, several classes": [
            line(f"{classes} × {count(n, 'task')}, {said}", successful,
                 [successes(p, classes=classes, size=n, differing=differing, draws=fewer)
                  for p in RATES[::2]], classes)
            for differing, said in ((0, "alike"), (1.5, "that differ"), (4, "that differ much"))
            for classes, n in ((5, 1), (10, 1), (5, 2), (10, 2), (5, 10), (5, 40))
        ],
        "Success, ten episodes a task, one class": [
            line(f"{count(n, 'task')}, {said}", of_shares,
                 [shares(p, size=n, alike=alike, draws=fewer) for p in RATES])
            for alike, said in ((np.inf, "alike"), (2, "that differ"), (0.1, "won or lost"))
            for n in (1, 2, 3, 5, 10, 20, 50)
        ],
        "Success of several runs, one class of 50 tasks": [
            line(f"{count(runs, 'run')}{', where runs differ' * (differing > 0)}",
                 {"reported": over_runs, "tasks alone": over_tasks},
                 [of_runs(x, runs=runs, size=50, differing=differing, draws=fewer)
                  for x in LOGITS])
            for differing in (0, 1) for runs in (1, 2, 3, 5, 10)
        ] + [
            line(f"{count(runs, 'run')}, of which a fifth fails outright",
                 {"reported": over_runs, "tasks alone": over_tasks},
                 [failing_runs(0.8, runs=runs, size=50, draws=fewer)])
            for runs in (1, 2, 3, 5, 10)
        ],
        "Return, mean": [
            line(f"{classes} × {count(n, 'task')}, {kind}", real,
                 [returns(kind, classes=classes, size=n, draws=draws)], classes)
            for kind in RETURNS
            for classes, n in ((1, 2), (1, 3), (1, 5), (1, 10), (1, 50), (5, 1), (5, 2), (5, 10))
        ],
        "Return, interquartile mean, by the bootstrap": [
            line(f"{count(n, 'task')}, {kind}",
                 {"bootstrap": lambda scores, names: bootstrap(scores, names, iqm)},
                 [returns(kind, classes=1, size=n, draws=draws, of=iqm)])
            for kind in RETURNS for n in (2, 3, 5, 10, 50)
        ],
    }  # fmt: skip


def tables(measured: dict[str, list[dict]]) -> str:
    """All tables as Markdown."""
    parts = [
        "# Coverage of 95 % intervals\n\nAverage over settings, the least of them, and the mean "
        "width of an interval. *reported* is what this toolkit reports; see the head of "
        "`benchmarks/interval_coverage.py`, which made this."
    ]
    for title, lines in measured.items():
        labels = list(lines[0]["intervals"])
        rows = [f"| | {' | '.join(labels)} |", "|---" * (len(labels) + 1) + "|"]
        for each in lines:
            cells = [
                f"{average:.1%}, least {least:.1%}, width {width:.2f}"
                for average, least, width in each["intervals"].values()
            ]
            rows.append(f"| {each['setting']} | {' | '.join(cells)} |")
        parts.append(f"## {title}\n\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--draws", type=int, default=1000, help="of each setting, at most")
    parser.add_argument("--output", type=Path, default=RESULTS, help="for the tables")
    options = parser.parse_args(arguments)
    measured = measure(options.draws)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "coverage.json").write_text(
        json.dumps(measured, indent=1) + "\n", encoding="utf-8"
    )
    (options.output / "coverage.md").write_text(tables(measured), encoding="utf-8")
    print(f"{tables(measured)}\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.interval_coverage"):
        main(sys.argv[1:])
