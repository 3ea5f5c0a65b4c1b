"""Scenes to draw MuJoCo's physics: a model, and states that place its bodies."""

# pyright: reportAttributeAccessIssue=false
# mujoco's C code has no types.

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

import mujoco
import numpy as np
from jaxtyping import Float64

DRAWN_STATE = int(
    mujoco.mjtState.mjSTATE_QPOS
    | mujoco.mjtState.mjSTATE_MOCAP_POS
    | mujoco.mjtState.mjSTATE_MOCAP_QUAT
)
"""Components of a recorded state, as flags of `mj_getState`: they determine all body poses."""


def drawn_state(model: mujoco.MjModel, data: mujoco.MjData) -> Float64[np.ndarray, " R"]:
    """The current state, as far as it can be drawn."""
    state = np.empty(mujoco.mj_stateSize(model, DRAWN_STATE))
    mujoco.mj_getState(model, data, state, DRAWN_STATE)
    return state


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A model to draw a task's states with."""

    model: mujoco.MjModel
    """The task's model: objects that tasks move are where this task has them."""
    camera: str
    """The model's camera with the best view; '' for a free camera that shows the whole model."""
    dt: float
    """Simulated time of a step, in seconds."""

    @property
    def state_size(self) -> int:
        """Numbers in a state (R)."""
        return mujoco.mj_stateSize(self.model, DRAWN_STATE)

    def show(self, data: mujoco.MjData, state: Float64[np.ndarray, " R"]) -> None:
        """Sets the poses of all bodies, cameras and lights of `data` to those of a state."""
        size = mujoco.mj_stateSize(self.model, DRAWN_STATE)
        mujoco.mj_setState(self.model, data, state[:size], DRAWN_STATE)
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)  # cameras may track centres of mass
        mujoco.mj_camlight(self.model, data)
        mujoco.mj_tendon(self.model, data)


@dataclass(frozen=True, kw_only=True)
class EditedScene(Scene):
    """A scene of many tasks: every state is followed by the model's numbers that tasks change."""

    edited: tuple[str, ...]
    """Names of the model's arrays, in the order in which their numbers follow a state."""

    @property
    def state_size(self) -> int:
        """Numbers in a state (R), including those of the model."""
        return super().state_size + sum(np.size(value) for value in self._values())

    def show(self, data: mujoco.MjData, state: Float64[np.ndarray, " R"]) -> None:
        """Writes the model's numbers into the model, and sets the poses as `Scene.show` does."""
        place = super().state_size
        for value in self._values():
            if isinstance(value, np.ndarray):  # a single number, such as a time step, is invisible
                value.flat = state[place : place + value.size]
            place += np.size(value)
        super().show(data, state)

    def _values(self) -> list[np.ndarray | float]:
        return [attrgetter(name)(self.model) for name in self.edited]
