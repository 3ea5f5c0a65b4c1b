"""Tasks from your own module, or from Python, and the environment that plays them in slots.

Your module defines the tasks:

    train_tasks = [...]      a task is a number, an array of numbers, or a mapping to those
    test_tasks = [...]       held out
    horizon = 100            steps of an episode
    def make_env(): ...      a gymnasium.Env that has set_task(task); or make_env(task)

`python -m envs.gymnasium_tasks MODULE` checks it. The same in Python:
`GymnasiumTasks(make_env, train_tasks=[...], test_tasks=[...], horizon=100)`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from pydantic import Field

from envs.gymnasium_tasks.precision import Seen
from envs.worker.process import CLOSE_SECONDS, Failure, Here, Worker, ask_once, callable_of
from envs.worker.tasks import GymnasiumTask, check_horizon, read_tasks
from metarl.config import Config, Positive, Size
from metarl.errors import (
    MESSAGE_LIMIT,
    EnvironmentFailedError,
    TrialLostError,
    UserError,
    printable,
)
from metarl.rollout.player import Kind, MakeEnv
from metarl.rollout.recording import Sink
from metarl.rollout.scene import Scene
from metarl.rollout.slots import SlotEnv
from metarl.system.hardware import num_processors
from metarl.system.user_module import UserModule
from metarl.tasks import TaskSet

LOST_TRIALS = 5
"""Number of trials lost in a row after which a run stops, because restarts do not help."""
RESET_SECONDS = 60.0
"""Time limit of a reset (s) if it exceeds ten times that of a step: a reset may load a model."""
SHOWN_PARAMETERS = 20
"""Number of a failed task's parameters that a message shows."""


class GymnasiumConfig(Config):
    """Tasks and environments from your own Python module."""

    kind: Literal["gymnasium"] = "gymnasium"
    module: str
    """Python file, or importable name, with train_tasks, test_tasks, horizon and make_env."""
    horizon: Size | None = None
    """Steps per episode; overrides the module's."""
    num_workers: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Worker processes that share the slots; by default one per processor, and 0 plays in the main
    process."""
    on_failure: Literal["stop", "restart"] = "stop"
    """Reaction to an environment that raises, hangs or dies: `stop` ends the run, `restart` drops
    the trial and starts the environment again."""
    step_timeout: Positive = 60.0
    """Time limit of a worker's step (s); an environment that exceeds it is killed."""

    @property
    def code(self) -> str:
        """Name of the code that `build` executes: a file with its full path, or a module."""
        return UserModule(self.module).code

    def build(self) -> GymnasiumTasks:
        """The distribution.

        Raises:
            UserError: the module cannot be used; the message gives the reason.
        """
        module = UserModule(self.module)
        try:
            contents = ask_once(
                module, "contents", self.horizon,
                apart=self.num_workers != 0, patience=reset_patience(self.step_timeout),
            )  # fmt: skip
        except UserError as error:
            named = self.module in str(error)
            raise UserError(str(error) if named else f"{self.module}: {error}") from None
        return GymnasiumTasks(
            module,
            train_tasks=contents.train_tasks,
            test_tasks=contents.test_tasks,
            horizon=contents.horizon,
            name=contents.name,
            num_workers=self.num_workers,
            on_failure=self.on_failure,
            step_timeout=self.step_timeout,
        )


