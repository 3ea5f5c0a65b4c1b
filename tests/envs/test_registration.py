"""Names registered with Gymnasium, and the environments that it makes."""

import subprocess
import sys
import warnings
from collections import Counter

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import (
    ClipReward,
    RecordEpisodeStatistics,
)
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs.metaworld import MetaWorld
from envs.metaworld.native import NativeEnv
from envs.metaworld.reference import ReferenceEnv
from envs.registration import BENCHMARKS, SPLITS
from metarl.errors import UserError
from metarl.tasks import TaskSet, fingerprint

SEED = 5


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_name_gives_tasks_of_its_split(benchmark: str, split: str) -> None:
    keywords = {"env_name": "reach-v3"} if benchmark == "ML1" else {}
    name = f"metarl/{benchmark}-{split}-v0"
    env = gymnasium.make_vec(name, num_envs=12, seed=SEED, **keywords)
    built = MetaWorld("ML1-reach-v3" if benchmark == "ML1" else benchmark, seed=SEED)
    tasks = {"train": built.train, "test": built.test}
    other = "test" if split == "train" else "train"
    assert isinstance(env, NativeEnv)
    assert env.num_envs == len(env.next_tasks) == 12
    played = TaskSet(env.next_tasks)
    assert played.shared_with(tasks[split]) == list(env.next_tasks)
    assert played.shared_with(tasks[other]) == []
    counts = Counter(task.env_name for task in env.next_tasks)
    shares = [counts[env_name] for env_name in tasks[split].classes]
    assert max(shares) - min(shares) <= 1
    env.close()


def drawn(**keywords) -> list[bytes]:
    env = gymnasium.make_vec("metarl/ML1-train-v0", num_envs=4, env_name="reach-v3", **keywords)
    return [fingerprint(task) for task in env.unwrapped.next_tasks]


def test_the_seed_draws_the_tasks() -> None:
    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    few = MetaWorld("ML1-reach-v3", num_goals=2).train
    assert set(drawn(num_goals=2)) == {fingerprint(task) for task in few}


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_environment_is_as_asked(num_envs: int) -> None:
    env = gymnasium.make_vec(
        "metarl/ML1-test-v0", num_envs=num_envs, env_name="push-v3", horizon=2, num_threads=1
    )
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert (env.unwrapped.num_threads, env.unwrapped.horizon) == (1, 2)
    obs, _ = env.reset(seed=3)
    assert obs.shape == (num_envs, 39)
    actions = np.zeros((num_envs, 4), np.float32)
    assert not env.step(actions)[3].any()
    assert env.step(actions)[3].all()
    env.close()


def test_the_reference_engine_has_v1_rewards_and_the_native_one_refuses_them() -> None:
    keywords = {"num_envs": 1, "env_name": "reach-v3", "reward_version": "v1"}
    env = gymnasium.make_vec("metarl/ML1-train-v0", engine="reference", **keywords)
    assert isinstance(env, ReferenceEnv)
    env.close()
    with pytest.raises(UserError, match="use engine 'reference'"):
        gymnasium.make_vec("metarl/ML1-train-v0", **keywords)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("metarl/ML1-train-v0", {}, "needs the name of its class"),
        ("metarl/ML1-train-v0", {"env_name": "reech-v3"}, "Did you mean ML1-reach-v3"),
        ("metarl/ML10-train-v0", {"env_name": "reach-v3"}, "has its own classes"),
    ],
)
def test_wrong_keywords_are_refused_in_words(name: str, keywords: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gymnasium.make_vec(name, num_envs=1, **keywords)


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="max_episode_steps"):
        gymnasium.make_vec("metarl/ML10-train-v0", num_envs=1, max_episode_steps=7)


