"""Recordings: physics states of episodes, from which videos and replays are made later.

An engine that can record stores the state that can be drawn, the positions of all bodies, after
each step. This needs no OpenGL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zipfile import ZipFile

import numpy as np
from jaxtyping import Bool, Float, Float64

from metarl.errors import UserError, printable
from metarl.rollout.scene import Scene
from metarl.system import ranks
from metarl.system.files import check_is_file, written_whole
from metarl.types import Rollout, TrialShape

COLUMNS = {
    "env_name": "U",
    "task": "i",
    "before": "i",
    "states": "f",
    "reward": "f",
    "success": "b",
}
"""Names of the arrays of each stored recording, and the kinds of their dtypes."""
LARGEST_FILE = 2**32
"""Maximum size of a file of recordings in bytes, unpacked."""
Sink = Callable[[Float64[np.ndarray, "N S R"]], None]
"""Function that takes an episode of every slot: S = horizon + 1 states, the initial one and that
after each step. States of scenes with fewer than R numbers are padded with zeros."""


@runtime_checkable
class Recorder(Protocol):
    """A vector environment that can record its episodes."""

    num_envs: int

    def record(self, sink: Sink | None) -> None:
        """Passes each complete episode to `sink` from the next `reset` on; None stops recording."""
        ...

    def scene(self, task: Any) -> Scene:
        """The scene of a task, to draw its states in."""
        ...


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One recorded episode."""

    before: int
    """Episodes of experience that the agent had with the task before this one."""
    states: Float64[np.ndarray, "S R"]
    """The initial state, then the state after each of the T = S - 1 steps."""
    reward: Float[np.ndarray, " T"]
    success: Bool[np.ndarray, " T"]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The recorded episodes of one task, in the order of play."""

    env_name: str
    task: int
    """Index of the task in its split."""
    episodes: list[Episode]
    agent: str = ""
    """Name of the agent that played, where several are shown; else ''."""

    @property
    def title(self) -> str:
        """Title of the recording: class and number of the task, with the agent's name if given."""
        task = f"{self.env_name}, task {self.task}"
        return f"{self.agent}: {task}" if self.agent else task

    @property
    def succeeded(self) -> bool:
        """True if the last episode was a success at any step."""
        return bool(self.episodes[-1].success.any())


class Recordings:
    """Records the trials of an evaluation, and keeps a few tasks of them.

    If episodes of a task are played in parallel, the first of them is kept.

    Args:
        limit: number of tasks to keep: first those that fail in the last episode, taken from all
            classes in turn, and at least one that succeeds, if there is any.
        only: indices of the tasks to choose from; all tasks if not given.
        ends: keep only the first and the last episode of each task.
    """

    def __init__(
        self, limit: int, *, only: Collection[int] | None = None, ends: bool = False
    ) -> None:
        self.limit = limit
        self.kept: list[Recording] = []
        self._only = only
        self._ends = ends
        self._episodes: dict[int, Float64[np.ndarray, "N S R"]] = {}
        self._num_episodes = 0
        self._slots_per_task = 1

    @contextmanager
    def of_trial(self, env: Any, shape: TrialShape) -> Iterator[None]:
        """Context in which the episodes of `env`, a `Recorder`, are recorded."""
        self._slots_per_task = shape.slots_per_task
        self._episodes, self._num_episodes = {}, 0
        env.record(self._write_down)
        try:
            yield
        finally:
            env.record(None)

    def gather(self) -> None:
        """Keeps tasks from among those that all ranks have kept."""
        if ranks.number() > 1:
            self.kept = chosen(ranks.gathered_objects(self.kept), self.limit)

    def _write_down(self, states: Float64[np.ndarray, "N S R"]) -> None:
        number = self._num_episodes
        if self._ends and number > 1:
            del self._episodes[number - 1]
        self._episodes[number] = states[:: self._slots_per_task].copy()
        self._num_episodes += 1

    def keep(self, trial: Sequence[Rollout], env_names: Sequence[str], *, first_task: int) -> None:
        """Adds a trial's recorded episodes, and keeps the tasks to show.

        Args:
            trial: all rollouts of the trial.
            env_names: class of each task; further tasks of the trial are left out.
            first_task: index of the first task in its split.
        """
        horizon = self._episodes[0].shape[1] - 1

        def by_episode(name: str) -> np.ndarray:
            steps = np.concatenate([getattr(rollout, name).cpu().numpy() for rollout in trial], 1)
            return steps[:: self._slots_per_task].reshape(-1, self._num_episodes, horizon)

        reward, success = by_episode("reward"), by_episode("success")
        new = [
            Recording(
                env_name=name,
                task=first_task + row,
                episodes=[
                    Episode(
                        before=number * self._slots_per_task,
                        states=states[row],
                        reward=reward[row, number],
                        success=success[row, number],
                    )
                    for number, states in self._episodes.items()
                ],
            )
            for row, name in enumerate(env_names)
            if self._only is None or first_task + row in self._only
        ]
        self._episodes = {}
        self.kept = [owned(recording) for recording in chosen(self.kept + new, self.limit)]


