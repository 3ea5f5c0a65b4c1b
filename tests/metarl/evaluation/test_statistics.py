"""Curves by hand, aggregates against rliable, intervals against SciPy and by their coverage."""

import math

import numpy as np
import pytest
import torch
from rliable import library, metrics
from scipy import stats

from metarl.evaluation.statistics import (
    IQM_TASKS,
    REAL,
    SHARE,
    Estimate,
    bootstrap_interval,
    estimate,
    iqm,
    iqm_estimate,
    mean,
    said_of_intervals,
    success_after,
    summarize,
)
from metarl.rollout.curve import adaptation_curve
from metarl.types import AdaptationCurve, Rollout, TimeStep


def rollout(reward: list[list[float]], success: list[list[int]], episode_end: list[int]) -> Rollout:
    slots, length = len(reward), len(reward[0])
    return Rollout(
        seen=TimeStep(
            obs=torch.zeros(slots, length, 1),
            prev_action=torch.zeros(slots, length, 1),
            prev_reward=torch.zeros(slots, length),
            episode_start=torch.zeros(slots, length, dtype=torch.bool),
        ),
        action=torch.zeros(slots, length, 1),
        log_prob=torch.zeros(slots, length),
        reward=torch.tensor(reward, dtype=torch.float32),
        episode_end=torch.tensor([episode_end] * slots).bool(),
        success=torch.tensor(success).bool(),
        final_obs=torch.zeros(slots, 1, 1),
    )


def test_the_curve_counts_each_episode_by_itself() -> None:
    trial = rollout(
        reward=[[1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60]],
        success=[[0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0]],
        episode_end=[0, 0, 1, 0, 0, 1],
    )
    curve = adaptation_curve([trial], ["a", "b"])
    assert curve.scores["return"].tolist() == [[6, 15], [60, 150]]
    assert curve.experience == [0, 1]
    assert curve.scores["success_any"].tolist() == [[1, 1], [0, 1]]
    assert curve.scores["success_last"].tolist() == [[0, 1], [0, 0]]


def test_episodes_side_by_side_are_one_column_and_rollouts_are_several() -> None:
    """Two tasks with three slots each; two rollouts with one episode of two steps each."""
    before = rollout(
        reward=[[1, 1], [2, 2], [3, 3], [10, 10], [20, 20], [30, 30]],
        success=[[0, 1], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]],
        episode_end=[0, 1],
    )
    after = rollout(
        reward=[[2, 2], [3, 3], [4, 4], [20, 20], [30, 30], [40, 40]],
        success=[[1, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 1]],
        episode_end=[0, 1],
    )
    curve = adaptation_curve([before, after], ["a", "b"], slots_per_task=3)
    assert curve.experience == [0, 3]
    assert curve.scores["return"].tolist() == [[4, 6], [40, 60]]
    torch.testing.assert_close(
        curve.scores["success_any"] * 3, torch.tensor([[1.0, 3], [0, 1]]).double()
    )
    torch.testing.assert_close(
        curve.scores["success_last"] * 3, torch.tensor([[1.0, 1], [0, 1]]).double()
    )


def test_a_trial_that_stops_inside_an_episode_is_refused() -> None:
    part = rollout(reward=[[1, 2, 3]], success=[[0, 0, 0]], episode_end=[0, 1, 0])
    with pytest.raises(ValueError, match="end"):
        adaptation_curve([part], ["a"])


def scores(goals: int, classes: int) -> np.ndarray:
    """Scores with goals in rows and classes in columns, like rliable's runs and tasks."""
    return np.random.default_rng(0).beta(0.5, 0.5, (goals, classes))


def test_mean_and_iqm_equal_rliable() -> None:
    table = scores(goals=13, classes=5)
    pooled = table.reshape(-1, 1)
    assert mean(pooled)[0] == pytest.approx(metrics.aggregate_mean(table), abs=1e-12)
    assert iqm(pooled)[0] == pytest.approx(metrics.aggregate_iqm(table), abs=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(mean, metrics.aggregate_mean), (iqm, metrics.aggregate_iqm)]
)
def test_bootstrap_intervals_equal_rliable(ours, theirs) -> None:
    table = scores(goals=13, classes=5)
    low, high = bootstrap_interval(
        [column[:, None] for column in table.T], ours,
        rng=np.random.default_rng(1), resamples=20_000,
    )  # fmt: skip
    _, intervals = library.get_interval_estimates(
        {"agent": table}, lambda x: np.array([theirs(x)]), reps=20_000,
        random_state=np.random.RandomState(2),
    )  # fmt: skip
    # Both ends are quantiles of 20,000 random draws, so they agree to a few percent of the width.
    width = float(high[0] - low[0])
    np.testing.assert_allclose([low[0], high[0]], intervals["agent"][:, 0], atol=0.04 * width)