class GymnasiumTasks:
    """The distribution over a user's tasks.

    Args:
        make_env: returns a `gymnasium.Env` that has `set_task(task)`, or, if it takes an argument,
            one that plays the task passed to it. Each worker loads that of a module itself.
        train_tasks, test_tasks: numbers, arrays of numbers, or mappings from names to those.
        horizon: steps per episode. An environment that ends an episode earlier rests until then.
        num_workers: 0 plays in this process, None starts a worker per processor.
        on_failure: reaction to an environment that raises, hangs or dies: `stop` raises an error,
            `restart` drops the trial.
        step_timeout: time limit of a step in a worker (s).

    Raises:
        UserError: a task is not made of numbers or is in both sets, a set is empty, or the horizon
            is no positive integer.
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
        self.module_hash = make_env.content_hash if isinstance(make_env, UserModule) else None
        """SHA-256 of the module's file, if tasks come from one."""
        self._make_env = make_env
        self._num_workers = num_processors() if num_workers is None else num_workers
        self._on_failure: Literal["stop", "restart"] = on_failure
        self._step_timeout = step_timeout

    @cached_property
    def make_single(self) -> MakeEnv:
        """Makes one environment, in this process."""
        return callable_of(self._make_env)

    @cached_property
    def kind(self) -> Kind:
        """Spaces and other properties of an environment, made where slots are played, then closed.

        Raises:
            UserError: no environment can be made, or agents cannot use its spaces.
        """
        try:
            return ask_once(
                self._make_env, "kind", self.train[0].value,
                apart=self._num_workers > 0, patience=reset_patience(self._step_timeout),
            )  # fmt: skip
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error

    def make_env(self, num_slots: int) -> GymnasiumEnv:
        """Slots that play training tasks until `set_tasks` is called; a `Recorder` if the
        environment has MuJoCo physics."""
        return (RecordedEnv if self.kind.has_physics else GymnasiumEnv)(
            self.train.sample(num_slots, np.random.default_rng(0)),
            horizon=self.horizon,
            make_env=self._make_env,
            kind=self.kind,
            num_workers=self._num_workers,
            on_failure=self._on_failure,
            step_timeout=self._step_timeout,
        )


