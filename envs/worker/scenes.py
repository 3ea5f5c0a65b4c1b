"""What recordings of a user's environment are drawn in."""

from __future__ import annotations

from contextlib import closing
from copy import copy
from typing import Any

import gymnasium

from metarl.errors import UserError
from metarl.rollout.physics import Physics, physics_of
from metarl.rollout.player import MakeEnv, make, takes_task

CAMERA = "track"
"""What Gymnasium's own MuJoCo environments are drawn by."""


def scene_of(make_env: MakeEnv, task: Any) -> Any:
    """A `Scene`: the model of a task as a reset leaves it, in an environment that is made for this.

    Raises:
        UserError: the environment has no MuJoCo model.
    """
    from metarl.rollout.scene import Scene  # it imports MuJoCo

    with closing(make(make_env, task)) as env:
        if not takes_task(make_env):
            env.get_wrapper_attr("set_task")(task)
        env.reset(seed=0)
        physics = physics_of(env)
        if physics is None:
            raise UserError("the environment has no MuJoCo model")
        model = copy(physics.model)  # before the step, which may change it
        return Scene(model=model, camera=camera_of(env, model), dt=step_time(env, physics))


def camera_of(env: gymnasium.Env, model: Any) -> str:
    """The camera that the environment itself is drawn by, if it has a name; '' for a free one."""
    wanted = (getattr(env.unwrapped, "camera_name", None), CAMERA)
    cameras = [str(model.camera(k).name) for k in range(model.ncam)]
    return min((name for name in cameras if name in wanted), key=wanted.index, default="")


def step_time(env: gymnasium.Env, physics: Physics) -> float:
    """Seconds of simulated time in a step, by taking one."""
    before = physics.data.time
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    elapsed = physics.data.time - before
    return float(elapsed if elapsed > 0 else physics.model.opt.timestep)
