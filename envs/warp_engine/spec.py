"""What a scene on the device is, whatever the number of its worlds, and how much room it needs."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# Type checkers see nothing of mujoco's C code.

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import mujoco

from envs.engine.batch import STATE, SharedModel, Snapshot
from envs.warp_engine.worlds import WorldCode

Finish = Literal["positions", "forward", "contact forces", "nothing"]
"""What follows the substeps: the places of all things, all of `mj_forward`, forces, or nothing."""


class Room(NamedTuple):
    """How much fits into a scene's buffers."""

    contacts: int
    """Of a world; worlds share them, so one may have more."""
    constraints: int
    """Of a world."""

    def holds(self, needed: Room) -> bool:
        """Whether there is room for so much."""
        return needed.contacts <= self.contacts and needed.constraints <= self.constraints

    def grown(self, needed: Room) -> Room:
        """Room for half as much again as is needed, where there is too little."""
        return Room(
            *(
                have if enough <= have else enough + enough // 2
                for have, enough in zip(self, needed, strict=True)
            )
        )


class Noise(NamedTuple):
    """How starts differ from their snapshot: noise on positions and velocities."""

    scale: float
    normal_velocities: bool


@dataclass(frozen=True)
class SceneSpec:
    """What a scene is, whatever the number of its worlds.

    Attributes:
        scene: the compiled model, what tasks edit in it, and what is read.
        code: of its worlds.
        memory_size: numbers that `observe` carries from step to step.
        num_substeps: physics steps in a control step.
        finish: what follows them.
        noise: of starts, which are observed then; None where the snapshot's own observation is.
    """

    scene: SharedModel
    code: WorldCode
    memory_size: int
    num_substeps: int
    finish: Finish
    noise: Noise | None = None


def first_room(model: mujoco.MjModel, snapshot: Snapshot) -> Room:
    """A guess from the start of an episode; what turns out too small grows."""
    simulation = mujoco.MjData(model)
    mujoco.mj_setState(model, simulation, snapshot.state, STATE)
    mujoco.mj_forward(model, simulation)
    return Room(_rounded(48 + 2 * simulation.ncon), _rounded(128 + 2 * simulation.nefc))


def _rounded(count: int) -> int:
    return -(-count // 16) * 16
