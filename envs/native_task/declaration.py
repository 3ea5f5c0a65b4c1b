"""A task of the native engine as a user declares it, and the module that declares it."""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see into mujoco's C code.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco

from envs.metaworld.tasks.interface import Object, Source, TouchForce
from envs.metaworld.tasks.values import Now, Outcome, Start, Vector
from envs.worker.tasks import GymnasiumTask, check_horizon, read_tasks
from metarl.errors import UserError, nearest, printable
from metarl.system.user_module import UserModule
from metarl.tasks import TaskSet

NAMES = ("task", "train_tasks", "test_tasks", "horizon")
"""Names that a module must define; `name` is optional."""

Place = Callable[[mujoco.MjModel, mujoco.MjData, Any], Sequence[float] | None]
"""`place(model, data, task)` sets up a task's scene and returns the target (x, y, z) (m)."""


@dataclass(frozen=True, kw_only=True)
class NativeTask:
    """A class of tasks around Meta-World's table and Sawyer arm."""

    xml: str
    """MJCF text of everything except the table and the arm, which the engine adds. Files in it need
    absolute paths."""
    reward: Callable[[Now, Start], Outcome]
    """Pure function, decorated with `inner`. `start.extra` holds the numbers of the task."""
    objects: tuple[Object, ...]
    """One or two objects that the agent observes."""
    place: Place
    """Python function that sets up the start of a task's episodes. It may change `data` and the
    model's `body_pos`, `body_quat` and `site_pos`. It is called once per task."""
    readings: tuple[Source | TouchForce, ...] = ()
    """Further readings of the simulation for the reward; `now.extra` holds them."""
    hand_init: Vector = (0.0, 0.6, 0.2)
    """Position to which the hand moves before an episode starts (m)."""
    hand_low: Vector = (-0.5, 0.4, 0.05)
    """Lower bounds of the positions that actions can command (m)."""
    hand_high: Vector = (0.5, 1.0, 0.5)
    """Upper bounds of the positions that actions can command (m)."""
    frame_skip: int = 5
    """Physics steps of 2.5 ms per environment step."""
    camera: str = "corner2"
    """Camera of replays and videos: one of the arm or of `xml`."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """Content of a user's module."""

    module: UserModule
    name: str
    task: NativeTask
    train_tasks: TaskSet[GymnasiumTask]
    test_tasks: TaskSet[GymnasiumTask]
    horizon: int


def read_declaration(module: UserModule, horizon: int | None) -> Declaration:
    """Content of a module, which is executed; `horizon`, if given, overrides the module's.

    Raises:
        UserError: the module cannot be imported, or a name is missing or has a wrong value.
    """
    names = dict(vars(module.loaded))
    if horizon is not None:
        names["horizon"] = horizon
    for wanted in NAMES:
        if wanted not in names:
            others = [name for name in names if not name.startswith("_") and name not in NAMES]
            raise UserError(
                f"{module.source}: there is no {wanted}; a native task has {', '.join(NAMES)}."
                f"{nearest(wanted, others)}"
            )
    task = names["task"]
    if not isinstance(task, NativeTask):
        raise UserError(
            f"{module.source}: task must be a NativeTask, but is {printable(repr(task))}"
        )
    name = str(names.get("name", module.name))
    try:
        train = read_tasks(names["train_tasks"], name="train_tasks", env_name=name)
        test = read_tasks(names["test_tasks"], name="test_tasks", env_name=name)
        steps = check_horizon(names["horizon"])
    except UserError as error:
        raise UserError(f"{module.source}: {error}") from error
    if shared := train.shared_with(test):
        raise UserError(
            f"{module.source}: {printable(repr(shared[0].value))} is in train_tasks and in "
            "test_tasks; keep it in one of them"
        )
    return Declaration(
        module=module, name=name, task=task, train_tasks=train, test_tasks=test, horizon=steps
    )
