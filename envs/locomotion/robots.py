"""Gymnasium's MuJoCo robots: models, observations, falls and starts of episodes.

Models, ranges and noise are read from Gymnasium's own v5 environments; this module only defines
which numbers make up an observation, in which order.
"""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see into mujoco's C code.

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from jaxtyping import Float

from envs.engine.batch import MEAN_INERTIA, Finish, Reading, SharedModel

PARAMETERS = ("body_mass", "body_inertia", "dof_damping", "geom_friction")
"""Model arrays that tasks may multiply."""
DERIVED = ("body_subtreemass", "body_invweight0", "dof_M0", "dof_invweight0", "actuator_acc0")
"""Model arrays that `mj_setConst` derives from them, besides `stat.meaninertia`."""
EDITED = (*PARAMETERS, *DERIVED, MEAN_INERTIA)


@dataclass(frozen=True)
class Robot:
    """One of Gymnasium's v5 robots."""

    env_id: str
    observed: tuple[tuple[str, int], ...]
    """Arrays of `mjData` that make up the observation, each with its first index."""
    position: Literal["root", "torso", "mass centre"]
    """Point that defines the robot's position; the root of planar robots moves along x only."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of Gymnasium's environment."""
    clipped: tuple[str, float] = ("", np.inf)
    """Array that is clipped to ± a limit in the observation, and the limit."""
    healthy: tuple[tuple[str, str, int | slice], ...] = ()
    """Healthy ranges: Gymnasium's name of the range, the array, and its indices."""
    normal_velocities: bool = False
    """True if the noise of initial velocities is normal instead of uniform."""


_QPOS1 = (("qpos", 1), ("qvel", 0))
_ANT = Robot(
    "Ant-v5",
    observed=(("qpos", 2), ("qvel", 0), ("cfrc_ext", 6)),
    position="torso",
    clipped=("cfrc_ext", 1.0),
    healthy=(("_healthy_z_range", "qpos", 2),),
    normal_velocities=True,
)
ROBOTS = {
    "HalfCheetah": Robot(
        "HalfCheetah-v5", observed=_QPOS1, position="root", normal_velocities=True
    ),
    "Ant": _ANT,
    "Ant with position": replace(
        _ANT,
        observed=(("qpos", 0), ("qvel", 0), ("cfrc_ext", 6)),
        options={"exclude_current_positions_from_observation": False},
    ),
    "Humanoid": Robot(
        "Humanoid-v5",
        observed=(
            ("qpos", 2), ("qvel", 0), ("cinert", 10), ("cvel", 6), ("qfrc_actuator", 6),
            ("cfrc_ext", 6),
        ),
        position="mass centre",
        healthy=(("_healthy_z_range", "qpos", 2),),
    ),
    "Hopper": Robot(
        "Hopper-v5",
        observed=_QPOS1,
        position="root",
        clipped=("qvel", 10.0),
        healthy=(
            ("_healthy_z_range", "qpos", 1),
            ("_healthy_angle_range", "qpos", 2),
            ("_healthy_state_range", "qpos", slice(2, None)),
            ("_healthy_state_range", "qvel", slice(0, None)),
        ),
    ),
    "Walker2d": Robot(
        "Walker2d-v5",
        observed=_QPOS1,
        position="root",
        clipped=("qvel", 10.0),
        healthy=(("_healthy_z_range", "qpos", 1), ("_healthy_angle_range", "qpos", 2)),
    ),
    "Swimmer": Robot("Swimmer-v5", observed=(("qpos", 2), ("qvel", 0)), position="root"),
}  # fmt: skip


class Check(NamedTuple):
    """Range of observed numbers `start` to `stop`, before clipping, outside which a robot fell."""

    start: int
    stop: int
    low: float
    high: float


@dataclass(frozen=True)
class Body:
    """A robot's scene and the layout of its readings.

    Readings are the O numbers of the observation, then the positions of W points whose weighted
    mean is the robot's position.
    """

    scene: SharedModel
    dt: float
    """Duration of a step (s)."""
    num_substeps: int
    finish: Finish
    action_space: spaces.Box
    obs_size: int
    slices: dict[str, slice]
    """Slice of the observation that holds each array."""
    clip: tuple[slice, float]
    weights: Float[np.ndarray, " W"]
    """Weights of the points."""
    dimensions: int
    """Coordinates of a point: 1 for x, 2 for x and y."""
    checks: tuple[Check, ...]
    start: Float[np.ndarray, " S"]
    """Full state of a start without noise."""
    noise: float
    """Scale of the noise added to a start."""
    qpos: slice
    qvel: slice
    """Slices of the full state that hold positions (`qpos`) and velocities (`qvel`)."""


