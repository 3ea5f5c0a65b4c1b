"""MuJoCo's model and state inside a user's environment."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from jaxtyping import Float64

from metarl.errors import UserError


class Physics(NamedTuple):
    """A MuJoCo model and its current state."""

    model: Any
    data: Any


def physics_of(env: gymnasium.Env) -> Physics | None:
    """`model` and `data` of the innermost environment, as Gymnasium's `MujocoEnv` has them; None if
    they do not exist or are not MuJoCo's."""
    # An environment with a model has imported MuJoCo; all others need not wait for the import.
    mujoco = sys.modules.get("mujoco")
    model, data = (getattr(env.unwrapped, name, None) for name in Physics._fields)
    if mujoco and isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData):
        return Physics(model, data)
    return None


def state_of(env: gymnasium.Env) -> Float64[np.ndarray, " R"]:
    """The current state, as far as it can be drawn.

    Raises:
        UserError: the environment has no MuJoCo model.
    """
    from metarl.rollout.scene import drawn_state  # this imports MuJoCo

    # Looked up each time: an environment may create a new model in a reset.
    found = physics_of(env)
    if found is None:
        raise UserError("the environment cannot be recorded: it has no MuJoCo model")
    return drawn_state(*found)
