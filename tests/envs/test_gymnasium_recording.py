"""Users' environments with MuJoCo physics: recordings equal the simulation, to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation

from envs.gymnasium_tasks import GymnasiumConfig, GymnasiumTasks
from metarl.errors import EnvironmentFailedError, UserError
from metarl.rollout.recording import Recorder
from metarl.rollout.scene import DRAWN_STATE
from metarl.system.seeding import slot_generator
from tests.envs.user_modules import HOPPER, WALK, write

HORIZON, SEED = 30, 5


def record(distribution: GymnasiumTasks, actions: np.ndarray) -> list[np.ndarray]:
    """The states of each episode of the training tasks."""
    env, kept = distribution.make_env(len(distribution.train)), []
    assert isinstance(env, Recorder)
    env.set_tasks(list(distribution.train))
    env.record(lambda states: kept.append(states.copy()))
    env.reset(seed=SEED)
    for action in actions:
        env.step(action)
    env.close()
    return kept


def alone(make_env: Callable[[], Any], actions: np.ndarray, *, slot: int, slots: int) -> np.ndarray:
    """Positions (2, S, nq) of two episodes in one environment without the toolkit; a fallen robot
    stays where it falls."""
    env = make_env()
    episodes, seed = [], int(slot_generator(SEED, slot).integers(2**31))
    for episode in range(2):
        env.reset(seed=None if episode else seed)
        places, fallen = [env.unwrapped.data.qpos.copy()], False
        for action in actions[episode * HORIZON : (episode + 1) * HORIZON, slot]:
            if not fallen:
                _, _, fallen, _, _ = env.step(action)
            places.append(env.unwrapped.data.qpos.copy())
        episodes.append(places)
    return np.array(episodes)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_recording_has_the_bits_that_were_played(tmp_path: Path, num_workers: int) -> None:
    module = write(tmp_path, HOPPER, name=f"hopper{num_workers}.py")
    distribution = GymnasiumConfig(module=module, num_workers=num_workers).build()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (2 * HORIZON, 3, 3)).astype(np.float32)
    kept = np.array(record(distribution, actions))
    assert kept.shape == (2, 3, HORIZON + 1, 6)
    for slot, task in enumerate(distribution.train):

        def make_env(task=task) -> Any:
            env = distribution.make_single()
            env.set_task(task.value)
            return env

        np.testing.assert_array_equal(kept[:, slot], alone(make_env, actions, slot=slot, slots=3))
    resting = (np.diff(kept, axis=2) == 0).all(3)
    assert resting.any() and not resting.all(), "some fall, and are recorded at rest"
    assert not np.array_equal(kept[0, :, 0], kept[1, :, 0]), "each episode starts anew"


def test_a_scene_shows_a_task_as_the_environment_has_it(tmp_path: Path) -> None:
    """Poses of bodies, the task's model and the time step are those of the environment."""
    distribution = GymnasiumConfig(module=write(tmp_path, HOPPER), num_workers=0).build()
    env, single = distribution.make_env(3), distribution.make_single()
    assert isinstance(env, Recorder)
    scene = env.scene(distribution.train[2])
    assert scene.model.body_mass[1] == 9.0
    assert scene.camera == "track"
    assert scene.dt == pytest.approx(single.unwrapped.dt)
    single.reset(seed=1)
    single.step(np.ones(3, np.float32))
    state = single.unwrapped.data.qpos.copy()
    mujoco.mj_kinematics(single.unwrapped.model, single.unwrapped.data)
    shown = mujoco.MjData(scene.model)
    scene.show(shown, state)
    assert scene.state_size == mujoco.mj_stateSize(scene.model, DRAWN_STATE) == len(state)
    for places in ("qpos", "xpos", "xquat", "geom_xpos"):
        np.testing.assert_array_equal(
            getattr(shown, places), getattr(single.unwrapped.data, places)
        )


def test_models_of_several_sizes_are_filled_up_with_zeros() -> None:
    names = {1: "InvertedPendulum-v5", 2: "InvertedDoublePendulum-v5"}
    seen = gymnasium.spaces.Box(-np.inf, np.inf, (4,))

    def make_env(task: int) -> gymnasium.Env:
        return TransformObservation(gymnasium.make(names[task]), lambda obs: obs[:4], seen)

    tasks = GymnasiumTasks(make_env, train_tasks=[1], test_tasks=[2], horizon=3)
    env, kept = tasks.make_env(2), []
    env.set_tasks([tasks.train[0], tasks.test[0]])
    env.record(lambda states: kept.append(states))
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros((2, 1), np.float32))
    (states,) = kept
    assert states.shape == (2, 4, 3)
    assert not states[0, :, 2].any() and states[1, :, 2].all()
    assert [env.scene(task).state_size for task in (tasks.train[0], tasks.test[0])] == [2, 3]


def test_nothing_is_recorded_where_it_is_off_or_there_is_no_physics(tmp_path: Path) -> None:
    walk = GymnasiumConfig(module=write(tmp_path, WALK), num_workers=0).build().make_env(2)
    assert not isinstance(walk, Recorder)
    distribution = GymnasiumConfig(module=write(tmp_path, HOPPER), num_workers=0).build()
    env, kept = distribution.make_env(1), []
    actions = np.zeros((HORIZON, 1, 3), np.float32)
    for recorded in (False, True, False):
        env.record((lambda states: kept.append(states)) if recorded else None)
        env.reset(seed=0)
        for action in actions:
            env.step(action)
    assert len(kept) == 1
    (here,) = env._workers
    (player,) = here._share._players
    assert player._states == [], "no state is kept where nothing is recorded"


class Leaves(gymnasium.Wrapper):
    """Environment that loses its physics when it is reset."""

    def set_task(self, task):
        pass

    def reset(self, **options):
        answer = super().reset(**options)
        self.unwrapped.model = None
        return answer


def test_an_environment_without_physics_when_it_is_played_is_named() -> None:
    tasks = GymnasiumTasks(
        lambda: Leaves(gymnasium.make("InvertedPendulum-v5")),
        train_tasks=[1], test_tasks=[2], horizon=3,
    )  # fmt: skip
    env = tasks.make_env(1)
    env.record(lambda states: None)
    with pytest.raises(EnvironmentFailedError, match="has no MuJoCo model"):
        env.reset(seed=0)
    with pytest.raises(UserError, match="gymnasium: the environment has no MuJoCo model"):
        env.scene(tasks.train[0])
