"""Tasks from a module of yours, or from Python, and the environment that plays them in slots.

A module of yours says what the tasks are:

    train_tasks = [...]      a task is a number, an array of numbers, or a mapping to those
    test_tasks = [...]       held out
    horizon = 100            steps of an episode
    def make_env(): ...      a gymnasium.Env that has set_task(task); or make_env(task)

`python -m envs.gymnasium_tasks MODULE` says in words what is wrong with it. In Python the same is
`GymnasiumTasks(make_env, train_tasks=[...], test_tasks=[...], horizon=100)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from gymnasium.error import ResetNeeded
from jaxtyping import Float, Shaped
from pydantic import Field

from envs.gymnasium_tasks.scenes import scene_of
from envs.slots import SlotEnv
from envs.worker.physics import physics_of
from envs.worker.player import FlatSpaces, MakeEnv, make
from envs.worker.process import Failure, Here, Worker, callable_of
from envs.worker.user_module import UserModule, describe
from metarl.config import Config, Positive, Size
from metarl.errors import (
    EnvironmentFailedError,
    TrialLostError,
    UserError,
    nearest,
)
from metarl.processors import num_processors
from metarl.recording import Sink
from metarl.scene import Scene
from metarl.seeding import slot_generators
from metarl.tasks import TaskSet

NAMES = ("train_tasks", "test_tasks", "horizon", "make_env")
"""What a module must have."""
LOST_TRIALS = 5
"""So many lost in a row, and restarting does not help."""
RESET_SECONDS = 60.0
"""A reset may take this long, or ten times as long as a step: it may load a model."""
SHOWN_PARAMETERS = 20
"""Of a task that something happened to."""


@dataclass(frozen=True, eq=False)
class GymnasiumTask:
    """A task as its user wrote it, and its numbers in one row."""

    value: Any
    parameters: Float[np.ndarray, " P"]
    env_name: str


class GymnasiumConfig(Config):
    """Tasks and environments from a Python module of yours."""

    kind: Literal["gymnasium"] = "gymnasium"
    module: str
    """A .py file, or a name that can be imported: train_tasks, test_tasks, horizon, make_env."""
    horizon: Size | None = None
    """Steps of an episode, in place of what the module says."""
    num_workers: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Processes that share the slots; one per processor where not given, 0 plays in this one."""
    on_failure: Literal["stop", "restart"] = "stop"
    """An environment that raises, hangs or dies ends the run, or costs a trial and is started
    again."""
    step_timeout: Positive = 60.0
    """Seconds after which a worker's environment that does not finish a step is killed."""

    def build(self) -> GymnasiumTasks:
        """The distribution.

        Raises:
            UserError: the module cannot be used; says why.
        """
        module = UserModule(self.module)
        names = vars(module.loaded)
        missing = missing_names({**names, "horizon": self.horizon} if self.horizon else names)
        if missing:
            raise UserError(f"{self.module}: {missing[0]}")
        return GymnasiumTasks(
            module,
            train_tasks=names["train_tasks"],
            test_tasks=names["test_tasks"],
            horizon=check_horizon(self.horizon or names["horizon"]),
            name=str(names.get("name", module.name)),
            num_workers=self.num_workers,
            on_failure=self.on_failure,
            step_timeout=self.step_timeout,
        )


class GymnasiumTasks:
    """The distribution over the tasks of a user.

    Args:
        make_env: makes a `gymnasium.Env` that has `set_task(task)`, or, if it takes an argument,
            one that plays the task that it is given. A module's is loaded by each worker.
        train_tasks, test_tasks: numbers, arrays of numbers, or mappings from names to those.
        horizon: steps of an episode. An environment that ends one earlier rests until then.
        num_workers: 0 plays in this process, None takes a worker for each processor.
        on_failure: whether an environment that raises, hangs or dies ends everything, or costs a
            trial.
        step_timeout: seconds that a step may take in a worker.

    Raises:
        UserError: a task is not made of numbers, or is in both sets, or there is none; or the
            horizon is no positive whole number.
    """

    def __init__(
        self,
        make_env: MakeEnv | UserModule,
        *,
        train_tasks: Iterable[Any],
        test_tasks: Iterable[Any],
        horizon: int,
        name: str = "gymnasium",
        num_workers: int | None = 0,
        on_failure: Literal["stop", "restart"] = "stop",
        step_timeout: float = 60.0,
    ) -> None:
        self.name = name
        self.horizon = check_horizon(horizon)
        self.train = TaskSet(read_tasks(train_tasks, name="train_tasks", env_name=name))
        self.test = read_tasks(test_tasks, name="test_tasks", env_name=name)
        shared = self.train.shared_with(self.test)
        if shared:
            raise UserError(
                f"{shared[0].value!r} is in train_tasks and in test_tasks; keep it in one of them"
            )
        self.make_single = callable_of(make_env)
        """Makes one environment."""
        self._make_env = make_env
        self._num_workers = num_workers
        self._on_failure: Literal["stop", "restart"] = on_failure
        self._step_timeout = step_timeout

    @cached_property
    def kind(self) -> tuple[FlatSpaces, bool]:
        """The spaces of an environment, and whether it has physics of MuJoCo to record.

        Raises:
            UserError: there is no environment to be had, or agents have no use for its spaces.
        """
        try:
            env = make(self.make_single, self.train[0].value)
        except Exception as error:
            raise UserError(f"{self.name}: {describe(error)}") from error
        with closing(env):
            return FlatSpaces.of(env), physics_of(env) is not None

    def make_env(self, num_slots: int) -> GymnasiumEnv:
        """Slots that play training tasks until `set_tasks` says otherwise; a `Recorder` where the
        environment has physics of MuJoCo."""
        flat_spaces, has_physics = self.kind
        return (RecordedEnv if has_physics else GymnasiumEnv)(
            self.train.sample(num_slots, np.random.default_rng(0)),
            horizon=self.horizon,
            make_env=self._make_env,
            flat_spaces=flat_spaces,
            num_workers=num_processors() if self._num_workers is None else self._num_workers,
            on_failure=self._on_failure,
            step_timeout=self._step_timeout,
        )


