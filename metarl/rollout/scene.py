"""What is drawn of MuJoCo's physics: a model, and states that put its bodies in their places."""

# pyright: reportAttributeAccessIssue=false
# Type checkers see nothing of mujoco's C code.

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
"""What is written down, as `mj_getState` calls it: all that the places of bodies follow from."""


def drawn_state(model: mujoco.MjModel, data: mujoco.MjData) -> Float64[np.ndarray, " R"]:
    """What can be drawn of the present."""
    state = np.empty(mujoco.mj_stateSize(model, DRAWN_STATE))
    mujoco.mj_getState(model, data, state, DRAWN_STATE)
    return state


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A model to draw a task's states with."""

    model: mujoco.MjModel
    """As the task has it: things that tasks move stand where they stand in this one."""
    camera: str
    """The camera of the model that shows it best; '' for a free one that looks at all of it."""
    dt: float
    """Seconds of simulated time in a step."""

    @property
    def state_size(self) -> int:
        """How many numbers a state has here."""
        return mujoco.mj_stateSize(self.model, DRAWN_STATE)

    def show(self, data: mujoco.MjData, state: Float64[np.ndarray, " R"]) -> None:
        """Puts all bodies of `data`, cameras and lights where they were in that state."""
        size = mujoco.mj_stateSize(self.model, DRAWN_STATE)
        mujoco.mj_setState(self.model, data, state[:size], DRAWN_STATE)
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)  # of what cameras look at
        mujoco.mj_camlight(self.model, data)
        mujoco.mj_tendon(self.model, data)


@dataclass(frozen=True, kw_only=True)
class EditedScene(Scene):
    """A scene of many tasks: with every state come the numbers of the model that they differ in."""

    edited: tuple[str, ...]
    """Names of arrays of the model, in the order in which their numbers follow a state."""

    @property
    def state_size(self) -> int:
        """How many numbers a state has here, with those of the model."""
        return super().state_size + sum(np.size(value) for value in self._values())

    def show(self, data: mujoco.MjData, state: Float64[np.ndarray, " R"]) -> None:
        """Puts the numbers into the model, which changes it, and all bodies in their places."""
        place = super().state_size
        for value in self._values():
            if isinstance(value, np.ndarray):  # else it cannot be seen
                value.flat = state[place : place + value.size]
            place += np.size(value)
        super().show(data, state)

    def _values(self) -> list[np.ndarray | float]:
        return [attrgetter(name)(self.model) for name in self.edited]
