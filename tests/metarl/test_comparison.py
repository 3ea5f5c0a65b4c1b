"""Comparisons against rliable on the same scores, and what it does not have by hand."""

import numpy as np
import pytest
from rliable import library, metrics

from metarl.comparison import (
    interval,
    mean_difference,
    performance_profile,
    probability_of_improvement,
    resample,
)

TASKS = ["a", "a", "a", "b", "b"]


def scores(runs: int, *, seed: int, shift: float = 0.0) -> np.ndarray:
    """Runs in rows, tasks in columns; coarse, so that there are ties."""
    table = np.random.default_rng(seed).beta(0.7, 0.7, (runs, len(TASKS)))
    return np.round(np.clip(table + shift, 0, 1), 1)


def test_probability_of_improvement_equals_rliable() -> None:
    ours, theirs = scores(7, seed=0, shift=0.2), scores(5, seed=1)
    expected = metrics.probability_of_improvement(ours, theirs)
    assert probability_of_improvement(ours, theirs) == pytest.approx(expected, abs=1e-12)
    assert probability_of_improvement(ours, ours) == pytest.approx(0.5)


def test_profiles_equal_rliable() -> None:
    table, levels = scores(7, seed=0), np.linspace(0, 1, 21)
    expected, _ = library.create_performance_profile({"agent": table}, levels, reps=2)
    np.testing.assert_array_equal(performance_profile(table, levels), expected["agent"])


def test_intervals_over_runs_equal_rliable() -> None:
    """Both ends are quantiles of random draws: they agree to a few percent of the width."""
    ours, theirs = scores(9, seed=0, shift=0.2), scores(8, seed=1)
    low, high = interval(
        probability_of_improvement, ours, theirs, classes=TASKS,
        rng=np.random.default_rng(3), over="runs", resamples=10_000,
    )  # fmt: skip
    _, intervals = library.get_interval_estimates(
        {"pair": (ours, theirs)},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        reps=1_000, random_state=np.random.RandomState(2),
    )  # fmt: skip
    np.testing.assert_allclose([low, high], intervals["pair"][:, 0], atol=0.1 * float(high - low))
    levels = np.array([0.25, 0.5, 0.75])
    low, high = interval(
        lambda table: performance_profile(table, levels), ours, classes=TASKS,
        rng=np.random.default_rng(3), over="runs", resamples=10_000,
    )  # fmt: skip
    _, bands = library.create_performance_profile({"agent": ours}, levels, reps=10_000)
    np.testing.assert_allclose([low, high], bands["agent"], atol=0.03)


def test_tasks_are_resampled_together_and_within_their_class() -> None:
    ours = np.arange(10.0).reshape(2, 5)
    theirs = ours + 100
    for over in ("tasks", "both"):
        drawn, other = resample(
            (ours, theirs), 20, classes=TASKS, rng=np.random.default_rng(0), over=over
        )
        tasks = drawn[:, :1] % 5
        assert (drawn % 5 == tasks).all() and ((other - 100) % 5 == tasks).all()
        assert (tasks[..., :3] < 3).all() and (tasks[..., 3:] >= 3).all()
        assert len(np.unique(tasks, axis=0)) > 10
        if over == "tasks":
            assert (drawn[:, 0] < 5).all() and (drawn[:, 1] >= 5).all(), "runs stay"
        else:
            runs = drawn // 5
            assert (runs == runs[..., :1]).all() and len(np.unique(runs)) == 2, "whole runs"


def test_paired_differences_have_no_width_where_one_is_better_everywhere_by_as_much() -> None:
    ours = scores(1, seed=4)
    low, high = interval(
        mean_difference, ours + 0.25, ours, classes=TASKS,
        rng=np.random.default_rng(0), over="both",
    )  # fmt: skip
    assert low == pytest.approx(0.25) and high == pytest.approx(0.25)
