"""The contract of Gymnasium's vector environments, with `SyncVectorEnv` as the oracle."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from envs.bandit import BanditConfig
from envs.gymnasium_tasks import GymnasiumTasks
from envs.locomotion.distributions import LocomotionConfig
from envs.metaworld import MetaWorld
from envs.metaworld.official import MetaWorldTask
from envs.navigation import PointConfig
from envs.single import SingleEnv
from envs.tabular import TabularConfig
from metarl.errors import NotFiniteError
from metarl.rollout.slots import SlotEnv

HORIZON = 4
FEW = {"num_train_tasks": 20, "num_test_tasks": 2}


class Counting(gymnasium.Env):
    """Environment that only observes a random number."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def set_task(self, task: int) -> None:
        self.task = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(1, np.float32), {}

    def step(self, action):
        return self.np_random.random(1, np.float32), 1.0, False, False, {}


def meta_world(num_slots: int, engine: str = "native") -> SlotEnv:
    built = MetaWorld("ML1-push-v3", num_goals=4, horizon=HORIZON, engine=engine, num_threads=1)
    return built.make_env(num_slots)


def users(num_slots: int) -> SlotEnv:
    tasks = GymnasiumTasks(Counting, train_tasks=range(5), test_tasks=[9], horizon=HORIZON)
    return tasks.make_env(num_slots)


ALONE: dict[str, Callable[[int], SlotEnv]] = {
    "native": meta_world,
    "locomotion": LocomotionConfig(horizon=HORIZON, num_threads=1).build().make_env,
    "bernoulli": BanditConfig(**FEW).build().make_env,
    "gaussian": BanditConfig(arms="gaussian", **FEW).build().make_env,
    "tabular": TabularConfig(horizon=HORIZON, **FEW).build().make_env,
    "point": PointConfig(horizon=HORIZON, **FEW).build().make_env,
}
"""Environments whose slots can be reset one by one. The reference engine is left out as slow."""
REFERENCE: dict[str, Callable[[int], SlotEnv]] = {
    "reference": lambda num_slots: meta_world(num_slots, "reference")
}
ALL = ALONE | {"users": users}
each = pytest.mark.parametrize("name", ALL)
each_alone = pytest.mark.parametrize("name", ALONE)


def actions_for(env: SlotEnv, count: int) -> list[np.ndarray]:
    env.action_space.seed(0)
    return [env.action_space.sample() for _ in range(count)]


def mask(*slots: int, of: int = 3) -> dict[str, Any]:
    return {"reset_mask": np.isin(np.arange(of), slots)}


# -- reset_mask ------------------------------------------------------------------------------------


def official(task: MetaWorldTask) -> gymnasium.Env:
    slots = MetaWorld("ML1-push-v3", horizon=HORIZON).make_env(1, engine="reference")
    slots.set_tasks([task])
    return SingleEnv(slots)