def test_gymnasiums_own_wrappers_work() -> None:
    """Two episodes: each has its own statistics, although a slot restarts in the same step."""
    keywords = {"num_envs": 2, "env_name": "reach-v3", "horizon": 3}
    plain = gymnasium.make_vec("metarl/ML1-train-v0", **keywords)
    wrapped = gymnasium.make_vec("metarl/ML1-train-v0", **keywords)
    wrapped = ClipReward(RecordEpisodeStatistics(wrapped), max_reward=0.5)
    plain.reset(seed=0)
    wrapped.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 2, 4)).astype(np.float32)
    returns = np.zeros(2)
    for step, action in enumerate(actions, 1):
        reward = plain.step(action)[1]
        _, clipped, _, truncated, info = wrapped.step(action)
        np.testing.assert_array_equal(clipped, np.minimum(reward, 0.5))
        returns += reward
        if step % 3 == 0:
            assert truncated.all()
            assert (info["episode"]["l"] == 3).all()
            np.testing.assert_allclose(info["episode"]["r"], returns)
            returns = np.zeros(2)


def test_one_environment_passes_gymnasiums_and_stable_baselines_checkers() -> None:
    name, keywords = "metarl/ML1-train-v0", {"env_name": "reach-v3", "horizon": 20}
    made = gymnasium.make(name, **keywords)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*Box observation space"
        )  # of the official bounds
        warnings.filterwarnings("error", message=".*deterministic|.*not within")
        check_env(made.unwrapped, skip_render_check=True)
        sb3_check_env(made)
    made.close()


def test_one_environment_plays_as_a_slot_does_and_wants_a_reset_at_the_end() -> None:
    name, keywords = "metarl/ML1-test-v0", {"env_name": "push-v3", "horizon": 3, "seed": SEED}
    env, slots = gymnasium.make(name, **keywords), gymnasium.make_vec(name, num_envs=1, **keywords)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, np.float32))
    for _ in range(2):
        np.testing.assert_array_equal(env.reset(seed=0)[0], slots.reset(seed=0)[0][0])
        for step in range(1, 4):
            action = env.action_space.sample()
            obs, reward, terminated, truncated, info = env.step(action)
            _, rewards, _, _, infos = slots.step(action[None])
            np.testing.assert_array_equal(obs, infos["final_obs"][0])  # not a new episode's
            assert (reward, terminated, truncated) == (rewards[0], False, step == 3)
            numbers = {key: infos[key][0] for key in ("success", "near_object", "unscaled_reward")}
            assert info.items() >= numbers.items()
        with pytest.raises(ResetNeeded, match="the episode has ended"):
            env.step(action)
    with pytest.raises(ValueError, match="reset knows no option 'low'"):
        env.reset(options={"low": 0})
    with pytest.raises(ValueError, match="shape"):
        env.reset(seed=0), env.step(np.zeros(3, np.float32))
    other = MetaWorld("ML1-push-v3", seed=SEED).train[0]
    env.unwrapped.set_task(other)
    env.reset()
    assert env.unwrapped.slots.tasks == (other,)
    env.close()
    slots.close()


def test_one_environment_is_refused_in_the_same_words() -> None:
    with pytest.raises(UserError, match="needs the name of its class"):
        gymnasium.make("metarl/ML1-train-v0")
    with pytest.raises(UserError, match=r"use gymnasium\.make_vec"):
        gymnasium.make("metarl/ML10-train-v0", engine="warp")
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(UserError, match="unknown render_mode 'human'; use 'rgb_array'"):
            make("metarl/ML1-train-v0", env_name="reach-v3", render_mode="human")


def test_importing_envs_is_cheap() -> None:
    code = (
        "import sys, envs, gymnasium; assert gymnasium.spec('metarl/ML45-test-v0');"
        "print(sorted({'metaworld', 'mujoco', 'numba', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_gymnasium_registers_the_names_itself() -> None:
    check = (
        "import gymnasium; env = gymnasium.make_vec('envs:metarl/ML1-train-v0', num_envs=2, "
        "env_name='reach-v3', num_threads=1); assert env.reset(seed=0)[0].shape == (2, 39)"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
