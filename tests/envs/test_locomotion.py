"""Locomotion against Gymnasium's own v5 environments, and against the published definitions."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from envs.engine.batch import MEAN_INERTIA
from envs.locomotion import VARIANTS, Locomotion, LocomotionConfig, LocomotionTask
from envs.locomotion.__main__ import row
from envs.locomotion.native import LocomotionEnv
from envs.locomotion.robots import EDITED, ROBOTS, body, draw_start
from envs.locomotion.variants import multipliers
from metarl.errors import UserError

STEPS = 500
NAMES = list(VARIANTS)
# From the code of the papers: steps, weights of the term, of control and of contact, alive bonus,
# whether a fall ends an episode, range of speeds.
RUN, SPEED, PLACE = "run", "speed", "place"
PUBLISHED = {
    "HalfCheetah-dir-maml": (RUN, 100, 1.0, 0.05, 0.0, 0.0, False, None),
    "HalfCheetah-dir-varibad": (RUN, 200, 1.0, 0.05, 0.0, 0.0, False, None),
    "HalfCheetah-vel-maml": (SPEED, 100, 1.0, 0.05, 0.0, 0.0, False, (0.0, 2.0)),
    "HalfCheetah-vel-varibad": (SPEED, 200, 1.0, 0.05, 0.0, 0.0, False, (0.0, 3.0)),
    "HalfCheetah-vel-pearl": (SPEED, 200, 1.0, 0.05, 0.0, 0.0, False, (0.0, 3.0)),
    "HalfCheetah-vel-amago": (SPEED, 1000, 1.0, 0.05, 0.0, 0.0, False, (0.0, 3.0)),
    "Ant-dir-maml": (RUN, 200, 1.0, 0.005, 0.0005, 0.05, True, None),
    "Ant-dir-pearl": (RUN, 200, 1.0, 0.5, 0.0005, 1.0, True, None),
    "Ant-dir2d-pearl": (RUN, 200, 1.0, 0.5, 0.0005, 1.0, True, None),
    "Ant-goal-pearl": (PLACE, 200, 1.0, 0.1, 0.0005, 0.0, False, None),
    "Humanoid-dir-pearl": (RUN, 200, 1.25, 0.1, 5e-7, 5.0, True, None),
    "Walker2d-params-pearl": (RUN, 200, 1.0, 0.001, 0.0, 1.0, True, None),
    "Hopper-params-pearl": (RUN, 200, 1.0, 0.001, 0.0, 1.0, True, None),
    "Swimmer-vel-promp": (SPEED, 200, 1.0, 0.0001, 0.0, 0.0, False, (0.1, 0.2)),
}


def build(name: str, **changes) -> Locomotion:
    """A variant with few tasks, except for variants that have only two."""
    if LocomotionConfig(variant=name).build().variant.num_train > 2:
        changes = {"num_train_tasks": 5, "num_test_tasks": 5} | changes
    return LocomotionConfig(variant=name, **changes).build()


def official_env(env: LocomotionEnv, task: LocomotionTask) -> gymnasium.Env:
    """A new Gymnasium environment with the body of the task."""
    robot = ROBOTS[env.variant.robot]
    official = gymnasium.make(
        robot.env_id, **robot.options, **({} if "Cheetah" in robot.env_id or "Swimmer" in
        robot.env_id else {"terminate_when_unhealthy": False})
    ).unwrapped  # fmt: skip
    for name, factors in multipliers(task).items():
        getattr(official.model, name)[:] *= factors
    if multipliers(task):
        mujoco.mj_setConst(official.model, mujoco.MjData(official.model))
    return official


def start_as(official: gymnasium.Env, env: LocomotionEnv, slot: int) -> np.ndarray:
    """Resets Gymnasium's environment to the current start of a slot; returns the observation."""
    simulation = env._batch._slots[slot].simulation
    mujoco.mj_resetData(official.model, official.data)
    official.set_state(simulation.qpos.copy(), simulation.qvel.copy())
    return official._get_obs()