@cache
def official(robot: str) -> MujocoEnv:
    """Gymnasium's own environment of a robot; never stepped."""
    made = ROBOTS[robot]
    env = gymnasium.make(made.env_id, **made.options).unwrapped
    assert isinstance(env, MujocoEnv)
    return env


@cache
def body(robot: str) -> Body:
    """A robot's scene and layout for the engine."""
    made, env = ROBOTS[robot], official(robot)
    assert isinstance(env.action_space, spaces.Box)
    model, simulation = env.model, mujoco.MjData(env.model)
    readings, slices, place = [], {}, 0
    for array, first in made.observed:
        size = getattr(simulation, array).size - first
        readings.append(Reading(array, first, size))
        slices[array] = slice(place, place + size)
        place += size
    points, weights = _points(made, model)
    clipped, limit = made.clipped
    before = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_TIME.value)
    scene = SharedModel(model, EDITED, [*readings, *points])
    start = np.empty(scene.state_size)
    mujoco.mj_getState(model, simulation, start, mujoco.mjtState.mjSTATE_INTEGRATION.value)
    return Body(
        scene=scene,
        dt=env.dt,
        num_substeps=env.frame_skip,
        finish="contact forces" if "cfrc_ext" in slices else "nothing",
        action_space=env.action_space,
        obs_size=place,
        slices=slices,
        clip=(slices.get(clipped, slice(0, 0)), limit),
        weights=weights,
        dimensions=points[0].size,
        checks=tuple(
            _check(getattr(env, name), array, numbers, slices, dict(made.observed))
            for name, array, numbers in made.healthy
        ),
        start=start,
        noise=env._reset_noise_scale,
        qpos=slice(before, before + model.nq),
        qvel=slice(before + model.nq, before + model.nq + model.nv),
    )


def _points(robot: Robot, model: mujoco.MjModel) -> tuple[list[Reading], Float[np.ndarray, " W"]]:
    if robot.position == "torso":
        return [Reading("xpos", 3 * model.body("torso").id, 2)], np.ones(1)
    if robot.position == "mass centre":
        bodies = range(1, model.nbody)
        return [Reading("xipos", 3 * b, 2) for b in bodies], model.body_mass[1:] / sum(
            model.body_mass
        )
    planar = dict(robot.observed)["qpos"] == 1
    return [Reading("qpos", 0, 1 if planar else 2)], np.ones(1)


def _check(
    limits: tuple[float, float],
    array: str,
    numbers: int | slice,
    slices: dict[str, slice],
    firsts: dict[str, int],
) -> Check:
    whole = slices[array]
    if isinstance(numbers, slice):
        return Check(whole.start + numbers.start - firsts[array], whole.stop, *limits)
    start = whole.start + numbers - firsts[array]
    return Check(start, start + 1, *limits)


def edits(robot: str, multipliers: dict[str, np.ndarray]) -> Float[np.ndarray, " E"]:
    """Edited arrays of a robot whose parameters are multiplied, with the derived arrays (E,)."""
    scene = body(robot).scene
    if not multipliers:
        return scene.edits(scene.model)
    model = scene.model.__copy__()
    for name, factors in multipliers.items():
        getattr(model, name)[:] *= factors
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return scene.edits(model)


def noiseless_start(robot: str) -> Float[np.ndarray, " S"]:
    """Full state without noise, the centre of the distribution of starts."""
    here, env = body(robot), official(robot)
    state = here.start.copy()
    state[here.qpos], state[here.qvel] = env.init_qpos, env.init_qvel
    return state


def draw_start(robot: str, rng: np.random.Generator) -> Float[np.ndarray, " S"]:
    """Full state of an episode's start, drawn as Gymnasium draws it."""
    here, env = body(robot), official(robot)
    state = here.start.copy()
    state[here.qpos] = env.init_qpos + rng.uniform(-here.noise, here.noise, env.model.nq)
    if ROBOTS[robot].normal_velocities:
        state[here.qvel] = env.init_qvel + here.noise * rng.standard_normal(env.model.nv)
    else:
        state[here.qvel] = env.init_qvel + rng.uniform(-here.noise, here.noise, env.model.nv)
    return state
