"""Users' environments in slots: contract, spaces, tasks, and the same bits in any slot."""

import itertools
import math
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FlattenObservation

from envs.gymnasium_tasks import GymnasiumConfig, GymnasiumTasks, check
from envs.worker import process
from envs.worker import tasks as tasks_of_users
from metarl.errors import EnvironmentFailedError, UserError
from metarl.protocols import TaskDistribution
from metarl.rollout.player import FlatSpaces
from metarl.system.seeding import slot_generator
from tests.envs.user_modules import WALK, write

ROOT = Path(__file__).parents[2]


def test_the_contract_and_rest_after_an_early_end(tmp_path: Path) -> None:
    """Slot 0 stays near its start; slot 1 ends each episode after 3 of 5 steps, with a success."""
    distribution = GymnasiumConfig(module=write(tmp_path, WALK)).build()
    assert isinstance(distribution, TaskDistribution)
    assert (distribution.name, distribution.horizon) == ("module", 5)
    env = distribution.make_env(2)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    env.set_tasks([distribution.train[0], distribution.test[0]])
    obs, _ = env.reset(seed=3)
    for step in range(1, 11):
        before = obs
        obs, reward, terminated, truncated, info = env.step(np.zeros((2, 1), np.float32))
        in_episode = (step - 1) % 5 + 1
        assert env.observation_space.contains(obs) and reward.dtype == np.float64
        assert not terminated.any() and (truncated == (in_episode == 5)).all()
        assert info["final_obs"][:, 1].tolist() == [in_episode, min(in_episode, 3)]
        assert info["success"].tolist() == [False, in_episode >= 3]
        assert reward[0] == info["final_obs"][0, 0]
        assert reward[1] == (info["final_obs"][1, 0] if in_episode <= 3 else 0)
        if in_episode > 3:
            np.testing.assert_array_equal(info["final_obs"][1], before[1])
        assert (obs[:, 1] == 0).all() if in_episode == 5 else (obs == info["final_obs"]).all()


def test_tasks_take_effect_at_the_next_reset(tmp_path: Path) -> None:
    distribution = GymnasiumConfig(module=write(tmp_path, WALK)).build()
    env = distribution.make_env(1)
    env.set_tasks([distribution.train[0]])
    env.reset(seed=0)
    env.set_tasks([distribution.test[0]])
    assert env.step(np.zeros((1, 1)))[1][0] < 100
    env.reset(seed=0)
    assert env.step(np.zeros((1, 1)))[1][0] > 400


def play(distribution: GymnasiumTasks, num_slots: int) -> list[np.ndarray]:
    """All outputs of two trials of random actions; the second continues the random streams."""
    env = distribution.make_env(num_slots)
    env.set_tasks(list(distribution.train)[:num_slots])
    rng = np.random.default_rng(0)
    seen = []
    for seed in (4, None):
        seen.append(env.reset(seed=seed)[0])
        for _ in range(7):
            obs, reward, _, _, info = env.step(rng.uniform(-1, 1, (8, 1))[:num_slots])
            seen += [obs, reward, info["success"], info["final_obs"]]
    env.close()
    return seen


def test_the_same_seed_gives_the_same_bits_for_any_number_of_workers(tmp_path: Path) -> None:
    module = write(tmp_path, WALK)
    here = play(GymnasiumConfig(module=module).build(), 7)
    for workers in (None, 3):
        there = play(GymnasiumConfig(module=module, num_workers=workers).build(), 7)
        for expected, got in zip(here, there, strict=True):
            np.testing.assert_array_equal(got, expected)
    # A slot has its own random stream, independent of the others.
    for expected, got in zip(here, play(GymnasiumConfig(module=module).build(), 2), strict=True):
        np.testing.assert_array_equal(got, expected[:2])
    noise = here[0][:, 0]
    assert len(set(noise.tolist()) | set(here[29][:, 0].tolist())) == 14


class PendulumOfGravity(gymnasium.Wrapper):
    """Gymnasium's Pendulum; the task is g."""

    def set_task(self, task: float) -> None:
        self.unwrapped.g = task


def test_a_classic_plays_as_it_does_alone() -> None:
    def make_env() -> gymnasium.Env:
        return PendulumOfGravity(gymnasium.make("Pendulum-v1"))

    tasks = GymnasiumTasks(make_env, train_tasks=[1.0, 10.0], test_tasks=[5.0], horizon=6)
    env = tasks.make_env(2)
    env.set_tasks(list(tasks.train))
    actions = np.random.default_rng(0).uniform(-2, 2, (15, 2, 1)).astype(np.float32)
    for slot, g in enumerate((1.0, 10.0)):
        alone = gymnasium.make("Pendulum-v1", g=g)
        seed = int(slot_generator(11, slot).integers(2**31))
        expected, _ = alone.reset(seed=seed)
        got, _ = env.reset(seed=11)
        np.testing.assert_array_equal(got[slot], expected)
        for step, action in enumerate(actions, start=1):
            expected, expected_reward, *_ = alone.step(action[slot])
            got, reward, _, _, info = env.step(action)
            np.testing.assert_array_equal(info["final_obs"][slot], expected)
            assert reward[slot] == expected_reward
            if step % 6 == 0:
                expected, _ = alone.reset()
            np.testing.assert_array_equal(got[slot], expected)


