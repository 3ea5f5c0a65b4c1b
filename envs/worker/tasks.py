"""A user's tasks: reading them from a module, and sending them between processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from metarl.errors import UserError, nearest, printable
from metarl.system.user_module import UserModule
from metarl.tasks import TaskSet

NAMES = ("train_tasks", "test_tasks", "horizon", "make_env")
"""Names that a module must define."""
MOST_TASKS = 1_000_000
"""Largest number of tasks; an iterable with more is taken to be endless."""
PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True, eq=False)
class GymnasiumTask:
    """A task as the user wrote it, and its numbers in one row."""

    value: Any
    parameters: Float[np.ndarray, " P"]
    env_name: str

    def __reduce__(self) -> tuple[type[GymnasiumTask], tuple[Any, ...]]:
        # The receiving process need not load the user's module to unpickle the task.
        return GymnasiumTask, (sealed(self.value), self.parameters, self.env_name)


@dataclass(frozen=True, eq=False)
class Sealed:
    """A pickled task of a type defined in the user's code; `opened` where that code is loaded."""

    content: bytes
    shown: str

    def __repr__(self) -> str:
        return self.shown


def sealed(value: Any) -> Any:
    """The value itself if it is plain Python and NumPy, else `Sealed`; safe for any process.

    Raises:
        UserError: it cannot be sent at all.
    """
    if isinstance(value, Sealed) or _is_plain(value):
        return value
    try:
        return Sealed(pickle.dumps(value), printable(repr(value)))
    except Exception as error:
        raise UserError(
            f"a task cannot be sent to a process ({printable(error)}); make it of numbers, or set "
            "num_workers to 0"
        ) from None


def opened(value: Any) -> Any:
    """The task as the user wrote it."""
    return pickle.loads(value.content) if isinstance(value, Sealed) else value


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if kind in (list, tuple):
        return all(map(_is_plain, value))
    if kind is np.ndarray or isinstance(value, np.generic):
        return not value.dtype.hasobject
    return kind in PLAIN


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Contents of a module, except its environments."""

    name: str
    train_tasks: list[GymnasiumTask]
    test_tasks: list[GymnasiumTask]
    horizon: int


def contents_of(module: UserModule, horizon: int | None) -> Contents:
    """Contents of a module; `horizon`, if given, overrides the module's.

    Raises:
        UserError: the module cannot be imported, or a name is missing or has a wrong value.
    """
    names = vars(module.loaded)
    missing = missing_names({**names, "horizon": horizon} if horizon else names)
    if missing:
        raise UserError(f"{module.source}: {missing[0]}")
    name = str(names.get("name", module.name))
    train, test = (
        list(read_tasks(names[which], name=which, env_name=name))
        for which in ("train_tasks", "test_tasks")
    )
    return Contents(
        name=name,
        train_tasks=train,
        test_tasks=test,
        horizon=check_horizon(horizon or names["horizon"]),
    )


def missing_names(names: Mapping[str, Any]) -> list[str]:
    """A message for each required name that is not among these."""
    others = [name for name in names if not name.startswith("_") and name not in NAMES]
    return [
        f"there is no {name}; a module of tasks has {', '.join(NAMES)}.{nearest(name, others)}"
        for name in NAMES
        if name not in names
    ]


def check_horizon(horizon: Any) -> int:
    """The horizon as an int.

    Raises:
        UserError: it is no positive integer.
    """
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
        raise UserError(f"horizon must be a whole number of steps, 1 or more, but is {horizon!r}")
    return int(horizon)


def read_tasks(values: Any, *, name: str, env_name: str) -> TaskSet[Any]:
    """Tasks from the user's list called `name`; keeps those that were read before.

    Raises:
        UserError: the list is empty, or a task is not made of finite numbers.
    """
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise UserError(f"{name} must be a list of tasks, but is {values!r}")
    tasks = []
    for number, value in enumerate(values):
        if number == MOST_TASKS:
            raise UserError(f"{name} does not end: it has more than {MOST_TASKS:,} tasks")
        if isinstance(value, GymnasiumTask):
            tasks.append(value)
            continue
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
