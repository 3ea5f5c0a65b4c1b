"""Tasks and task sets: sampling, splits and content hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float


@runtime_checkable
class Task(Protocol):
    """One MDP of a distribution. Tasks with equal content are the same task."""

    @property
    def env_name(self) -> str:
        """The class of the task: sampling is stratified by it, results are reported for each."""
        ...

    @property
    def parameters(self) -> Float[np.ndarray, " P"]:
        """The numbers that distinguish this task from others of its class."""
        ...


def fingerprint(task: Task) -> bytes:
    """SHA-256 of a task's content; the same for equal tasks in every process and version."""
    parameters = np.ascontiguousarray(task.parameters, dtype="<f8")
    return hashlib.sha256(task.env_name.encode() + b"\0" + parameters.tobytes()).digest()


def number_of(task: Task) -> int:
    """A number for the task, from its content: 63 bits of its fingerprint."""
    return int.from_bytes(fingerprint(task)[:8], "little") >> 1


def goals_of(tasks: Iterable[Task]) -> list[list[float]] | None:
    """The `goal` of each task, the position that the agent should reach; None if a task has no
    goal."""
    goals = [getattr(task, "goal", None) for task in tasks]
    if any(goal is None for goal in goals):
        return None
    return [np.asarray(goal, float).tolist() for goal in goals]


@dataclass(frozen=True, kw_only=True)
class ContentHashes:
    """SHA-256 hashes of the tasks and user files that a run is trained with."""

    train: str
    """Hash of the training tasks."""
    test: str
    """Hash of the held-out tasks."""
    module: str | None = None
    """Hash of the user's module file that plays the tasks."""
    agent: str | None = None
    """Hash of the user's algorithm file."""


T = TypeVar("T", bound=Task)


class TaskSet(Sequence[T]):
    """An ordered set of tasks with a content hash; every split is one."""

    def __init__(self, tasks: Iterable[T]) -> None:
        self._tasks = tuple(tasks)
        self._fingerprints = [fingerprint(task) for task in self._tasks]
        self.content_hash = hashlib.sha256(b"".join(self._fingerprints)).hexdigest()
        """Hash that is equal for the same tasks in the same order; identifies the split in every
        result."""
        self._indices_by_class: dict[str, list[int]] = {}
        for index, task in enumerate(self._tasks):
            self._indices_by_class.setdefault(task.env_name, []).append(index)

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index):
        return self._tasks[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._tasks)

    @property
    def classes(self) -> list[str]:
        """The task classes, in order of first appearance."""
        return list(self._indices_by_class)

    def first_of_each_class(self, count: int) -> TaskSet[T]:
        """The first `count` tasks of each class, or all tasks of a class that has fewer."""
        firsts = (indices[:count] for indices in self._indices_by_class.values())
        return TaskSet(self._tasks[index] for group in firsts for index in group)

    def shared_with(self, other: TaskSet[Task]) -> list[T]:
        """The tasks of this set that the other set contains too."""
        theirs = set(other._fingerprints)
        return [t for t, print_ in zip(self._tasks, self._fingerprints, strict=True)
                if print_ in theirs]  # fmt: skip

    def sample(self, num_tasks: int, rng: np.random.Generator) -> list[T]:
        """Draws tasks stratified by class, for any number of slots.

        Every class gets `num_tasks // classes` tasks; the classes that get one more are drawn at
        random, so that all classes are equally frequent in expectation. Within a class no task is
        drawn twice before all are drawn once. Tasks of one class are adjacent.
        """
        share, rest = divmod(num_tasks, len(self.classes))
        one_more = set(rng.permutation(len(self.classes))[:rest].tolist())
        chosen: list[T] = []
        for number, indices in enumerate(self._indices_by_class.values()):
            wanted = share + (number in one_more)
            while wanted > 0:
                drawn = rng.permutation(len(indices))[:wanted]
                chosen.extend(self._tasks[indices[i]] for i in drawn)
                wanted -= len(drawn)
        return chosen