def curve_of(success: np.ndarray, names: list[str]) -> AdaptationCurve:
    flags = torch.tensor(success).double()
    columns = list(range(flags.shape[1]))
    return AdaptationCurve(
        env_names=names,
        experience=columns,
        scores={measure: flags for measure in ("return", "success_any", "success_last")},
    )


def test_summary_by_hand() -> None:
    curve = curve_of(np.array([[0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 1, 1]]), ["a", "a", "b", "b"])
    overall, by_class = summarize(curve, threshold=0.5, seed=0)
    assert overall.mean["success_any"].value == [0.0, 0.5, 1.0]
    assert overall.area_under_curve["success_any"] == pytest.approx(0.5)
    assert overall.episodes_to_threshold["success_any"] == 1
    assert overall.num_tasks == 4
    assert by_class["b"].num_tasks == 2
    never = summarize(curve_of(np.zeros((2, 2)), ["a", "a"]), threshold=0.5, seed=0)[0]
    assert never.episodes_to_threshold["success_any"] is None


def test_success_after_adaptation_leaves_adaptation_out() -> None:
    flags = np.array([[1, 1, 0, 0, 1], [1, 1, 1, 1, 1]])
    overall, by_class = success_after(curve_of(flags, ["a", "b"]), adaptation_episodes=2)
    assert by_class["a"].value == [pytest.approx(1 / 3)]
    assert overall.value == [pytest.approx(2 / 3)]


def won(successes: int, tasks: int) -> np.ndarray:
    """Scores of one episode per task."""
    return (np.arange(tasks)[:, None] < successes).astype(float)


def ends(of: Estimate) -> tuple[float, float]:
    """Ends of the interval of the first column, which must exist."""
    assert of.low[0] is not None and of.high[0] is not None
    return of.low[0], of.high[0]


@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 50])
def test_success_of_one_class_has_the_interval_that_wilson_gave(tasks: int) -> None:
    for successes in range(tasks + 1):
        expected = stats.binomtest(successes, tasks).proportion_ci(method="wilson")
        low, high = ends(estimate(won(successes, tasks), bounds=SHARE))
        assert (low, high) == pytest.approx(tuple(expected), abs=1e-12)
        assert 0 <= low <= successes / tasks <= high <= 1


def test_success_by_hand() -> None:
    """z² is 3.8415. 3 of 5: (0.6 + 0.38415 ± 1.96 √(0.048 + 0.038415)) / 1.7683. 50 of 50: the
    lower end is 1 / (1 + z² / 50)."""
    assert ends(estimate(won(3, 5), bounds=SHARE)) == pytest.approx((0.231, 0.882), abs=5e-4)
    assert ends(estimate(won(50, 50), bounds=SHARE)) == pytest.approx((0.929, 1.0), abs=5e-4)


def test_a_class_that_has_one_task_makes_one_stratum_of_all() -> None:
    five = estimate(won(3, 5), ["a", "b", "c", "d", "e"], bounds=SHARE)
    assert five == estimate(won(3, 5), bounds=SHARE)
    returns = np.array([[1.0], [2.0], [6.0]])
    assert estimate(returns, ["a", "a", "b"], bounds=REAL) == estimate(returns, bounds=REAL)


def test_classes_that_differ_are_strata() -> None:
    """Two classes of ten tasks, all won and all lost. With a success and a failure added, means are
    11/12 and 1/12 and variances 11/144, so V = (11/144) / 20. The overall mean is 1/2, so there
    are (1/4) / V = 65.45 effective tasks, not 20."""
    classes = ["a"] * 10 + ["b"] * 10
    expected = stats.norm.ppf(0.975) * math.sqrt(0.25 / (65.4545 + stats.norm.ppf(0.975) ** 2))
    low, high = ends(estimate(won(10, 20), classes, bounds=SHARE))
    assert (low, high) == pytest.approx((0.5 - expected, 0.5 + expected), abs=1e-6)


def test_episodes_side_by_side_tell_more_than_one_but_nothing_is_certain() -> None:
    """Ten tasks at 0.4 and 0.6 in turn: V = (Σ (x - 1/2)² + 1/2) / 12 / 10 = 0.6 / 120, which gives
    50 effective tasks."""
    shares = np.array([[0.4], [0.6]] * 5)
    half = stats.norm.ppf(0.975) * math.sqrt(0.25 / (50 + stats.norm.ppf(0.975) ** 2))
    low, high = ends(estimate(shares, bounds=SHARE))
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
    for all_alike in (0.0, 0.7, 1.0):
        low, high = ends(estimate(np.full((10, 1), all_alike), bounds=SHARE))
        assert high - low > 0.05