def published_reward(name: str, task, official, action, before, after) -> float:
    """The reward by the papers' code, with its numbers."""
    kind, _, weight, control, contact, alive, _, _ = PUBLISHED[name]
    velocity = (after - before) / official.dt
    if kind == SPEED:
        term = -abs(velocity[0] - task.parameters[0])
    elif kind == PLACE:
        term = -np.abs(after - task.parameters).sum()
    else:
        direction = (1.0, 0.0) if "params" in name else task.parameters
        term = float(np.dot(velocity, direction))
    forces = official.data.cfrc_ext
    if "Ant" in name:
        forces = np.clip(forces, -1, 1)
    cost = control * np.square(action.astype(np.float64)).sum()
    return weight * term - cost - min(contact * np.square(forces).sum(), 10.0) + alive


def where(official: gymnasium.Env, robot: str) -> np.ndarray:
    """The position whose change, divided by the time, is Gymnasium's speed."""
    if robot == "Humanoid":
        mass = official.model.body_mass[:, None]
        return ((mass * official.data.xipos).sum(0) / mass.sum())[:2]
    if "Ant" in robot:
        return official.data.body("torso").xpos[:2].copy()
    return np.array([official.data.qpos[0], official.data.qpos[1] if robot == "Swimmer" else 0.0])