class GymnasiumEnv(SlotEnv[GymnasiumTask]):
    """One of the user's environments per slot, played in this process or in workers.

    Workers start at the first `reset`. A failure raises an `EnvironmentFailedError`, or, with
    `on_failure` "restart", a `TrialLostError` until `LOST_TRIALS` trials were lost in a row. Either
    way the next `reset` restarts the workers that failed.
    """

    def __init__(
        self,
        tasks: Sequence[GymnasiumTask],
        *,
        horizon: int,
        make_env: MakeEnv | UserModule,
        kind: Kind,
        num_workers: int,
        on_failure: Literal["stop", "restart"],
        step_timeout: float,
    ) -> None:
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=kind.observation,
            action_space=kind.action,
            random=True,
        )
        self._make_env = make_env
        self._in_processes = num_workers > 0
        self._on_failure = on_failure
        self._step_timeout = step_timeout
        groups = np.array_split(np.arange(len(tasks)), min(max(num_workers, 1), len(tasks)))
        self._slices = [slice(int(group[0]), int(group[-1]) + 1) for group in groups]
        self._workers: list[Worker | Here | None] = [None for _ in groups]
        self._playing = False
        self._waiting = False
        self._lost_in_a_row = 0
        self._seen: tuple[Seen, Seen] | None = (Seen(), Seen())  # for the first episode only
        self._sink: Sink | None = None
        self._recording = False

    def _why_together(self) -> str:
        return "where each has an environment of a user"

    def _restart(
        self, slots: Int[np.ndarray, " n"], tasks: Sequence[GymnasiumTask]
    ) -> Float[np.ndarray, "N O"]:
        """Starts a trial.

        Raises:
            EnvironmentFailedError: an environment failed.
        """
        del slots  # always all
        seeds = [int(rng.integers(2**31)) for rng in self._rngs]
        if self._playing:
            self._lost_in_a_row = 0
        if self._waiting:  # An interrupt left answers that nobody will read.
            self._end_workers()
        for number in range(len(self._slices)):
            self._worker(number)
        self._tasks = tasks
        self._steps = 0
        self._recording = self._sink is not None
        values = [task.value for task in self._tasks]
        (obs,) = self._ask(
            "reset",
            [(values[share], seeds[share], self._recording) for share in self._slices],
            resets=True,
        )
        self._playing = True
        return obs

    def _step(self, actions: Shaped[np.ndarray, " N *A"]) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Steps every slot.

        Raises:
            EnvironmentFailedError: an environment failed, which ends the trial.
        """
        last = (self._steps + 1) % self.horizon == 0
        obs, reward, success, final_obs = self._ask(
            "step", [(actions[slots],) for slots in self._slices], resets=last
        )
        self._steps += 1
        if self._seen is not None:
            self._judge_precision(final_obs, reward, last=last)
        if last and self._recording:
            self._hand_over()
        ended = np.full(self.num_envs, last)
        info = {"success": success, "final_obs": final_obs}
        return obs, reward, ended, info

    def _judge_precision(
        self, obs: Float[np.ndarray, "N O"], reward: Float[np.ndarray, " N"], *, last: bool
    ) -> None:
        """Warns, after the first episode, of changes that agents hardly see."""
        assert self._seen is not None
        seen_obs, seen_reward = self._seen
        seen_obs.add(obs)
        seen_reward.add(reward[:, None])
        if last:
            self._seen = None
            for seen, what in ((seen_obs, "observation"), (seen_reward, "reward")):
                if text := seen.blurred(what):
                    warnings.warn(f"{self._tasks[0].env_name}: {text}", stacklevel=3)

    def _worker(self, number: int) -> Worker | Here:
        """The worker with this number; starts it if it is not running."""
        worker = self._workers[number]
        if worker is None:
            kind = Worker if self._in_processes else Here
            worker = kind(
                self._make_env, horizon=self.horizon, first_slot=self._slices[number].start
            )
            self._workers[number] = worker
        return worker

    def _hand_over(self) -> None:
        """Passes the episode that has just ended to the sink, its states padded to one length."""
        shares = self._answers("recorded", [() for _ in self._slices], resets=False)
        episodes = [episode for share in shares for episode in share]
        size = max(episode.shape[1] for episode in episodes)
        padded = [np.pad(episode, ((0, 0), (0, size - episode.shape[1]))) for episode in episodes]
        if self._sink is not None:
            self._sink(np.stack(padded))

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments and ends the workers."""
        del kwargs
        self._playing = False
        self._end_workers()

    def _ask(
        self, name: str, arguments: Sequence[tuple[Any, ...]], *, resets: bool
    ) -> list[np.ndarray]:
        """Answers of all workers, concatenated over slots."""
        answers = self._answers(name, arguments, resets=resets)
        return [np.concatenate(rows) for rows in zip(*answers, strict=True)]

    def _answers(
        self, name: str, arguments: Sequence[tuple[Any, ...]], *, resets: bool
    ) -> list[Any]:
        """Answer of each worker to the same call, made in parallel; resets get more time."""
        patience = reset_patience(self._step_timeout) if resets else self._step_timeout
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
        """Ends the workers that failed; returns the error that describes the first failure."""
        self._end_workers(failures)
        self._playing = self._started = False
        self._lost_in_a_row += 1
        first = next(iter(failures.values()))
        task = self._tasks[first.slot]
        numbers = ", ".join(f"{number:.6g}" for number in task.parameters[:SHOWN_PARAMETERS])
        when = f"in step {first.step}" if first.step else "in the reset at the start"
        message = (
            f"slot {first.slot} {when} of its trial, task {task.env_name} [{numbers}]: {first.what}"
        )
        message = printable(message, limit=MESSAGE_LIMIT)
        if self._on_failure == "stop":
            return EnvironmentFailedError(message)
        if self._lost_in_a_row < LOST_TRIALS:
            return TrialLostError(message)
        return EnvironmentFailedError(
            f"{LOST_TRIALS} trials were lost in a row, the last: {message}"
        )

    def _end_workers(self, numbers: Iterable[int] | None = None) -> None:
        """Ends these workers, or all, within `CLOSE_SECONDS` in total."""
        numbers = list(range(len(self._workers)) if numbers is None else numbers)
        workers = [worker for n in numbers if (worker := self._workers[n]) is not None]
        for worker in workers:
            worker.dismiss()
        deadline = time.monotonic() + CLOSE_SECONDS
        for worker in workers:
            worker.close(max(0.0, deadline - time.monotonic()))
        for n in numbers:
            self._workers[n] = None
        self._waiting = False


class RecordedEnv(GymnasiumEnv):
    """A `GymnasiumEnv` of environments with MuJoCo physics, which it can record."""

    def record(self, sink: Sink | None) -> None:
        """Passes every whole episode to `sink`, starting at the next `reset`; None stops it."""
        self._sink = sink

    def scene(self, task: GymnasiumTask) -> Scene:
        """The scene of a task, with the model as a reset leaves it.

        Raises:
            UserError: the environment fails.
        """
        worker = self._worker(0)
        worker.ask("scene", task.value)
        answer = worker.answer(reset_patience(self._step_timeout))
        if isinstance(answer, Failure):
            self._playing = False
            self._end_workers([0])
            raise UserError(f"{task.env_name}: {answer.what}")
        return answer


def reset_patience(step_timeout: float) -> float:
    """Time limit of making or resetting an environment (s), given that of a step (s)."""
    return max(RESET_SECONDS, 10 * step_timeout)