# -- spaces and tasks ------------------------------------------------------------------------------


class Spaced(gymnasium.Env):
    """Environment with given spaces, which observes samples."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        # Copied, as a space holds the random stream of its samples.
        self.observation_space = deepcopy(observation_space)
        self.action_space = deepcopy(action_space)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(5)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict(
            {"camera": spaces.Box(0, 255, (2, 2, 3), np.uint8), "gear": spaces.Discrete(4)}
        ),
        spaces.Discrete(5),
        spaces.Box(-1, 1, (2, 3), np.float32),
        spaces.Box(0, 255, (4,), np.uint8),
    ],
    ids=["dict", "discrete", "matrix", "bytes"],
)
def test_observations_are_flattened_as_gymnasium_does_it(space: spaces.Space) -> None:
    actions = spaces.Discrete(3, start=-1)
    tasks = GymnasiumTasks(
        lambda task: Spaced(space, actions), train_tasks=[1], test_tasks=[2], horizon=9
    )
    env = tasks.make_env(1)
    flat = FlattenObservation(Spaced(space, actions))
    assert env.single_observation_space.dtype == np.float32
    assert env.single_action_space == spaces.Discrete(3)
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(obs[0], flat.reset(seed=0)[0])
    assert env.observation_space.contains(obs)
    for action in range(3):
        obs, *_ = env.step(np.array([action]))
        np.testing.assert_array_equal(obs[0], flat.step(action - 1)[0])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.MultiDiscrete([2, 2]), "neither Discrete nor a bounded Box"),
        (spaces.Box(-np.inf, 1, (2,)), "neither Discrete nor a bounded Box"),
        (spaces.Box(-1, 1, (2, 2)), "with one axis"),
        (spaces.Box(0, 9, (2,), np.int64), "of floats"),
        (spaces.Box(-1, 1, (0,)), "of floats"),
        (spaces.Box(-1, 1, (2,), np.longdouble), "in half, single or double precision"),
    ],
)
def test_actions_that_agents_cannot_take_are_refused(space: spaces.Space, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FlatSpaces.of(Spaced(spaces.Discrete(2), space))
    with pytest.raises(UserError, match="cannot be flattened"):
        FlatSpaces.of(Spaced(spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(2)))
    with pytest.raises(UserError, match="cannot be flattened"):
        FlatSpaces.of(Spaced(spaces.Dict(), spaces.Discrete(2)))


def test_actions_are_as_the_environment_takes_them() -> None:
    """Actions have the right type, are within the bounds in spite of rounding, and may be
    changed."""
    seen = spaces.Box(-1, 1, (1,))
    for dtype in (np.float16, np.float32, np.float64):
        space = spaces.Box(-0.1, 0.1, (2,), dtype)
        sent = np.full(2, 0.1, np.float32)
        action = FlatSpaces.of(Spaced(seen, space)).execute(sent)
        assert space.contains(action)
        action[:] = 7
        assert (sent == np.float32(0.1)).all()
    for dtype in (np.int32, np.int64):
        space = spaces.Discrete(3, start=2, dtype=dtype)
        flat = FlatSpaces.of(Spaced(seen, space))
        assert all(space.contains(flat.execute(np.int64(k))) for k in range(3))


class Answers(Spaced):
    """Environment whose steps return given answers."""

    def __init__(self, reward: Any, terminated: Any, info: Any) -> None:
        super().__init__(spaces.Box(-1, 1, (1,)), spaces.Discrete(2))
        self.answer = reward, terminated, False, info

    def step(self, action):
        if isinstance(self.answer[0], BaseException):
            raise self.answer[0]
        return super().step(action)[0], *self.answer


class SilentError(Exception):
    """Error that fails when converted to text."""

    def __str__(self) -> str:
        raise RuntimeError("nobody knows")


@pytest.mark.parametrize(
    ("reward", "terminated", "info", "message"),
    [
        (None, False, {}, "step: the reward must be one number, but is None"),
        ("1", False, {}, "step: the reward must be one number, but is '1'"),
        (np.ones(2), False, {}, r"the reward must be one number, but is array\(\[1., 1.\]\)"),
        (1.0, np.zeros(2, bool), {}, "step: terminated must be one number"),
        (1.0, False, [True], r"step: info must be a dictionary, but is \[True\]"),
        (1.0, False, {"success": np.zeros(2)}, "step: success must be one number"),
        (1.0, False, {"success": "no"}, "step: success must be one number, but is 'no'"),
        (1.0, False, {"success": math.nan}, "step: success is nan, neither true nor false"),
        (SystemExit(3), False, {}, "SystemExit: 3"),
        (GeneratorExit(), False, {}, "GeneratorExit: "),
        (SilentError(), False, {}, "SilentError: a message that fails itself with RuntimeError"),
        (
            ValueError("\x1b[31m" + "x" * 5_000_000),
            False,
            {},
            r"ValueError: \\x1b\[31mx{400,600} …",
        ),
    ],
)
def test_what_no_step_may_return_is_said(reward, terminated, info, message: str) -> None:
    tasks = GymnasiumTasks(
        lambda task: Answers(reward, terminated, info), train_tasks=[1], test_tasks=[2], horizon=2
    )
    env = tasks.make_env(1)
    env.reset()
    with pytest.raises(EnvironmentFailedError, match=message) as raised:
        env.step(np.array([0]))
    assert len(str(raised.value)) < 2_100


def test_code_of_the_user_may_change_its_folder_but_not_the_runs(tmp_path, monkeypatch) -> None:
    """In this process; a run is written to the folder in which it was begun."""
    monkeypatch.setattr(process, "_theirs", [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").mkdir()
    start = "import os\nos.chdir('assets')\nopen('model', 'w').close()\n"
    text = start + WALK.replace("self.steps += 1", "self.steps += 1; open('model').close()")
    distribution = GymnasiumConfig(module=write(tmp_path, text), num_workers=0).build()
    env = distribution.make_env(1)
    env.reset()
    env.step(np.zeros((1, 1)))
    env.close()
    assert Path.cwd() == tmp_path


def test_what_a_step_may_return_besides_plain_numbers() -> None:
    tasks = GymnasiumTasks(
        lambda task: Answers(np.ones((1, 1)), np.array([True]), {"success": np.int8(1)}),
        train_tasks=[1], test_tasks=[2], horizon=2,
    )  # fmt: skip
    env = tasks.make_env(1)
    env.reset()
    _, reward, _, _, info = env.step(np.array([0]))
    assert (reward.tolist(), info["success"].tolist()) == ([1.0], [True])
    assert env.step(np.array([0]))[1].tolist() == [0.0], "it rests"


class Far(Spaced):
    """Environment that moves a little every step, far from its origin."""

    def __init__(self, origin: float, dtype: type) -> None:
        super().__init__(
            spaces.Box(0, 10 * origin + 100, (2,), dtype), spaces.Box(-1, 1, (1,), np.float32)
        )
        self.origin = origin

    def reset(self, *, seed=None, options=None):
        self.place = np.full(2, self.origin, self.observation_space.dtype)
        return self.place, {}

    def step(self, action):
        self.place = self.place + np.array([0, 1], self.place.dtype)
        return self.place, -5e9 - float(self.place[1] - self.origin), False, False, {}


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_what_single_precision_blurs_is_said_after_the_first_episode(dtype: type) -> None:
    """A note, once, about coordinates and clocks far from their origin."""
    tasks = GymnasiumTasks(lambda task: Far(task, dtype), train_tasks=[1.7e9], test_tasks=[5],
                           horizon=3)  # fmt: skip
    env = tasks.make_env(1)
    with pytest.warns(UserWarning) as told:
        for _ in range(2):
            env.reset()
            for _ in range(3):
                env.step(np.zeros((1, 1), np.float32))
    texts = [str(warning.message) for warning in told]
    assert len(texts) == 2
    assert texts[0].startswith("gymnasium: observation[1] varies by 2 around 1.7e+09, where single")
    assert texts[1].startswith("gymnasium: reward varies by 2 around 5e+09")
    notes = [text for text in check(tasks) if "single precision" in text]
    assert [note.split(" varies")[0] for note in notes] == ["note: observation[1]", "note: reward"]

    class Near(Far):
        def step(self, action):
            return (*super().step(action)[:1], 0.0, False, False, {})

    tasks = GymnasiumTasks(lambda task: Near(task, dtype), train_tasks=[10], test_tasks=[5],
                           horizon=3)  # fmt: skip
    env = tasks.make_env(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.reset()
        for _ in range(3):
            env.step(np.zeros((1, 1), np.float32))


def test_the_numbers_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_of_users, "MOST_TASKS", 50)
    tasks = GymnasiumTasks(
        dict, horizon=1, test_tasks=np.arange(6.0).reshape(2, 3),
        train_tasks=[3, (1, 2.5), np.ones((2, 2)), {"b": [1, 2], "a": 7}],
    )  # fmt: skip
    assert [task.parameters.tolist() for task in tasks.train] == [
        [3], [1, 2.5], [1, 1, 1, 1], [7, 1, 2]
    ]  # fmt: skip
    assert [task.parameters.tolist() for task in tasks.test] == [[0, 1, 2], [3, 4, 5]]
    for wrong, message in (
        ({"train_tasks": []}, "train_tasks is empty"),
        ({"test_tasks": [1, "reach"]}, r"test_tasks\[1\] is 'reach'; a task is"),
        ({"test_tasks": [float("nan")]}, "a finite number"),
        ({"test_tasks": "123"}, "must be a list of tasks"),
        ({"train_tasks": itertools.count()}, "does not end: it has more than 50 tasks"),
        ({"test_tasks": [2, 1.0]}, r"1 is in train_tasks and in test_tasks"),
        ({"horizon": 0}, "1 or more, but is 0"),
    ):
        with pytest.raises(UserError, match=message):
            GymnasiumTasks(dict, **{"train_tasks": [1], "test_tasks": [2], "horizon": 1, **wrong})
