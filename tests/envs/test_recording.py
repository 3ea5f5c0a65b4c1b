"""Recordings of engines: the same bits from all of them, with the poses of all bodies."""

import mujoco
import numpy as np
import pytest

from envs.engine.env import EngineEnv
from envs.locomotion import LocomotionConfig
from envs.metaworld import MetaWorld
from metarl.rollout.recording import Recorder
from metarl.rollout.scene import DRAWN_STATE, drawn_state

HORIZON = 40


def play(env, tasks, *, episodes: int, seed: int = 0) -> list[np.ndarray]:
    """The states of each episode under random actions."""
    kept: list[np.ndarray] = []
    env.set_tasks(tasks)
    env.record(lambda states: kept.append(states.copy()))
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(episodes * env.horizon):
        env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
    return kept


def test_native_and_reference_record_the_same_bits_of_scenes_of_all_sizes() -> None:
    benchmark = MetaWorld(
        "custom", train_classes=["pick-place-v3", "door-open-v3", "soccer-v3"],
        test_classes=["reach-v3"], num_goals=1, horizon=HORIZON,
    )  # fmt: skip
    tasks = list(benchmark.train)
    native, reference = benchmark.make_env(3), benchmark.make_env(3, engine="reference")
    assert isinstance(native, Recorder) and isinstance(reference, Recorder)
    ours, official = (play(env, tasks, episodes=2) for env in (native, reference))
    sizes = [native.scene(task).state_size for task in tasks]
    assert len(set(sizes)) > 1, "these scenes should differ in size"
    assert [states.shape for states in ours] == [(3, HORIZON + 1, max(sizes))] * 2
    for episode in range(2):
        np.testing.assert_array_equal(ours[episode], official[episode])


def test_a_recorded_state_shows_what_the_official_environment_showed() -> None:
    """All bodies of a task with a moved door, including fixed ones, and the goal."""
    benchmark = MetaWorld("ML1-door-open-v3", num_goals=2, horizon=HORIZON)
    task = benchmark.train[1]
    native, reference = benchmark.make_env(1), benchmark.make_env(1, engine="reference")
    (states,) = play(native, [task], episodes=1)
    scene = native.scene(task)
    shown = mujoco.MjData(scene.model)
    reference.set_tasks([task])
    reference.reset()
    rng = np.random.default_rng(0)
    for step in range(1, HORIZON):
        reference.step(rng.uniform(-1, 1, (1, 4)).astype(np.float32))
        (env,) = reference.envs
        scene.show(shown, states[0, step])
        np.testing.assert_array_equal(drawn_state(scene.model, shown), states[0, step])
        for places in ("xpos", "xquat", "geom_xpos", "site_xpos", "cam_xpos"):
            np.testing.assert_array_equal(getattr(shown, places), getattr(env.data, places))


@pytest.mark.parametrize("variant", ["HalfCheetah-vel-maml", "Walker2d-params-pearl"])
def test_locomotion_records_starts_falls_and_changed_bodies(variant: str) -> None:
    distribution = LocomotionConfig(variant=variant, horizon=HORIZON).build()
    env = distribution.make_env(2)
    assert isinstance(env, EngineEnv)
    tasks = list(distribution.train[:2])
    first, second = play(env, tasks, episodes=2)
    assert not np.array_equal(first[:, 0], second[:, 0]), "each episode starts anew"
    # MuJoCo by hand, from the recorded start with the same actions. Velocities are not recorded, so
    # only the start and the state at rest can be compared.
    scene = env.scene(tasks[1])
    assert scene.model.nq == first.shape[2]
    if "params" in variant:
        stock = env.scene(distribution.train[0]).model
        assert not np.array_equal(stock.body_mass, scene.model.body_mass)
        resting = np.flatnonzero((np.diff(first[0], axis=0) == 0).all(1))
        assert len(resting) and resting[-1] == HORIZON - 1, "a fallen robot is recorded at rest"


def test_recording_changes_nothing_and_ends_when_told() -> None:
    benchmark = MetaWorld("ML1-reach-v3", num_goals=2, horizon=5)
    env, plain = benchmark.make_env(2), benchmark.make_env(2)
    kept: list[np.ndarray] = []
    env.record(lambda states: kept.append(states.copy()))
    for _ in range(2):
        env.reset()
        plain.reset()
        for _ in range(5):
            ours, theirs = env.step(np.ones((2, 4))), plain.step(np.ones((2, 4)))
            for a, b in zip(ours[:2], theirs[:2], strict=True):
                np.testing.assert_array_equal(a, b)
        env.record(None)
    assert len(kept) == 1
    assert kept[0].shape[2] == mujoco.mj_stateSize(env.scene(env.tasks[0]).model, DRAWN_STATE)
