"""Comparisons against rliable on the same scores; intervals, which differ from rliable's."""

import numpy as np
import pytest
from rliable import library, metrics

from metarl.evaluation.paired import (
    mean_difference,
    mean_over_runs,
    performance_profile,
    probability_of_improvement,
)
from metarl.evaluation.statistics import REAL, SHARE, estimate

TASKS = ["a", "a", "a", "b", "b"]


def scores(runs: int, *, seed: int, shift: float = 0.0) -> np.ndarray:
    """Scores with runs in rows and tasks in columns, rounded so that there are ties."""
    table = np.random.default_rng(seed).beta(0.7, 0.7, (runs, len(TASKS)))
    return np.round(np.clip(table + shift, 0, 1), 1)


def test_probability_of_improvement_equals_rliable() -> None:
    ours, theirs = scores(7, seed=0, shift=0.2), scores(5, seed=1)
    expected = metrics.probability_of_improvement(ours, theirs)
    (value,) = probability_of_improvement(ours, theirs, TASKS).value
    assert value == pytest.approx(expected, abs=1e-12)
    assert probability_of_improvement(ours, ours, TASKS).value == pytest.approx([0.5])


def test_profiles_equal_rliable() -> None:
    table, levels = scores(7, seed=0), np.linspace(0, 1, 21)
    expected, _ = library.create_performance_profile({"agent": table}, levels, reps=2)
    ours = performance_profile(table, levels, TASKS)
    np.testing.assert_allclose(ours.value, expected["agent"], atol=1e-12)


def test_no_comparison_is_certain_where_all_succeed_or_all_fail() -> None:
    """For one or several runs and tasks, success, its difference, the probability of improvement
    and each level of a profile have intervals of positive width."""
    for runs, tasks in ((1, 1), (1, 5), (3, 5)):
        classes = TASKS[:tasks]
        won, lost = np.ones((runs, tasks)), np.zeros((runs, tasks))
        for ours, theirs in ((won, won), (won, lost), (lost, lost)):
            for of in (
                mean_over_runs(ours[..., None], classes, bounds=SHARE),
                mean_difference(ours, theirs, classes, bounds=SHARE),
                probability_of_improvement(ours, theirs, classes),
                performance_profile(ours, np.array([0.0, 0.5, 1.0]), classes),
            ):
                for value, low, high in zip(of.value, of.low, of.high, strict=True):
                    assert low is not None and high is not None
                    assert low <= value <= high and high - low > 0.1


def test_returns_on_one_task_are_judged_by_its_runs_alone() -> None:
    """Runs of 1, 2 and 6: 3 ± 4.303 √(7 / 3); a single run has no interval."""
    runs = np.array([1.0, 2.0, 6.0])[:, None, None]
    of = mean_over_runs(runs, ["a"], bounds=REAL)
    assert of.low == pytest.approx([3 - 4.303 * (7 / 3) ** 0.5], abs=1e-2)
    assert mean_over_runs(runs[:1], ["a"], bounds=REAL).low == [None]


def test_one_run_is_judged_by_its_tasks_and_several_by_how_they_differ_too() -> None:
    table = scores(3, seed=0)[..., None]
    one = mean_over_runs(table[:1], TASKS, bounds=SHARE)
    assert one == estimate(table[0], TASKS, bounds=SHARE)
    expected = estimate(table.mean(0), TASKS, bounds=SHARE, of_runs=[table.mean(1)])
    assert mean_over_runs(table, TASKS, bounds=SHARE) == expected


def test_differences_are_paired_by_task_and_unpaired_by_run() -> None:
    ours, theirs = scores(1, seed=4), scores(1, seed=5)
    of = mean_difference(ours, theirs, TASKS, bounds=REAL)
    assert of == estimate((ours - theirs).T, TASKS, bounds=REAL)
    always = mean_difference(ours + 0.25, ours, TASKS, bounds=REAL)
    assert always.value == pytest.approx([0.25]) and always.low == [None], "nothing varies"
    better = np.stack([ours[0], ours[0] + 1])
    several = mean_difference(better, ours, TASKS, bounds=REAL)
    # two runs that differ by 1, on tasks that do not: 0.5 ± t(1) / 2, with t(1) 12.706
    assert several.low == pytest.approx([0.5 - 12.706 / 2], abs=1e-3)