def owned(recording: Recording) -> Recording:
    """The recording with its own arrays: a view of a batch would keep the whole batch in memory."""

    def own(array: np.ndarray) -> np.ndarray:
        return array if array.base is None else array.copy()

    episodes = [
        replace(e, states=own(e.states), reward=own(e.reward), success=own(e.success))
        for e in recording.episodes
    ]
    return replace(recording, episodes=episodes)


def chosen(recordings: Sequence[Recording], limit: int) -> list[Recording]:
    """At most `limit` recordings: failures first, taken from all classes in turn."""
    turns: Counter[tuple[str, bool]] = Counter()
    in_turn: list[tuple[int, int, Recording]] = []
    for recording in recordings:
        group = recording.env_name, recording.succeeded
        in_turn.append((turns[group], recording.task, recording))
        turns[group] += 1
    in_turn.sort(key=lambda entry: entry[:2])
    failures = [recording for *_, recording in in_turn if not recording.succeeded]
    successes = [recording for *_, recording in in_turn if recording.succeeded]
    failures = failures[: limit - 1 if successes and limit > 1 else limit]
    return failures + successes[: limit - len(failures)]


def write_recordings(path: Path, recordings: Sequence[Recording]) -> None:
    """Stores recordings in one `.npz` file."""
    arrays: dict[str, np.ndarray] = {}
    for k, recording in enumerate(recordings):
        arrays[f"{k}/env_name"] = np.array(recording.env_name)
        arrays[f"{k}/task"] = np.array(recording.task)
        arrays[f"{k}/before"] = np.array([episode.before for episode in recording.episodes])
        for name in ("states", "reward", "success"):
            arrays[f"{k}/{name}"] = np.stack([getattr(e, name) for e in recording.episodes])
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_recordings(path: Path) -> list[Recording]:
    """The recordings that `write_recordings` stored.

    Raises:
        UserError: the file does not exist, or is damaged.
    """
    try:
        check_is_file(path)
        with ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST_FILE:
            raise ValueError(f"it unpacks to {size:,} bytes")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        number = len(arrays) // len(COLUMNS)
        if not number or arrays.keys() != {f"{k}/{c}" for k in range(number) for c in COLUMNS}:
            raise ValueError("its arrays are not those of recordings")
        return [_recording({c: arrays[f"{k}/{c}"] for c in COLUMNS}) for k in range(number)]
    except FileNotFoundError:
        raise UserError(f"no recordings in {path}; leave --stored out to play them") from None
    except Exception as error:  # whatever zipfile, zlib and NumPy make of damaged bytes
        reason = printable(f"{type(error).__name__}: {error}")
        raise UserError(f"{path} cannot be read ({reason}); leave --stored out") from None


def _recording(columns: Mapping[str, np.ndarray]) -> Recording:
    """The recording that stored arrays make up.

    Raises:
        ValueError: the arrays do not fit together.
    """
    count, size, width = columns["states"].shape
    shapes = {
        "env_name": (), "task": (), "before": (count,), "states": (count, size, width),
        "reward": (count, size - 1), "success": (count, size - 1),
    }  # fmt: skip
    for name, array in columns.items():
        if array.shape != shapes[name] or array.dtype.kind != COLUMNS[name] or not array.size:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
        # Renderers compute in single precision.
        if array.dtype.kind == "f" and not (abs(array) <= np.finfo(np.float32).max).all():
            raise ValueError(f"{name} is not finite")
    columns = {**columns, "states": columns["states"].astype(np.float64)}
    task, before = int(columns["task"]), columns["before"].tolist()
    if task < 0 or before != sorted({0, *before}):
        raise ValueError(f"task {task}, episodes after {before} others")
    return Recording(
        env_name=str(columns["env_name"]),
        task=task,
        episodes=[
            Episode(before=before[k], **{c: columns[c][k] for c in ("states", "reward", "success")})
            for k in range(count)
        ],
    )
