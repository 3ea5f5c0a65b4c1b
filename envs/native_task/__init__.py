"""Interface for your own Meta-World-like tasks on the native engine.

A module declares `task` (a `NativeTask`), `train_tasks`, `test_tasks` and `horizon`;
docs/your_own_native_task.md has a complete example.
"""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TouchForce,
    body_matrix,
    body_pos,
    body_quat,
    geom_matrix,
    geom_pos,
    joint_pos,
    site_matrix,
    site_pos,
)
from envs.metaworld.tasks.shared import gaussian, hamacher_product, long_tail
from envs.metaworld.tasks.values import Now, Outcome, Quaternion, Start, Vector
from envs.metaworld.tasks.vectors import (
    clip,
    distance,
    distance_xy,
    minus,
    norm,
    plus,
    scaled,
    vec,
)
from envs.native_task.declaration import NativeTask
from envs.native_task.distribution import NativeTaskConfig, NativeTaskEnv, NativeTasks

__all__ = [
    "NativeTask",
    "NativeTaskConfig",
    "NativeTaskEnv",
    "NativeTasks",
    "Now",
    "Object",
    "Outcome",
    "Quaternion",
    "Start",
    "TouchForce",
    "Vector",
    "body_matrix",
    "body_pos",
    "body_quat",
    "clip",
    "distance",
    "distance_xy",
    "gaussian",
    "geom_matrix",
    "geom_pos",
    "hamacher_product",
    "inner",
    "joint_pos",
    "long_tail",
    "minus",
    "norm",
    "plus",
    "scaled",
    "site_matrix",
    "site_pos",
    "vec",
]
