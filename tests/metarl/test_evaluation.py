"""Curves by hand, aggregates and intervals against rliable."""

import numpy as np
import pytest
import torch
from rliable import library, metrics

from metarl.evaluation import (
    adaptation_curve,
    bootstrap_interval,
    iqm,
    mean,
    success_after,
    summarize,
)
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
        final_obs=torch.zeros(slots, 1),
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
    """Two tasks with three slots each, an episode of two steps in each of two rollouts."""
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
    """Goals in rows, classes in columns, as rliable has runs and tasks."""
    return np.random.default_rng(0).beta(0.5, 0.5, (goals, classes))


def test_mean_and_iqm_equal_rliable() -> None:
    table = scores(goals=13, classes=5)
    pooled = table.reshape(-1, 1)
    assert mean(pooled)[0] == pytest.approx(metrics.aggregate_mean(table), abs=1e-12)
    assert iqm(pooled)[0] == pytest.approx(metrics.aggregate_iqm(table), abs=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(mean, metrics.aggregate_mean), (iqm, metrics.aggregate_iqm)]
)
def test_intervals_equal_rliable(ours, theirs) -> None:
    table = scores(goals=13, classes=5)
    low, high = bootstrap_interval(
        [column[:, None] for column in table.T], ours,
        rng=np.random.default_rng(1), resamples=20_000,
    )  # fmt: skip
    _, intervals = library.get_interval_estimates(
        {"agent": table}, lambda x: np.array([theirs(x)]), reps=20_000,
        random_state=np.random.RandomState(2),
    )  # fmt: skip
    # Both ends are quantiles of 20,000 random draws: they agree to a few percent of the width.
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
    overall, by_class = success_after(curve_of(flags, ["a", "b"]), adaptation_episodes=2, seed=0)
    assert by_class["a"].value == [pytest.approx(1 / 3)]
    assert overall.value == [pytest.approx(2 / 3)]


def test_intervals_cover_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        drawn = (rng.random((40, 1)) < 0.3).astype(float)
        low, high = bootstrap_interval([drawn], mean, rng=rng, resamples=300)
        covered += bool(low[0] <= 0.3 <= high[0])
    # 95 % of 200 is 190, give or take 3; the percentile bootstrap of 40 draws covers a bit less.
    assert 180 <= covered <= 199