def test_returns_have_students_interval_and_none_where_nothing_varies() -> None:
    returns = np.random.default_rng(0).normal(size=(7, 1))
    expected = stats.ttest_1samp(returns[:, 0], 0).confidence_interval()
    assert ends(estimate(returns, bounds=REAL)) == pytest.approx(tuple(expected))
    nothing = Estimate(value=[3.3], low=[None], high=[None])
    assert estimate(np.full((1, 1), 3.3), bounds=REAL) == nothing
    assert estimate(np.full((2, 1), 3.3), bounds=REAL) == nothing
    diverged = estimate(np.array([[math.inf], [1.0], [2.0]]), bounds=REAL)
    assert diverged == Estimate(value=[math.inf], low=[None], high=[None])


def test_returns_of_classes_have_the_degrees_of_freedom_of_welch() -> None:
    """Two classes of equal size: half the sum of their means corresponds to the difference in
    Welch's test with one class negated."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 1)), rng.normal(3, 5, size=(6, 1))
    low, high = ends(estimate(np.concatenate([a, b]), ["a"] * 6 + ["b"] * 6, bounds=REAL))
    expected = stats.ttest_ind(a[:, 0], -b[:, 0], equal_var=False).confidence_interval()
    assert (2 * low, 2 * high) == pytest.approx(tuple(expected))


def test_runs_widen_an_interval_as_far_as_they_differ() -> None:
    """On a thousand equal tasks, the interval of returns is Student's interval of three runs."""
    runs = np.array([[1.0], [2.0], [6.0]])
    expected = stats.ttest_1samp(runs[:, 0], 0).confidence_interval()
    tasks = np.full((1000, 1), runs.mean())
    assert ends(estimate(tasks, bounds=REAL, of_runs=[runs])) == pytest.approx(tuple(expected))
    one = estimate(won(3, 5), bounds=SHARE, of_runs=[won(3, 5).mean(0, keepdims=True)])
    assert one == estimate(won(3, 5), bounds=SHARE), "of one run there is nothing to add"
    low, high = ends(estimate(won(45, 50), bounds=SHARE, of_runs=[np.array([[0.8], [1.0]])]))
    assert low < 0.5 and high > 0.98


def test_an_interquartile_mean_has_an_interval_where_the_bootstrap_is_one() -> None:
    returns = np.random.default_rng(0).normal(size=(IQM_TASKS, 1))
    of_ten = iqm_estimate(returns, None, bounds=REAL, seed=0)
    low, high = ends(of_ten)
    assert low < of_ten.value[0] < high
    for scores, bounds in (
        (returns[:-1], REAL), (np.ones((50, 1)), REAL), (won(49, 50), SHARE),
    ):  # fmt: skip
        of_these = iqm_estimate(scores, None, bounds=bounds, seed=0)
        assert of_these == Estimate(value=iqm(scores).tolist(), low=[None], high=[None])


def test_what_is_said_of_intervals_is_what_is_done() -> None:
    said = [
        said_of_intervals(classes, len(classes), bounded="success")
        for classes in (["a"], ["a", "a"], ["a", "a", "b", "b"], ["a", "a", "b"])
    ]
    assert said == [
        "95 % intervals over 1 task: Wilson's of success, else none",
        "95 % intervals over tasks: Wilson's of success, else Student's t",
        "95 % intervals over tasks within their class: Wilson's of success, else Student's t",
        "95 % intervals over tasks, not within classes, as some have only 1: Wilson's of success, "
        "else Student's t",
    ]


@pytest.mark.parametrize(("tasks", "classes"), [(1, 1), (3, 1), (10, 1), (50, 1), (5, 5), (20, 4)])
def test_intervals_cover_as_often_as_they_say(tasks: int, classes: int) -> None:
    """Coverage averaged over p; results/coverage has more settings, and single values of p."""
    rng, names = np.random.default_rng(0), [str(row % classes) for row in range(tasks)]
    covered, draws = [], 400
    for p in np.linspace(0, 1, 51):
        drawn = (rng.random((tasks, draws)) < p).astype(float)
        of = estimate(drawn, names, bounds=SHARE)
        covered.append(np.mean((np.array(of.low) <= p) & (p <= np.array(of.high))))
    assert 0.93 <= np.mean(covered) <= 0.97
    assert min(covered) > 0.75