def test_slots_come_and_go_as_in_a_sync_vector_env_of_official_environments() -> None:
    """Rewards, ends, masks and observations, with resets of some slots."""
    ours = meta_world(3)
    theirs = SyncVectorEnv(
        [lambda task=task: official(task) for task in ours.next_tasks],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    schedule = {0: None, 2: mask(1), 3: mask(0, 1), 7: mask(2), 9: None}
    ends = []
    for step, action in enumerate(actions_for(ours, 14)):
        if step in schedule:
            # theirs removes the mask from the options
            obs, info = ours.reset(options=schedule[step])
            true_obs, true_info = theirs.reset(options=dict(schedule[step] or {}))
            np.testing.assert_allclose(obs, true_obs, atol=1e-12)
            assert info == true_info == {}
        obs, reward, terminated, truncated, info = ours.step(action)
        true_obs, true_reward, _, true_truncated, true_info = theirs.step(action)
        np.testing.assert_allclose(obs, true_obs, atol=1e-12)
        np.testing.assert_allclose(reward, true_reward, atol=1e-12)
        np.testing.assert_array_equal(truncated, true_truncated)
        assert not terminated.any()
        ends.append(truncated.tolist())
        assert ("final_info" in info) == ("final_info" in true_info) == truncated.any()
        if truncated.any():
            np.testing.assert_array_equal(info["_final_obs"], true_info["_final_obs"])
            np.testing.assert_array_equal(info["_final_info"], true_info["_final_info"])
            for slot in np.flatnonzero(truncated):
                last = true_info["final_obs"][slot]
                np.testing.assert_allclose(info["final_obs"][slot], last, atol=1e-12)
            final, true_final = info["final_info"], true_info["final_info"]
            for entry in ("obj_to_target", "_obj_to_target", "success", "_success"):
                np.testing.assert_allclose(final[entry], true_final[entry], atol=1e-12)
    # the slots do not end together, as their episodes began at different times
    assert {tuple(end) for end in ends} >= {(False, False, True), (True, True, False)}
    ours.close()
    theirs.close()


@pytest.mark.parametrize("name", ALONE | REFERENCE)
def test_a_reset_of_some_slots_is_nothing_to_the_others(name: str) -> None:
    """A twin is never reset in between; slots 0 and 2 equal its slots bit for bit."""
    env, twin = ((ALONE | REFERENCE)[name](3) for _ in range(2))
    env.reset(seed=3)
    twin.reset(seed=3)
    actions = actions_for(env, 10)
    for step, action in enumerate(actions):
        expected = twin.step(action)
        got = env.step(action)
        for ours, theirs in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(ours[[0, 2]], theirs[[0, 2]])
        np.testing.assert_array_equal(got[4]["final_obs"][[0, 2]], expected[4]["final_obs"][[0, 2]])
        if step in (1, 4):
            obs, _ = env.reset(options=mask(1))
            np.testing.assert_array_equal(obs[[0, 2]], got[0][[0, 2]])
    env.close()
    twin.close()


@each_alone
def test_a_slot_that_is_reset_alone_with_a_seed_plays_what_it_would_in_a_whole_reset(name) -> None:
    env, fresh = ALONE[name](3), ALONE[name](3)
    env.reset(seed=1)
    actions = actions_for(env, 6)
    for action in actions[:3]:
        env.step(action)
    obs, _ = env.reset(seed=5, options=mask(1))
    np.testing.assert_array_equal(obs[1], fresh.reset(seed=5)[0][1])
    for action in actions:
        got, expected = env.step(action), fresh.step(action)
        for ours, theirs in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(ours[1], theirs[1])
    assert env.np_random_seed == (1, 5, 1)
    env.close()
    fresh.close()


@each_alone
def test_slots_take_their_new_tasks_at_their_own_resets(name: str) -> None:
    env, other = ALONE[name](3), ALONE[name](3)
    first = env.next_tasks
    new = first[::-1]
    other.set_tasks([first[0], new[1], first[2]])
    env.reset(seed=0)
    env.set_tasks(new)
    env.reset(seed=0, options=mask(1))
    assert env.tasks == env.get_attr("task") == (first[0], new[1], first[2])
    other.reset(seed=0)
    for action in actions_for(env, 3):
        np.testing.assert_array_equal(env.step(action)[1], other.step(action)[1])
    env.reset()
    assert env.tasks == new
    env.close()
    other.close()


@pytest.mark.parametrize(
    "wrong",
    [
        [True, False, True],
        np.array([1, 0, 1]),
        np.array([1.0, 0.0, 1.0]),
        np.array([True, False]),
        np.array([[True, False, True]]),
        np.zeros(3, bool),
        None,
    ],
    ids=repr,
)
def test_masks_are_refused_as_theirs_are(wrong: Any) -> None:
    ours = ALONE["point"](3)
    theirs = SyncVectorEnv([Counting] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    for env in (ours, theirs):
        env.reset(seed=0)
    with pytest.raises((TypeError, ValueError)) as refused:
        theirs.reset(options={"reset_mask": wrong})
    with pytest.raises(refused.type, match="reset_mask"):
        ours.reset(options={"reset_mask": wrong})
    ours.step(np.zeros((3, 2), np.float32))  # the refusal changed nothing


def test_what_cannot_be_reset_alone_says_so() -> None:
    env = users(3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="one by one where each has an environment of a user"):
        env.reset(options=mask(1))
    env.reset(options=mask(0, 1, 2))
    env.close()
    recorder = meta_world(3)
    recorder.record(lambda states: None)
    recorder.reset()
    with pytest.raises(ValueError, match="one by one while episodes are recorded"):
        recorder.reset(options=mask(1))
    recorder.close()


@each
def test_other_options_and_early_masks_are_refused(name: str) -> None:
    env = ALL[name](3)
    with pytest.raises(ResetNeeded, match="some slots"):
        env.reset(options=mask(1))
    with pytest.raises(ValueError, match="no option 'low'; it has 'reset_mask'"):
        env.reset(options={"low": 1.0})
    env.reset(options={})
    env.close()


# -- seeds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["locomotion", "bernoulli", "gaussian", "tabular", "users"])
def test_seeds_one_by_one(name: str) -> None:
    """Slots with equal seeds draw equal numbers, as in `SyncVectorEnv`; None continues the
    stream."""
    env = ALL[name](3)
    env.reset(seed=[4, 4, 5])
    same, twin, other = env.np_random
    assert same.bit_generator.state == twin.bit_generator.state != other.bit_generator.state
    assert env.np_random_seed == (4, 4, 5)
    twin.random()
    env.reset(seed=[4, None, np.int64(6)])
    assert env.np_random_seed == (4, 4, 6)
    again = ALL[name](3)
    again.reset(seed=[4, 4, 6])
    assert env.np_random[0].bit_generator.state == again.np_random[0].bit_generator.state
    assert env.np_random[1].bit_generator.state != again.np_random[1].bit_generator.state
    env.close()
    again.close()


@pytest.mark.parametrize(
    ("seed", "error"),
    [([1, 2], ValueError), (-1, ValueError), ([1, -2, 3], ValueError), (True, TypeError)],
)
def test_seeds_that_are_none_are_refused(seed: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed"):
        ALONE["bernoulli"](3).reset(seed=seed)


def test_no_stream_where_nothing_is_drawn() -> None:
    with pytest.raises(AttributeError, match="no random streams"):
        _ = ALONE["point"](2).np_random


# -- actions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bernoulli", "tabular"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.array([0, -1, 0]), "slot 1 .*action -1 is not among 0 to 4"),
        (np.array([0, 0, 5]), "slot 2 .*action 5 is not among"),
        (np.array([0.0, 1.0, 2.0]), "whole numbers, not float64"),
        (np.array([True, False, True]), "whole numbers, not bool"),
        (np.array(0), r"shape \(3,\), not \(\)"),
        (np.array([1]), r"shape \(3,\), not \(1,\)"),
        (np.array([[0], [1], [2]]), r"shape \(3,\), not \(3, 1\)"),
    ],
)
def test_choices_that_there_are_not_are_refused(name: str, wrong: np.ndarray, message: str) -> None:
    env, twin = ALONE[name](3), ALONE[name](3)
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(wrong)
    good = np.array([4, 0, 1], np.int32)
    np.testing.assert_array_equal(env.step(good)[1], twin.step(good.tolist())[1])


@pytest.mark.parametrize("name", ["native", "locomotion", "point", "users"])
def test_actions_are_neither_broadcast_nor_cast_nor_infinite(name: str) -> None:
    env, twin = ALL[name](3), ALL[name](3)
    env.reset(seed=0)
    twin.reset(seed=0)
    good = np.full(env.action_space.shape, 0.05, np.float32)
    for wrong in (good[0], good[:1], good[:, :1], good.T, np.float32(0.0)):
        with pytest.raises(ValueError, match="shape"):
            env.step(wrong)
    with pytest.raises(ValueError, match="floats, not int64"):
        env.step(np.zeros(good.shape, int))
    for number in (np.nan, np.inf, -np.inf):
        wrong = good.astype(np.float64)
        wrong[2, 1] = number
        with pytest.raises(ValueError, match=r"slot 2.* is not finite") as refused:
            env.step(wrong)
        assert isinstance(refused.value, NotFiniteError)  # for `--on-nan`
    for ours, theirs in zip(env.step(good)[:2], twin.step(good)[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)  # nothing was stepped before
    env.close()
    twin.close()


# -- the rest --------------------------------------------------------------------------------------


@each
def test_steps_need_a_reset_and_nothing_works_after_close(name: str) -> None:
    env = ALL[name](2)
    action = actions_for(env, 1)[0]
    with pytest.raises(ResetNeeded, match=r"call reset\(\) before step"):
        env.step(action)
    env.reset()
    env.step(action)
    env.close(terminate=True)
    env.close()
    assert env.closed
    for call in (lambda: env.step(action), env.reset):
        with pytest.raises(ClosedEnvironmentError, match="closed; make another"):
            call()


@each
def test_what_was_returned_is_never_written_to_again(name: str) -> None:
    """The environment does not read returned arrays either: those of a twin are overwritten."""
    env, twin = ALL[name](3), ALL[name](3)
    returned = [env.reset(seed=0)[0]]
    copies = [returned[0].copy()]
    twin.reset(seed=0)[0][:] = 9
    for action in actions_for(env, 2 * HORIZON + 1):
        *arrays, info = env.step(action)
        *overwritten, twin_info = twin.step(action)
        np.testing.assert_array_equal(arrays[0], overwritten[0])
        np.testing.assert_array_equal(info["final_obs"], twin_info["final_obs"])
        arrays += [value for value in info.values() if isinstance(value, np.ndarray)]
        returned += arrays
        copies += [array.copy() for array in arrays]
        for array in [*overwritten, twin_info["final_obs"], twin_info["success"]]:
            array[:] = 1
    for array, copy in zip(returned, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    env.close()
    twin.close()


@each
def test_info_says_for_which_slots_it_holds(name: str) -> None:
    env = ALL[name](3)
    listed = DictInfoToList(RecordEpisodeStatistics(env))
    listed.reset(seed=0)
    for step, action in enumerate(actions_for(env, 2 * HORIZON), 1):
        *_, truncated, infos = listed.step(action)
        ends = step % env.horizon == 0
        assert truncated.all() if ends else not truncated.any()
        for slot in range(3):
            assert ("final_obs" in infos[slot]) == ("final_info" in infos[slot]) == ends
            assert infos[slot]["success"] in (True, False)
            if ends:
                assert infos[slot]["final_info"]["success"] == infos[slot]["success"]
                assert infos[slot]["episode"]["l"] == env.horizon
    listed.close()


def test_attributes_are_those_of_slots() -> None:
    env = ALONE["point"](3)
    theirs = SyncVectorEnv([Counting] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    for name in ("observation_space", "action_space", "render_mode"):
        for vector in (env, theirs):
            values = vector.get_attr(name)
            assert values == vector.call(name)
            assert values == (getattr(vector, f"single_{name}", None),) * 3
    assert env.get_attr("horizon") == (HORIZON,) * 3
    tasks = env.next_tasks
    env.set_attr("task", list(tasks[::-1]))
    env.reset()
    assert env.get_attr("task") == tasks[::-1]
    env.set_attr("task", tasks[0])  # one value is for all slots, as in theirs
    assert env.next_tasks == (tasks[0],) * 3
    for vector, attribute in ((env, "task"), (theirs, "task")):
        with pytest.raises(ValueError, match="2"):
            vector.set_attr(attribute, [tasks[0], tasks[1]])
    with pytest.raises(AttributeError, match="nothing_such"):
        env.get_attr("nothing_such")
    for refused in (
        lambda: env.set_attr("horizon", 2),
        lambda: env.get_attr("reset"),
        lambda: env.call("set_tasks", tasks),
    ):
        with pytest.raises(AttributeError, match="they are parts of one PointEnv"):
            refused()


def test_the_horizon_of_an_engine_is_not_changed_in_silence() -> None:
    env = ALONE["native"](1)
    with pytest.raises(AttributeError, match="the horizon is fixed"):
        env.horizon = 2
    assert env.horizon == HORIZON


@pytest.mark.parametrize("name", ["bernoulli", "tabular", "point", "users"])
def test_what_has_no_pictures_says_so(name: str) -> None:
    env = ALL[name](2)
    env.reset()
    assert env.render_mode is None and env.metadata["render_modes"] == []
    with pytest.raises(ValueError, match="nothing is drawn here"):
        env.render()
    env.close()
