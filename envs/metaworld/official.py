"""Definitions of the official package: classes, tasks, and the environments that play them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.types import Task

CLASSES = tuple(ALL_V3_ENVIRONMENTS)
"""Names of the 50 task classes."""
HORIZON = 500
"""Steps per official episode."""
DT = 1 / SawyerXYZEnv.metadata["render_fps"]
"""Duration of a step (s)."""
ACTION_SPACE = spaces.Box(-1.0, 1.0, (4,), np.float32)
"""Displacements of the hand along x, y and z (cm per step), and the effort to close the gripper."""


@dataclass(frozen=True, eq=False)
class MetaWorldTask:
    """A Meta-World environment with one goal."""

    env_name: str
    """Name of the class, such as `reach-v3`."""
    rand_vec: Float[np.ndarray, " P"]
    """Official goal vector: initial object position and target (m), as the class defines them."""

    @property
    def parameters(self) -> Float[np.ndarray, " P"]:
        """The goal vector."""
        return self.rand_vec

    @property
    def goal(self) -> Float[np.ndarray, " 3"]:
        """Position of the target, or of the object to be moved (m)."""
        return self.rand_vec[-3:]


def make_official_env(env_name: str, reward_version: str = "v2") -> SawyerXYZEnv:
    """Official environment of a class; it needs a task before use."""
    return ALL_V3_ENVIRONMENTS[env_name](reward_function_version=reward_version)


def set_official_task(env: SawyerXYZEnv, task: MetaWorldTask) -> None:
    """Sets an official environment's goal, hidden from the observation as in all ML benchmarks.

    Takes effect at the environment's next `reset`.
    """
    goal = {"rand_vec": task.rand_vec, "env_cls": type(env), "partially_observable": True}
    env.set_task(Task(env_name=task.env_name, data=pickle.dumps(goal)))


def decode(task: Task) -> MetaWorldTask:
    """An official task as a `MetaWorldTask`.

    Official tasks hold pickled goals: decode only tasks that this process has made itself.
    """
    return MetaWorldTask(task.env_name, pickle.loads(task.data)["rand_vec"])


def observation_space() -> spaces.Box:
    """Official bounds, which are the same for every class while the goal is hidden."""
    hand, gripper, free = SawyerXYZEnv._HAND_SPACE, [1.0], np.full(14, np.inf)
    frame_high = np.concatenate([hand.high, gripper, free])
    frame_low = np.concatenate([hand.low, [-1.0], -free])
    hidden_goal = np.zeros(3)
    return spaces.Box(
        np.concatenate([frame_low, frame_low, hidden_goal]),
        np.concatenate([frame_high, frame_high, hidden_goal]),
        dtype=np.float64,
    )
