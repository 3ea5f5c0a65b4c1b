"""Scenes for the recordings of a user's environment."""

from __future__ import annotations

from contextlib import closing
from copy import copy
from typing import Any

import gymnasium

from metarl.errors import UserError
from metarl.rollout.physics import Physics, physics_of
from metarl.rollout.player import MakeEnv, make, takes_task

CAMERA = "track"
"""Camera of Gymnasium's own MuJoCo environments."""


def scene_of(make_env: MakeEnv, task: Any) -> Any:
    """The `Scene` of a task, with the model as a reset leaves it in a newly made environment.

    Raises:
        UserError: the environment has no MuJoCo model.
    """
    from metarl.rollout.scene import Scene  # imported here because it loads MuJoCo

    with closing(make(make_env, task)) as env:
        if not takes_task(make_env):
            env.get_wrapper_attr("set_task")(task)
        env.reset(seed=0)
        physics = physics_of(env)
        if physics is None:
            raise UserError("the environment has no MuJoCo model")
        model = copy(physics.model)  # before `step_time` takes a step, which may change it
        return Scene(model=model, camera=camera_of(env, model), dt=step_time(env, physics))


def camera_of(env: gymnasium.Env, model: Any) -> str:
    """Name of the camera that the environment itself renders with; '' for a free camera."""
    wanted = (getattr(env.unwrapped, "camera_name", None), CAMERA)
    cameras = [str(model.camera(k).name) for k in range(model.ncam)]
    return min((name for name in cameras if name in wanted), key=wanted.index, default="")


def step_time(env: gymnasium.Env, physics: Physics) -> float:
    """Simulated duration of a step (s), measured by taking one."""
    before = physics.data.time
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    elapsed = physics.data.time - before
    return float(elapsed if elapsed > 0 else physics.model.opt.timestep)