@pytest.mark.parametrize("name", NAMES)
def test_physics_and_observations_have_gymnasiums_bits(name: str) -> None:
    """Two slots, 500 steps of large random actions, episodes of 250 steps; rewards as published."""
    distribution = build(name, horizon=STEPS // 2)
    env = distribution.make_env(2)
    env.variant = env.variant._replace(reward=env.variant.reward._replace(falls_end=False))
    tasks = list(distribution.test)[:2]
    env.set_tasks(tasks)
    obs, _ = env.reset(seed=3)
    officials = [official_env(env, task) for task in tasks]
    rng = np.random.default_rng(0)
    for slot, official in enumerate(officials):
        np.testing.assert_array_equal(obs[slot], start_as(official, env, slot))
    for _ in range(STEPS):
        actions = rng.uniform(-1, 1, (2, *env.single_action_space.shape)).astype(np.float32)
        actions *= env.single_action_space.high
        before = [where(official, env.variant.robot) for official in officials]
        obs, reward, _, ended, info = env.step(actions)
        for slot, (official, task) in enumerate(zip(officials, tasks, strict=True)):
            official_obs, _, _, _, official_info = official.step(actions[slot])
            np.testing.assert_array_equal(info["final_obs"][slot], official_obs)
            if "x_velocity" in official_info:
                np.testing.assert_allclose(
                    info["x_velocity"][slot], official_info["x_velocity"], rtol=1e-9, atol=1e-11
                )
            after = where(official, env.variant.robot)
            np.testing.assert_allclose(
                reward[slot],
                published_reward(name, task, official, actions[slot], before[slot], after),
                rtol=1e-9,
                atol=1e-9,
            )
            if ended[slot]:  # nothing is left of the last episode, not even contact forces
                np.testing.assert_array_equal(obs[slot], start_as(official, env, slot))


@pytest.mark.parametrize("robot", ["Ant", "Humanoid", "Hopper", "Walker2d"])
def test_a_fall_is_what_gymnasium_calls_one_and_the_slot_rests(robot: str) -> None:
    name = next(n for n in NAMES if n.startswith(robot) and VARIANTS[n].reward.falls_end)
    distribution = build(name, horizon=200)
    env = distribution.make_env(8)
    if "params" in name:  # Gymnasium's own body
        size = len(distribution.test[0].parameters)
        env.set_tasks([LocomotionTask(name, np.ones(size))] * 8)
    env.reset(seed=0)
    officials = [official_env(env, task) for task in env.tasks]
    for slot, official in enumerate(officials):
        start_as(official, env, slot)
    rng = np.random.default_rng(1)
    fallen, rested = np.zeros(8, dtype=bool), 0
    last = np.zeros((8, env.single_observation_space.shape[0]))
    for _ in range(200):
        actions = rng.uniform(-1, 1, (8, *env.single_action_space.shape)).astype(np.float32)
        actions *= env.single_action_space.high
        obs, reward, terminated, _, info = env.step(actions)
        assert not terminated.any()
        for slot in np.flatnonzero(fallen):
            np.testing.assert_array_equal(info["final_obs"][slot], last[slot])
            assert reward[slot] == 0 and not info["success"][slot]
            rested += 1
        for slot in np.flatnonzero(~fallen):
            officials[slot].step(actions[slot])
            assert bool(info["fallen"][slot]) == (not officials[slot].is_healthy)
        last[~fallen] = info["final_obs"][~fallen]
        fallen |= info["fallen"] > 0
        if "Ant" in robot and not fallen.any():  # topple one, as random actions do not
            env._batch._slots[0].simulation.qvel[2] = 8.0
            officials[0].data.qvel[2] = 8.0
    assert fallen.any() and rested
    assert not (obs == last).all(axis=1).any()  # a new episode: all robots stand again
    *_, info = env.step(np.zeros_like(actions))
    assert not info["fallen"].any()


@pytest.mark.parametrize("robot", ["Walker2d", "Hopper"])
def test_what_is_multiplied_and_what_follows_from_it_are_the_only_edits(robot: str) -> None:
    """Any other part of a model that depends on a multiplied number would be wrong in a slot."""
    env = build(f"{robot}-params-pearl").make_env(1)
    (task,) = env.next_tasks
    plain = official_env(env, LocomotionTask(task.env_name, np.ones_like(task.parameters)))
    changed = official_env(env, task)
    differs = set()
    for name in dir(plain.model):
        value, other = (getattr(env.model, name, None) for env in (plain, changed))
        if isinstance(value, np.ndarray) and not np.array_equal(value, other):
            differs.add(name)
    for name in dir(plain.model.stat):
        value = getattr(plain.model.stat, name)
        if not name.startswith("_") and np.any(value != getattr(changed.model.stat, name)):
            differs.add(f"stat.{name}")
    of_pictures = {"stat.meanmass", "cam_poscom0", "light_poscom0"}
    assert differs - of_pictures <= set(EDITED)
    assert MEAN_INERTIA in differs and "body_mass" in differs


@pytest.mark.parametrize("robot", ROBOTS)
def test_starts_are_drawn_as_gymnasium_draws_them(robot: str) -> None:
    official = gymnasium.make(ROBOTS[robot].env_id, **ROBOTS[robot].options).unwrapped
    official.reset(seed=5)
    state = draw_start(robot, np.random.default_rng(5))
    np.testing.assert_array_equal(state[body(robot).qpos], official.data.qpos)
    np.testing.assert_array_equal(state[body(robot).qvel], official.data.qvel)


def test_every_episode_starts_elsewhere_by_slot_and_seed() -> None:
    distribution = build("HalfCheetah-vel-maml", horizon=2)

    def starts(num_slots: int, seed: int) -> np.ndarray:
        env = distribution.make_env(num_slots)
        env.set_tasks([distribution.test[0]] * num_slots)
        collected = [env.reset(seed=seed)[0]]
        for _ in range(10):
            obs, _, _, ended, _ = env.step(np.zeros((num_slots, 6), np.float32))
            if ended.all():
                collected.append(obs)
        return np.stack(collected, axis=1)

    ours = starts(20, seed=1)
    np.testing.assert_array_equal(starts(3, seed=1), ours[:3])
    assert not np.array_equal(starts(3, seed=2), ours[:3])
    assert len(np.unique(ours[..., 0])) == 20 * 6


def test_the_same_bits_for_any_number_of_threads() -> None:
    def play(threads: int) -> np.ndarray:
        env = build("Ant-goal-pearl", num_threads=threads, horizon=20).make_env(5)
        env.reset(seed=0)
        rng = np.random.default_rng(0)
        rows = [env.step(rng.uniform(-1, 1, (5, 8)).astype(np.float32)) for _ in range(45)]
        return np.concatenate([np.column_stack([row[0], row[1]]) for row in rows])

    np.testing.assert_array_equal(play(1), play(3))


@pytest.mark.parametrize("name", NAMES)
def test_tasks_are_what_the_table_says(name: str) -> None:
    kind, steps, weight, control, contact, alive, falls_end, speeds = PUBLISHED[name]
    variant = VARIANTS[name]
    assert variant.horizon == LocomotionConfig(variant=name).build().horizon == steps
    assert tuple(variant.reward) == (weight, control, contact, alive, falls_end)
    assert variant.wanted.term.name.lower() == kind
    if "-dir-" in name and "Humanoid" not in name:
        distribution = LocomotionConfig(variant=name).build()
        for split in (distribution.train, distribution.test):
            assert sorted(task.parameters.tolist() for task in split) == [[-1, 0], [1, 0]]
        with pytest.raises(UserError, match="has 2 tasks; leave the number of tasks out"):
            LocomotionConfig(variant=name, num_test_tasks=3).build()
        return
    distribution = LocomotionConfig(variant=name, num_train_tasks=400, num_test_tasks=100).build()
    fewer = LocomotionConfig(variant=name, num_train_tasks=9, num_test_tasks=100).build()
    assert fewer.test.content_hash == distribution.test.content_hash
    tasks = np.stack([task.parameters for task in distribution.train])
    assert len(distribution.train.classes) == 1
    assert distribution.train.shared_with(distribution.test) == []
    if "vel" in name:
        low, high = speeds
        assert low <= tasks.min() < low + 0.1 * (high - low)
        assert high >= tasks.max() > high - 0.1 * (high - low)
    elif "goal" in name:
        radius = np.linalg.norm(tasks, axis=1)
        assert radius.max() <= 3 and np.median(radius) == pytest.approx(3 / 2**0.5, abs=0.15)
    elif "params" in name:
        assert tasks.min() >= 1.5**-3 and tasks.max() <= 1.5**3
        assert np.median(tasks) == pytest.approx(1, abs=0.03)
    else:
        np.testing.assert_allclose(np.linalg.norm(tasks, axis=1), 1)
        assert np.abs(tasks.mean(0)).max() < 0.15


def test_bounds_by_hand() -> None:
    distribution = build("HalfCheetah-vel-maml", horizon=10)
    tasks = [LocomotionTask("", np.array([v])) for v in (0.0, 1.0, 1.5)]
    distribution.test = type(distribution.test)(tasks)
    # Always 1 m/s is off by 1, 0 and 0.5.
    assert distribution.best_without_adapting() == pytest.approx(-10 * 1.5 / 3)
    assert distribution.oracle() == 0
    assert build("HalfCheetah-dir-maml").best_without_adapting() == 0
    assert build("HalfCheetah-dir-maml").oracle() is None
    places = [LocomotionTask("", np.array(p)) for p in ((0.0, 0.0), (2.0, 0.0), (1.0, 3.0))]
    distribution = build("Ant-goal-pearl", horizon=10)
    distribution.test = type(distribution.test)(places)
    # From (1, 0): 1, 1 and 3.
    assert distribution.best_without_adapting() == pytest.approx(-10 * 5 / 3)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"unknown locomotion variant 'HalfCheeta-vel-maml'. Did "):
        build("HalfCheeta-vel-maml")
    env = build("HalfCheetah-vel-maml", num_threads=9).make_env(2)
    assert env.num_threads == 2  # as many threads as step them
    with pytest.raises(ValueError, match="call reset"):
        env.step(np.zeros((2, 6), np.float32))
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(2, 6\), not \(2, 4\)"):
        env.step(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"slot 1 \(HalfCheetah-vel-maml\), step 1: action .* not"):
        env.step(np.array([[0.0] * 6, [np.nan] * 6], np.float32))
    for wrong, message in (
        (LocomotionTask("HalfCheetah-dir-maml", np.ones(2)), "slot 1: HalfCheetah-dir-maml with"),
        (LocomotionTask("HalfCheetah-vel-maml", np.ones(2)), r"shape \(2,\) is no task of"),
        (LocomotionTask("HalfCheetah-vel-maml", np.array([np.nan])), "are not finite"),
    ):
        right = env.next_tasks[0]
        env.set_tasks([right, wrong])
        with pytest.raises(ValueError, match=message):
            env.reset()
        env.set_tasks([right, right])
        env.reset()
    with pytest.raises(ValueError, match="num_slots must be at least 1"):
        build("HalfCheetah-vel-maml").make_env(0)


def test_the_page_says_what_the_variants_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "locomotion.md").read_text()
    for name in NAMES:
        *known, without_adapting, best = row(name)
        assert f"| {' | '.join(known)} | " in page, name
        assert f" | {without_adapting} | {best} |\n" in page, name
