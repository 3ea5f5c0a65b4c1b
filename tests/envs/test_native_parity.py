"""The native Meta-World engine against the official environments, and against itself."""

import os

import numpy as np
import pytest

from envs.metaworld.native import NativeEnv
from envs.metaworld.tasks import TASK_CLASSES
from envs.metaworld.tasks.interface import compile_observe
from tests.envs.parity import compare, native_simulation, official_tasks

GOALS = int(os.environ.get("METARL_PARITY_GOALS", "1"))
"""Goals per task; with more than one, scrambled play is as long as scripted play."""
SCRAMBLED_HORIZON = 500 if GOALS > 1 else 250


@pytest.mark.filterwarnings("ignore:Constant")  # warnings of the scripted policies
@pytest.mark.parametrize("scrambled", [False, True], ids=["scripted", "scrambled"])
@pytest.mark.parametrize("env_name", TASK_CLASSES)
def test_same_as_official(env_name, scrambled):
    horizon = SCRAMBLED_HORIZON if scrambled else 500
    worst = compare(env_name, goals=GOALS, seed=len(env_name), horizon=horizon, scrambled=scrambled)
    assert worst.as_good(), worst


def _some_tasks(count):
    names = list(TASK_CLASSES)
    return [official_tasks(names[k % len(names)], seed=k, count=1)[0] for k in range(count)]


def _play(tasks, actions, *, num_threads, horizon=40):
    """Observations, rewards and success of all steps, (T, N, ...)."""
    env = NativeEnv(tasks, horizon=horizon, num_threads=num_threads)
    first, _ = env.reset()
    seen = []
    for action in actions:
        obs, reward, _, _, info = env.step(action)
        seen.append(np.column_stack([obs, info["final_obs"], reward, info["success"]]))
    env.close()
    return first, np.array(seen)


def test_same_bits_for_any_number_of_threads():
    tasks = _some_tasks(9)
    actions = np.random.default_rng(0).uniform(-1, 1, (100, 9, 4)).astype(np.float32)
    alone = _play(tasks, actions, num_threads=1)
    for num_threads in (2, 4):
        together = _play(tasks, actions, num_threads=num_threads)
        np.testing.assert_array_equal(alone[0], together[0])
        np.testing.assert_array_equal(alone[1], together[1])


def test_same_bits_in_any_batch():
    tasks = _some_tasks(7)
    actions = np.random.default_rng(1).uniform(-1, 1, (60, 7, 4)).astype(np.float32)
    _, whole = _play(tasks, actions, num_threads=2)
    for chosen in ([3], [6, 0, 3], [5, 5, 1]):
        picked = [tasks[k] for k in chosen]
        _, part = _play(picked, actions[:, chosen], num_threads=2)
        np.testing.assert_array_equal(part, whole[:, chosen])


def test_episodes_repeat_after_any_play():
    tasks = _some_tasks(5)
    rng = np.random.default_rng(2)
    actions = rng.uniform(-1, 1, (30, 5, 4)).astype(np.float32)
    env = NativeEnv(tasks, horizon=30, num_threads=2)
    first, _ = env.reset()
    episodes = []
    for _ in range(3):
        episodes.append([env.step(action) for action in actions])
        last_obs, _, _, truncated, info = episodes[-1][-1]
        assert truncated.all()
        np.testing.assert_array_equal(last_obs, first)
        assert not np.array_equal(info["final_obs"], first)
        for _ in range(7):  # unfinished play with other tasks
            env.step(rng.uniform(-1, 1, (5, 4)).astype(np.float32))
        np.testing.assert_array_equal(env.reset()[0], first)
    for episode in episodes[1:]:
        for now, before in zip(episode, episodes[0], strict=True):
            np.testing.assert_array_equal(now[1], before[1])
            np.testing.assert_array_equal(now[4]["final_obs"], before[4]["final_obs"])


def test_set_tasks_moves_a_slot_to_another_scene_at_the_next_reset():
    tasks = _some_tasks(5)
    actions = np.random.default_rng(3).uniform(-1, 1, (20, 5, 4)).astype(np.float32)
    _, expected = _play(tasks[::-1], actions, num_threads=1, horizon=20)
    env = NativeEnv(tasks, horizon=20, num_threads=1)
    first, _ = env.reset()
    env.set_tasks(tasks[::-1])
    for action in actions:
        obs, *_ = env.step(action)
    np.testing.assert_array_equal(obs, first)  # still the old tasks
    env.reset()
    for k, action in enumerate(actions):
        obs, reward, _, _, info = env.step(action)
        seen = np.column_stack([obs, info["final_obs"], reward, info["success"]])
        np.testing.assert_array_equal(seen, expected[k])


def test_bad_input_is_refused_by_name_and_steps_nothing():
    env = NativeEnv(_some_tasks(3), num_threads=1)
    good = np.zeros((3, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="reset"):
        env.step(good)
    env.reset()
    env.step(good)
    before = native_simulation(env, 1).qpos.copy()
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"slot 1 \(.*-v3\), step 2"):
        env.step(bad)
    with pytest.raises(ValueError, match="shape"):
        env.step(good[:2])
    with pytest.raises(ValueError, match="floats"):
        env.step(good.astype(np.int64))
    np.testing.assert_array_equal(native_simulation(env, 1).qpos, before)


def test_an_unstable_slot_rests_with_its_last_observation_and_reward_zero():
    env = NativeEnv(_some_tasks(3), horizon=10, num_threads=1)
    first, _ = env.reset()
    actions = np.zeros((3, 4), dtype=np.float32)
    stable, *_ = env.step(actions)
    native_simulation(env, 1).qpos[0] = np.nan
    with pytest.warns(RuntimeWarning, match=r"slot 1 \(.*-v3\), step 2"):
        obs, reward, _, _, info = env.step(actions)
    np.testing.assert_array_equal(obs[1], stable[1])
    assert reward[1] == 0.0 and info["success"][1] == 0.0
    assert reward[0] > 0.0
    for _ in range(8):
        obs, _, _, truncated, _ = env.step(actions)
    assert truncated.all()
    np.testing.assert_array_equal(obs, first)
    again, *_ = env.step(actions)
    np.testing.assert_array_equal(again, stable)


@pytest.mark.parametrize("env_name", ["stick-push-v3", "dial-turn-v3"])
def test_symbols_of_made_functions_carry_the_task(env_name, tmp_path, monkeypatch):
    """Otherwise code cached by another process could replace code compiled here."""
    monkeypatch.setenv("METARL_CACHE", str(tmp_path))  # code from a cache has no text
    library = compile_observe(TASK_CLASSES[env_name])._library.get_llvm_str()
    made = [line for line in library.splitlines() if line.startswith("define")]
    made = [line for line in made if "observe" in line or "locals" in line]
    assert made
    assert all(env_name.replace("-", "_2d") in line for line in made)
