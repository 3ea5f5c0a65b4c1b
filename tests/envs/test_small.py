"""Small distributions against closed forms, and the contract of all slot environments."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from envs.bandit import BanditConfig
from envs.navigation import PointConfig, PointTask
from envs.tabular import TabularConfig, TabularTask, action_values, posterior_sampling

CONFIGS = [BanditConfig(num_train_tasks=20, num_test_tasks=20),
           BanditConfig(arms="gaussian", num_train_tasks=20, num_test_tasks=20),
           BanditConfig(arms="dependent", num_arms=2, num_train_tasks=20, num_test_tasks=20),
           BanditConfig(arms="informative", num_arms=11, num_train_tasks=20, num_test_tasks=20),
           TabularConfig(num_train_tasks=20, num_test_tasks=20),
           PointConfig(horizon=3, num_train_tasks=20, num_test_tasks=20),
           PointConfig(horizon=3, goals="semicircle", reward_radius=0.2,
                       num_train_tasks=20, num_test_tasks=20)]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: getattr(config, "arms", config.kind))
def test_train_and_test_share_no_task(config) -> None:
    distribution = config.build()
    assert len(distribution.train) == len(distribution.test) == 20
    assert distribution.train.shared_with(distribution.test) == []
    assert distribution.train.shared_with(distribution.train) == list(distribution.train)
    assert config.build().test.content_hash == distribution.test.content_hash


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: getattr(config, "arms", config.kind))
def test_the_vector_environment_keeps_its_contract(config) -> None:
    env = config.build().make_env(7)
    obs, _ = env.reset(seed=3)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    for step in range(1, 2 * env.horizon + 1):
        assert env.observation_space.contains(obs.astype(env.observation_space.dtype))
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert reward.shape == info["success"].shape == (7,)
        assert info["final_obs"].shape == obs.shape
        assert not terminated.any()
        assert (truncated == (step % env.horizon == 0)).all()


def test_wrong_numbers_of_tasks_are_refused() -> None:
    env = PointConfig(num_train_tasks=3).build().make_env(3)
    with pytest.raises(ValueError, match="2 tasks for 3 slots"):
        env.set_tasks([PointTask(np.zeros(2))] * 2)


def test_the_point_moves_as_far_as_it_may_and_is_paid_its_distance() -> None:
    env = PointConfig(horizon=3, num_train_tasks=2).build().make_env(2)
    env.set_tasks([PointTask(np.array([0.3, 0.0])), PointTask(np.array([0.0, 0.06]))])
    env.reset()
    obs, reward, *_, info = env.step(np.array([[5.0, 0.0], [0.0, 0.05]], np.float32))
    np.testing.assert_allclose(obs, [[0.1, 0.0], [0.0, 0.05]])
    np.testing.assert_allclose(reward, [-0.2, -0.01])
    assert info["success"].tolist() == [False, True]
    env.step(np.zeros((2, 2), np.float32))
    obs, _, _, truncated, info = env.step(np.zeros((2, 2), np.float32))
    assert truncated.all()
    np.testing.assert_allclose(obs, 0.0)
    np.testing.assert_allclose(info["final_obs"], [[0.1, 0.0], [0.0, 0.05]])


def test_sparse_navigation_pays_near_the_goal_alone() -> None:
    distribution = PointConfig(goals="semicircle", reward_radius=0.2, num_test_tasks=500).build()
    goals = np.stack([task.goal for task in distribution.test])
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1)
    angles = np.arctan2(goals[:, 1], goals[:, 0])
    assert angles.min() > 0  # the upper half
    assert np.abs(np.quantile(angles, (0.25, 0.5, 0.75)) / np.pi - (0.25, 0.5, 0.75)).max() < 0.1
    env = distribution.make_env(3)
    env.set_tasks([PointTask(np.array([0.0, y])) for y in (0.31, 0.25, 0.1)])
    env.reset()
    _, reward, *_, info = env.step(np.tile([[0.0, 0.1]], (3, 1)).astype(np.float32))
    np.testing.assert_allclose(reward, [0.0, 0.85, 1.0])
    assert info["success"].tolist() == [False, True, True]


# -- tabular MDPs ----------------------------------------------------------------------------------


def two_states() -> TabularTask:
    """Action 0 stays; action 1 changes the state with probability 3/4; only state 1 pays."""
    transitions = np.array([[[1.0, 0.0], [0.25, 0.75]], [[0.0, 1.0], [0.75, 0.25]]])
    return TabularTask(transitions, np.array([[0.0, 0.0], [2.0, 5.0]]))


def test_action_values_by_hand() -> None:
    task = two_states()
    values = action_values(task.transitions[None], task.mean_rewards[None], horizon=3)[0]
    # Last step: the rewards. One before: 0 or .75 * 5; 2 + 5 or 5 + .25 * 5.
    assert values[2].tolist() == [[0, 0], [2, 5]]
    assert values[1].tolist() == [[0, 3.75], [7, 6.25]]
    # First: 3.75, .25 * 3.75 + .75 * 7; 2 + 7, 5 + .75 * 3.75 + .25 * 7.
    np.testing.assert_allclose(values[0], [[3.75, 6.1875], [9, 9.5625]])


def test_mdps_move_and_pay_as_they_say() -> None:
    env = TabularConfig(num_train_tasks=4, num_states=2, num_actions=2, horizon=1).build()
    env = env.make_env(4000)
    env.set_tasks([two_states()] * 4000)
    obs, _ = env.reset(seed=0)
    assert (obs == [1, 0]).all()
    obs, reward, _, ended, info = env.step(np.ones(4000, dtype=int))
    # Standard errors are .0068 and .0158.
    assert info["final_obs"][:, 1].mean() == pytest.approx(0.75, abs=0.03)
    assert reward.mean() == pytest.approx(0, abs=0.06) and reward.std() == pytest.approx(
        1, abs=0.05
    )
    assert ended.all() and (obs == [1, 0]).all() and info["success"].all()


def test_the_optimal_policy_earns_its_value_and_posterior_sampling_comes_near_it() -> None:
    distribution = TabularConfig(num_train_tasks=2, num_test_tasks=400).build()
    tasks = list(distribution.test)
    transitions, rewards = (
        np.stack([getattr(task, name) for task in tasks])
        for name in ("transitions", "mean_rewards")
    )
    values = action_values(transitions, rewards, horizon=10)
    oracle = values[:, 0, 0].max(-1)
    env = distribution.make_env(400)
    env.set_tasks(tasks)
    obs, _ = env.reset(seed=0)
    earned = np.zeros(400)
    for step in range(10):
        obs, reward, _, _, info = env.step(values[np.arange(400), step, obs.argmax(1)].argmax(1))
        earned += reward
        assert info["success"].all()
    difference = earned - oracle
    assert abs(difference.mean()) < 4 * difference.std() / 20
    returns = posterior_sampling(tasks, episodes=60, horizon=10, seed=0)
    random = 10 * rewards.mean()
    assert random + 1 < returns[:, 5:10].mean() < returns[:, 50:].mean() < oracle.mean()
    assert returns[:, 50:].mean() > random + 0.7 * (oracle.mean() - random)
