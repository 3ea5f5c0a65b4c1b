"""The physics inside an environment of a user, where MuJoCo computes it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float64

from metarl.errors import UserError


class Physics(NamedTuple):
    """A model of MuJoCo and its present state."""

    model: Any
    data: Any


def physics_of(env: gymnasium.Env) -> Physics | None:
    """`model` and `data` of the innermost environment, as Gymnasium's `MujocoEnv` has them; None
    where they are not there, or no MuJoCo."""
    mujoco = sys.modules.get("mujoco")  # who has a model has imported it; nobody else has to wait
    model, data = (getattr(env.unwrapped, name, None) for name in Physics._fields)
    if mujoco and isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData):
        return Physics(model, data)
    return None


def state_of(env: gymnasium.Env) -> Float64[np.ndarray, " R"]:
    """What can be drawn of the present.

    Raises:
        UserError: there is no MuJoCo model.
    """
    from metarl.rollout.scene import drawn_state  # it imports MuJoCo

    # Asked for each time: an environment may make itself a new model in a reset.
    found = physics_of(env)
    if found is None:
        raise UserError("the environment cannot be recorded: it has no MuJoCo model")
    return drawn_state(*found)