class GymnasiumEnv(SlotEnv[GymnasiumTask]):
    """One environment of the user per slot, played in this process or in workers.

    Workers start at the first `reset`. If one fails there is an `EnvironmentFailedError`, or with
    `on_failure` "restart" a `TrialLostError` until `LOST_TRIALS` were lost in a row; either way the
    next `reset` starts anew what failed.
    """

    def __init__(
        self,
        tasks: Sequence[GymnasiumTask],
        *,
        horizon: int,
        make_env: MakeEnv | UserModule,
        flat_spaces: FlatSpaces,
        num_workers: int,
        on_failure: Literal["stop", "restart"],
        step_timeout: float,
    ) -> None:
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=flat_spaces.observation,
            action_space=flat_spaces.action,
        )
        self._make_env = make_env
        self._in_processes = num_workers > 0
        self._on_failure = on_failure
        self._step_timeout = step_timeout
        groups = np.array_split(np.arange(len(tasks)), min(max(num_workers, 1), len(tasks)))
        self._slices = [slice(int(group[0]), int(group[-1]) + 1) for group in groups]
        self._workers: list[Worker | Here | None] = [None for _ in groups]
        self._rngs = slot_generators(0, self.num_envs)
        self._playing = False
        self._waiting = False
        self._lost_in_a_row = 0
        self._sink: Sink | None = None
        self._recording = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, "N O"], dict[str, Any]]:
        """Starts a trial; with a seed, restarts the random stream of every slot.

        Raises:
            EnvironmentFailedError: an environment failed.
        """
        del options
        if seed is not None:
            self._rngs = slot_generators(seed, self.num_envs)
        seeds = [int(rng.integers(2**31)) for rng in self._rngs]
        if self._playing:
            self._lost_in_a_row = 0
        if self._waiting:  # An interrupt left answers behind that nobody asks for any more.
            self._end_workers()
        worker_kind = Worker if self._in_processes else Here
        for number, slots in enumerate(self._slices):
            if self._workers[number] is None:
                self._workers[number] = worker_kind(
                    self._make_env, horizon=self.horizon, first_slot=slots.start
                )
        self._tasks = self.next_tasks
        self._steps = 0
        self._recording = self._sink is not None
        values = [task.value for task in self._tasks]
        (obs,) = self._ask(
            "reset",
            [(values[slots], seeds[slots], self._recording) for slots in self._slices],
            resets=True,
        )
        self._playing = True
        return obs, {}

    def step(
        self, actions: Shaped[np.ndarray, " N *A"]
    ) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps every slot.

        Raises:
            EnvironmentFailedError: an environment failed.
            ResetNeeded: there is no trial to go on with.
        """
        if not self._playing:
            raise ResetNeeded("reset the environment before its first step and after a failure")
        last = (self._steps + 1) % self.horizon == 0
        obs, reward, success, final_obs = self._ask(
            "step", [(actions[slots],) for slots in self._slices], resets=last
        )
        self._steps += 1
        if last and self._recording:
            self._hand_over()
        ended = np.full(self.num_envs, last)
        info = {"success": success, "final_obs": final_obs}
        return obs, reward, np.zeros_like(ended), ended, info

    def _hand_over(self) -> None:
        """Gives the sink the episode that has just ended, its states as rows of one length."""
        shares = self._answers("recorded", [() for _ in self._slices], resets=False)
        episodes = [episode for share in shares for episode in share]
        size = max(episode.shape[1] for episode in episodes)
        padded = [np.pad(episode, ((0, 0), (0, size - episode.shape[1]))) for episode in episodes]
        if self._sink is not None:
            self._sink(np.stack(padded))

    def close_extras(self) -> None:
        """Closes the environments and ends the workers."""
        self._playing = False
        self._end_workers()

    def _ask(
        self, name: str, arguments: Sequence[tuple[Any, ...]], *, resets: bool
    ) -> list[np.ndarray]:
        """What all workers answer, slot after slot."""
        answers = self._answers(name, arguments, resets=resets)
        return [np.concatenate(rows) for rows in zip(*answers, strict=True)]

    def _answers(
        self, name: str, arguments: Sequence[tuple[Any, ...]], *, resets: bool
    ) -> list[Any]:
        """Has all workers do the same at once, resets among it or not; what each answers."""
        long = max(RESET_SECONDS, 10 * self._step_timeout)
        patience = long if resets else self._step_timeout
        workers = [worker for worker in self._workers if worker is not None]
        self._waiting = True
        for worker, worker_arguments in zip(workers, arguments, strict=True):
            worker.ask(name, *worker_arguments)
        answers = [worker.answer(patience) for worker in workers]
        self._waiting = False
        failures = {k: answer for k, answer in enumerate(answers) if isinstance(answer, Failure)}
        if failures:
            raise self._failed(failures)
        return answers

    def _failed(self, failures: Mapping[int, Failure]) -> EnvironmentFailedError:
        """Ends what failed, and tells of the first."""
        for number in failures:
            worker = self._workers[number]
            assert worker is not None
            worker.close()
            self._workers[number] = None
        self._playing = False
        self._lost_in_a_row += 1
        first = next(iter(failures.values()))
        task = self._tasks[first.slot]
        numbers = ", ".join(f"{number:.6g}" for number in task.parameters[:SHOWN_PARAMETERS])
        when = f"in step {first.step}" if first.step else "in the reset at the start"
        message = (
            f"slot {first.slot} {when} of its trial, task {task.env_name} [{numbers}]: {first.what}"
        )
        message = " ".join(message.split())
        if self._on_failure == "stop":
            return EnvironmentFailedError(message)
        if self._lost_in_a_row < LOST_TRIALS:
            return TrialLostError(message)
        return EnvironmentFailedError(
            f"{LOST_TRIALS} trials were lost in a row, the last: {message}"
        )

    def _end_workers(self) -> None:
        workers = [worker for worker in self._workers if worker is not None]
        for worker in workers:
            worker.dismiss()
        for worker in workers:
            worker.close()
        self._workers = [None for _ in self._workers]
        self._waiting = False


class RecordedEnv(GymnasiumEnv):
    """The same, of environments with physics of MuJoCo, which can be written down."""

    def record(self, sink: Sink | None) -> None:
        """Gives every whole episode to `sink` from the next `reset` on; None ends it."""
        self._sink = sink

    def scene(self, task: GymnasiumTask) -> Scene:
        """The model of a task as a reset leaves it."""
        return scene_of(callable_of(self._make_env), task.value, name=task.env_name)


def missing_names(names: Mapping[str, Any]) -> list[str]:
    """What a module with these names lacks."""
    others = [name for name in names if not name.startswith("_") and name not in NAMES]
    return [
        f"there is no {name}; a module of tasks has {', '.join(NAMES)}.{nearest(name, others)}"
        for name in NAMES
        if name not in names
    ]


def check_horizon(horizon: Any) -> int:
    """The horizon.

    Raises:
        UserError: it is no positive whole number.
    """
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
        raise UserError(f"horizon must be a whole number of steps, 1 or more, but is {horizon!r}")
    return int(horizon)


def read_tasks(values: Any, *, name: str, env_name: str) -> TaskSet[Any]:
    """Tasks from what the user calls `name`.

    Raises:
        UserError: there are none, or one is not made of finite numbers.
    """
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise UserError(f"{name} must be a list of tasks, but is {values!r}")
    tasks = []
    for number, value in enumerate(values):
        fields = value if isinstance(value, Mapping) else {"": value}
        try:
            rows = {key: np.ravel(np.asarray(fields[key], np.float64)) for key in sorted(fields)}
            parameters = np.concatenate(list(rows.values()))
        except (TypeError, ValueError):
            parameters = np.array([np.nan])
        if not parameters.size or not np.isfinite(parameters).all():
            raise UserError(
                f"{name}[{number}] is {value!r}; a task is a finite number, an array of them, or a "
                "mapping from names to those"
            )
        tasks.append(GymnasiumTask(value, parameters, env_name))
    if not tasks:
        raise UserError(f"{name} is empty; give at least one task")
    return TaskSet(tasks)
