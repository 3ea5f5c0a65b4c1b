"""Stable-Baselines3 sees the same environment and learns on it."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize

from envs.metaworld import MetaWorld
from envs.navigation import STEP_LENGTH, PointEnv, PointTask
from envs.stable_baselines3 import SB3VecEnv

GOALS = np.array([[0.1, 0.0], [0.3, -0.2], [-0.5, 0.4]])


def points(goals: np.ndarray = GOALS, *, horizon: int = 4) -> PointEnv:
    return PointEnv([PointTask(goal) for goal in goals], horizon=horizon)


def test_it_shows_what_the_wrapped_environment_shows() -> None:
    """Two and a half episodes, against a twin that is stepped directly."""
    env, twin = SB3VecEnv(points()), points()
    assert env.observation_space == twin.single_observation_space
    assert env.action_space == twin.single_action_space
    np.testing.assert_array_equal(env.reset(), twin.reset()[0])
    rng = np.random.default_rng(0)
    returns, succeeded = np.zeros(3), np.zeros(3, bool)
    for step in range(1, 11):
        actions = rng.uniform(-STEP_LENGTH, STEP_LENGTH, (3, 2)).astype(np.float32)
        if step % 4 == 1:
            actions[0] = [0.1, 0.0]  # onto its goal: a success that does not last to the end
        obs, rewards, ended, infos = env.step(actions)
        true_obs, true_rewards, _, truncated, info = twin.step(actions)
        np.testing.assert_array_equal(obs, true_obs)
        np.testing.assert_array_equal(rewards, true_rewards)
        np.testing.assert_array_equal(ended, truncated)
        returns += true_rewards
        succeeded |= info["success"]
        if step % 4:
            assert infos == [{}, {}, {}]
            continue
        assert not obs.any()  # the observation of the new episode
        for slot in range(3):
            last = infos[slot]["terminal_observation"]
            np.testing.assert_array_equal(last, info["final_obs"][slot])
            assert last.any()
            assert infos[slot]["TimeLimit.truncated"] is True
            assert infos[slot]["episode"] == {"r": pytest.approx(returns[slot]), "l": 4}
            assert infos[slot]["is_success"] == succeeded[slot]
        assert succeeded[0] and not succeeded[2]
        returns, succeeded = np.zeros(3), np.zeros(3, bool)


def test_a_reset_forgets_the_episode_that_was_cut_short() -> None:
    env = SB3VecEnv(points())
    env.reset()
    env.step(np.zeros((3, 2), np.float32))
    env.reset()
    for _ in range(4):
        infos = env.step(np.zeros((3, 2), np.float32))[3]
    assert [info["episode"]["l"] for info in infos] == [4, 4, 4]


def test_attributes_and_methods_are_those_of_the_one_environment() -> None:
    env = SB3VecEnv(points())
    assert env.get_attr("horizon") == [4, 4, 4]
    assert env.get_attr("horizon", indices=1) == [4]
    assert not env.has_attr("no_such_thing")
    env.env_method("set_tasks", [PointTask(goal) for goal in -GOALS])
    env.reset()
    rewards = env.step(np.zeros((3, 2), np.float32))[1]
    np.testing.assert_allclose(rewards, -np.linalg.norm(GOALS, axis=1))
    env.set_attr("horizon", 1)
    env.reset()
    assert env.step(np.zeros((3, 2), np.float32))[2].all()
    with pytest.raises(ValueError, match="3 slots share one"):
        env.set_attr("horizon", 2, indices=[0])
    with pytest.raises(ValueError, match="3 slots share one"):
        env.env_method("reset", indices=0)
    assert env.env_is_wrapped(Monitor) == [False] * 3


def test_attributes_of_slots_are_found_and_options_refused() -> None:
    env = SB3VecEnv(points())
    assert env.get_attr("task", indices=[2, 0]) == [env.env.next_tasks[2], env.env.next_tasks[0]]
    assert env.get_attr("action_space") == [env.action_space] * 3
    assert env.render_mode is None
    with pytest.raises(ValueError, match="nothing is drawn here"):
        env.get_images()
    env.set_options({"reset_mask": [True, False, False]})
    with pytest.raises(ValueError, match="no options for reset"):
        env.reset()
    env.reset()


def test_wrappers_of_stable_baselines_train_and_evaluate() -> None:
    env = VecFrameStack(VecNormalize(VecMonitor(SB3VecEnv(points()))), n_stack=2)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu", seed=0)
    model.learn(24)
    assert {episode["l"] for episode in model.ep_info_buffer} == {4}
    returns, lengths = evaluate_policy(
        model, env, n_eval_episodes=3, warn=False, return_episode_rewards=True
    )
    assert lengths == [4, 4, 4] and np.isfinite(returns).all()


def test_a_seed_reaches_the_next_reset_only() -> None:
    class Spy(PointEnv):
        seeds: tuple = ()

        def reset(self, *, seed=None, options=None):
            self.seeds += (seed,)
            return super().reset(seed=seed, options=options)

    spy = Spy([PointTask(goal) for goal in GOALS], horizon=4)
    env = SB3VecEnv(spy)
    assert env.seed(7) == [7, 7, 7]
    env.reset()
    env.reset()
    assert spy.seeds == (7, None)


def test_ppo_learns_through_it() -> None:
    """One goal, which the policy can memorise: it must reach it and report success."""
    torch.set_num_threads(1)
    env = SB3VecEnv(points(np.tile([0.4, -0.3], (8, 1)), horizon=16))
    model = PPO(
        "MlpPolicy", env, n_steps=32, batch_size=64, learning_rate=1e-3, gamma=0.9, seed=0,
        policy_kwargs={"log_std_init": -2.5, "net_arch": [32]}, device="cpu",
    )  # fmt: skip
    before, _ = evaluate_policy(model, env, n_eval_episodes=8, warn=False)
    model.learn(8_000)
    after, _ = evaluate_policy(model, env, n_eval_episodes=8, warn=False)
    # Staying at the origin gives -0.5 a step, so -8; full speed along both axes gives
    # -(|(.3, .2)| + |(.2, .1)| + |(.1, 0)|) = -0.68.
    assert before < -7
    assert after > -1.2
    assert np.mean([episode["r"] for episode in model.ep_info_buffer]) > before + 2
    assert np.mean(model.ep_success_buffer) > 0.9


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_algorithms_run_on_meta_world(algorithm) -> None:
    """On-policy and off-policy; SAC's buffer takes the true last observation, not the next one."""
    wrapped = MetaWorld("ML1-reach-v3", horizon=8).make_env(2, num_threads=1)
    few = {"n_steps": 8, "batch_size": 8} if algorithm is PPO else {"learning_starts": 8}
    model = algorithm("MlpPolicy", SB3VecEnv(wrapped), device="cpu", **few)
    model.learn(32)
    assert [episode["l"] for episode in model.ep_info_buffer] == [8, 8, 8, 8]
    assert len(model.ep_success_buffer) == 4
    wrapped.close()
