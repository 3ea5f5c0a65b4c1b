"""Specification of a scene on the device, for any number of worlds, and its buffer sizes."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# Type checkers cannot see into mujoco's C code.

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import mujoco

from envs.engine.batch import STATE, SharedModel, Snapshot
from envs.warp_engine.worlds import WorldCode

Finish = Literal["positions", "forward", "contact forces", "nothing"]
"""Computation after the substeps: poses of all bodies, a whole `mj_forward`, contact forces, or
nothing."""


class Room(NamedTuple):
    """Capacity of a scene's buffers."""

    contacts: int
    """Contacts per world; worlds share the buffer, so one may have more."""
    constraints: int
    """Constraints per world."""

    def holds(self, needed: Room) -> bool:
        """True if `needed` fits."""
        return needed.contacts <= self.contacts and needed.constraints <= self.constraints

    def grown(self, needed: Room) -> Room:
        """A capacity in which each number that is too small becomes 1.5 times the need."""
        return Room(
            *(
                have if enough <= have else enough + enough // 2
                for have, enough in zip(self, needed, strict=True)
            )
        )


class Noise(NamedTuple):
    """Noise that starts add to the snapshot's positions and velocities."""

    scale: float
    normal_velocities: bool


@dataclass(frozen=True)
class SceneSpec:
    """Specification of a scene, for any number of worlds.

    Attributes:
        scene: the compiled model, its edited arrays and its readings.
        code: code of its worlds.
        memory_size: number of values that `observe` carries from step to step.
        num_substeps: physics steps per control step.
        finish: computation after the substeps.
        noise: noise of starts, which are then observed; None to take the snapshot's observation.
    """

    scene: SharedModel
    code: WorldCode
    memory_size: int
    num_substeps: int
    finish: Finish
    noise: Noise | None = None


def first_room(model: mujoco.MjModel, snapshot: Snapshot) -> Room:
    """Initial capacity, guessed from the start of an episode; it grows if it proves too small."""
    simulation = mujoco.MjData(model)
    mujoco.mj_setState(model, simulation, snapshot.state, STATE)
    mujoco.mj_forward(model, simulation)
    return Room(_rounded(48 + 2 * simulation.ncon), _rounded(128 + 2 * simulation.nefc))


def _rounded(count: int) -> int:
    return -(-count // 16) * 16
