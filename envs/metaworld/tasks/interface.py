"""Definition of a Meta-World task for the native engine, and its compilation.

A task is a pure reward function and a table entry that lists its readings of the simulation. This
module compiles both to one C callback: readings in; observation, reward, success and `info` out.
"""

# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# Type checkers take the typing context of intrinsics for an argument, and cannot see mujoco's C
# code.

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import Float32, Float64
from numba import types
from numba.core.ccallback import CFunc
from numba.np.numpy_support import carray

from envs.engine.batch import Reading, Touch
from envs.engine.compiled import compile_callback, inner, pointer, renamed
from envs.metaworld.tasks import shared, values, vectors
from envs.metaworld.tasks.values import Now, Outcome, Quaternion, Start, Vector
from envs.metaworld.tasks.vectors import clip, distance, quaternion, vec

OBS_SIZE = 39
FRAME_SIZE = 18  # numbers per frame; the observation holds two frames, then the goal
OBJECT_SIZE = 7  # position and quaternion of one object; a frame has room for two
FIRST_OBJECT, SECOND_OBJECT = 4, 4 + OBJECT_SIZE
HAND_LOW, HAND_HIGH = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)
GRIPPER_WIDTH = 0.1  # width (m) at which the observation counts the gripper as fully open
OUTCOME_SIZE = len(Outcome._fields)

# A task's constants begin with these attributes of the official environment; its own follow.
START_ATTRIBUTES = {"_target_pos": 0, "obj_init_pos": 3, "init_tcp": 6, "hand_init_pos": 9}
MOCAP_LOW, MOCAP_HIGH, ACTION_SCALE, EXTRA_CONSTANTS = 12, 15, 18, 19
MAX_CONSTANTS = 64


class Source(NamedTuple):
    """Numbers of `mjData` that belong to something named in the scene."""

    array: str
    kind: str
    name: str
    size: int

    def reading(self, model: mujoco.MjModel) -> Reading:
        """Location of the numbers in a model's `mjData`."""
        element = getattr(model, self.kind)(self.name)
        if self.kind == "joint":
            return Reading(self.array, int(element.qposadr[0]), self.size)
        return Reading(self.array, element.id * self.size, self.size)


class TouchForce(NamedTuple):
    """Force between two geoms (N): 1 number, as `touching_object` sums it over their contacts."""

    geom: str
    other: str
    size: int = 1

    def reading(self, model: mujoco.MjModel) -> Touch:
        """The geoms by their indices in a model."""
        return Touch(model.geom(self.geom).id, model.geom(self.other).id)


def body_pos(name: str) -> Source:
    """`data.body(name).xpos`, which is `get_body_com(name)`: 3 numbers."""
    return Source("xpos", "body", name, 3)


def site_pos(name: str) -> Source:
    """`data.site(name).xpos`, which is `_get_site_pos(name)`: 3 numbers."""
    return Source("site_xpos", "site", name, 3)


def geom_pos(name: str) -> Source:
    """`data.geom(name).xpos`: 3 numbers."""
    return Source("geom_xpos", "geom", name, 3)


def joint_pos(name: str) -> Source:
    """`data.joint(name).qpos` of a hinge or a slide: 1 number."""
    return Source("qpos", "joint", name, 1)


def body_quat(name: str) -> Source:
    """`data.body(name).xquat`: 4 numbers (w, x, y, z)."""
    return Source("xquat", "body", name, 4)


def body_matrix(name: str) -> Source:
    """`data.body(name).xmat`: 9 numbers. As a rotation, scipy's quaternion (x, y, z, w) of it."""
    return Source("xmat", "body", name, 9)


def geom_matrix(name: str) -> Source:
    """`data.geom(name).xmat`: 9 numbers. As a rotation, scipy's quaternion (x, y, z, w) of it."""
    return Source("geom_xmat", "geom", name, 9)


def site_matrix(name: str) -> Source:
    """`data.site(name).xmat`: 9 numbers. As a rotation, scipy's quaternion (x, y, z, w) of it."""
    return Source("site_xmat", "site", name, 9)


@dataclass(frozen=True)
class Object:
    """One object of the observation.

    Attributes:
        position: source of its position.
        rotation: source of its rotation, or the official constant quaternion.
        offset: displacement added to the position (m): constant, or an `inner` function of the
            task's own readings (the dial).
    """

    position: Source
    rotation: Source | tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    offset: tuple[float, float, float] | Callable = (0.0, 0.0, 0.0)

    def sources(self) -> tuple[Source, ...]:
        """Its readings."""
        return tuple(s for s in (self.position, self.rotation) if isinstance(s, Source))


@dataclass(frozen=True)
class TaskCode:
    """Definition of a task's observation and reward.

    Attributes:
        env_name: official name.
        reward: pure function `(now: Now, start: Start) -> Outcome`, decorated with `inner`.
        objects: one or two objects, in the observation's order.
        readings: further numbers of the simulation; `now.extra` holds them in this order.
        constants: further attributes of the official environment; `start.extra` holds them.
    """

    env_name: str
    reward: Callable[[Now, Start], Outcome]
    objects: tuple[Object, ...]
    readings: tuple[Source | TouchForce, ...] = ()
    constants: tuple[str, ...] = ()

    def sources(self) -> tuple[Source | TouchForce, ...]:
        """All readings, in order: the arm, the objects, the task's own."""
        objects = tuple(s for o in self.objects for s in o.sources())
        return ARM + objects + self.readings


ARM = (
    body_pos("hand"),
    body_pos("rightclaw"),
    body_pos("leftclaw"),
    site_pos("rightEndEffector"),
    site_pos("leftEndEffector"),
    body_pos("leftpad"),
    body_pos("rightpad"),
)
HAND, RIGHT_CLAW, LEFT_CLAW, RIGHT_END, LEFT_END, LEFT_PAD, RIGHT_PAD, ARM_SIZE = range(0, 24, 3)


NO_ROTATION, QUATERNION, MATRIX = range(3)  # kinds of an object's rotation


@inner
def _middle(a: Vector, b: Vector) -> Vector:
    return (a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0, (a[2] + b[2]) / 2.0


@inner
def _begin_frame(
    readings: Float64[np.ndarray, " R"],
    last_frame: Float64[np.ndarray, " 18"],
    obs: Float64[np.ndarray, " 39"],
) -> None:
    """Write an observation without its objects: current arm, last frame, hidden goal."""
    hand = vec(readings, HAND)
    opened = distance(vec(readings, RIGHT_CLAW), vec(readings, LEFT_CLAW)) / GRIPPER_WIDTH
    for k in range(3):
        obs[k], obs[2 * FRAME_SIZE + k] = hand[k], 0.0
    obs[3] = clip(opened, 0.0, 1.0)
    for k in range(FRAME_SIZE):
        obs[FRAME_SIZE + k] = last_frame[k]
    for k in range(FIRST_OBJECT, FRAME_SIZE):
        obs[k] = 0.0


@inner
def _add_object(
    readings: Float64[np.ndarray, " R"],
    at: int,
    rotation: int,
    constant: Quaternion,
    offset: Vector,
    frame: Float64[np.ndarray, " 7"],
) -> None:
    """Write the seven numbers of an object into a frame."""
    for k in range(3):
        frame[k] = readings[at + k] + offset[k]
    if rotation == MATRIX:
        turned = quaternion(readings[at + 3 : at + 12])
    elif rotation == QUATERNION:
        turned = readings[at + 3], readings[at + 4], readings[at + 5], readings[at + 6]
    else:
        turned = constant
    for k in range(4):
        frame[3 + k] = turned[k]


@inner
def _end_frame(last_frame: Float64[np.ndarray, " 18"], obs: Float64[np.ndarray, " 39"]) -> None:
    """Store the unclipped frame, then clip the observation to its space."""
    for k in range(FRAME_SIZE):
        last_frame[k] = obs[k]
    for k in range(3):
        obs[k] = clip(obs[k], HAND_LOW[k], HAND_HIGH[k])
        obs[FRAME_SIZE + k] = clip(obs[FRAME_SIZE + k], HAND_LOW[k], HAND_HIGH[k])


@inner
def _present(
    readings: Float64[np.ndarray, " R"],
    action: Float32[np.ndarray, " 4"],
    obs: Float64[np.ndarray, " 39"],
    extra: Float64[np.ndarray, " E"],
) -> Now:
    return Now(
        hand=vec(obs, 0),
        opened=obs[3],
        obj=vec(obs, FIRST_OBJECT),
        quat=(obs[7], obs[8], obs[9], obs[10]),
        obj2=vec(obs, SECOND_OBJECT),
        tcp=_middle(vec(readings, RIGHT_END), vec(readings, LEFT_END)),
        left_pad=vec(readings, LEFT_PAD),
        right_pad=vec(readings, RIGHT_PAD),
        grip=action[3],
        extra=extra,
    )


@inner
def _start(constants: Float64[np.ndarray, " C"]) -> Start:
    return Start(
        target=vec(constants, 0),
        obj_init=vec(constants, 3),
        init_tcp=vec(constants, 6),
        hand_init=vec(constants, 9),
        extra=constants[EXTRA_CONSTANTS:],
    )


def _object_writer(seen: Object, at: int, *, name: str) -> Callable:
    """Compiled function that writes an object into a frame; its readings start at `at`."""
    offset, rotation = seen.offset, seen.rotation
    if isinstance(rotation, Source):
        kind, constant = (MATRIX if rotation.size == 9 else QUATERNION), (0.0, 0.0, 0.0, 0.0)
    else:
        kind, constant = NO_ROTATION, rotation
    if callable(offset):

        def write(readings, extra, frame):
            _add_object(
                readings=readings,
                at=at,
                rotation=kind,
                constant=constant,
                offset=offset(extra),
                frame=frame,
            )

    else:

        def write(readings, extra, frame):
            _add_object(
                readings=readings,
                at=at,
                rotation=kind,
                constant=constant,
                offset=offset,
                frame=frame,
            )

    return inner(renamed(inspect.unwrap(write), name))


@inner
def _write_nothing(
    readings: Float64[np.ndarray, " R"],
    extra: Float64[np.ndarray, " E"],
    frame: Float64[np.ndarray, " 7"],
) -> None:
    pass


def observe_function(task: TaskCode) -> Callable:
    """The task as one compiled function of arrays, to be called from compiled code.

    `observe(readings, constants, action, last_frame, obs, outcome)` writes the last three; the
    outcome is an `Outcome`. It allocates no memory and uses no addresses, so it also compiles for a
    GPU.
    """
    second_at = ARM_SIZE + sum(s.size for s in task.objects[0].sources())
    size = sum(s.size for s in task.sources())
    extra_at = size - sum(s.size for s in task.readings)
    name = f"observe_{task.env_name}"
    write_first = _object_writer(task.objects[0], ARM_SIZE, name=f"{name}_first")
    write_second = _write_nothing
    if len(task.objects) > 1:
        write_second = _object_writer(task.objects[1], second_at, name=f"{name}_second")
    reward = task.reward

    def observe(readings, constants, action, last_frame, obs, outcome):
        extra = readings[extra_at:size]
        _begin_frame(readings, last_frame, obs)
        write_first(readings, extra, obs[FIRST_OBJECT:SECOND_OBJECT])
        write_second(readings, extra, obs[SECOND_OBJECT:FRAME_SIZE])
        _end_frame(last_frame, obs)
        result = reward(_present(readings, action, obs, extra), _start(constants))
        outcome[0] = result.reward
        outcome[1] = result.success
        outcome[2] = result.near_object
        outcome[3] = result.grasp_reward
        outcome[4] = result.in_place_reward
        outcome[5] = result.obj_to_target

    return inner(renamed(inspect.unwrap(observe), f"{name}_arrays"))


def observe_sources(task: TaskCode) -> list[str]:
    """Source files of a task's code."""
    modules = (shared.__file__, values.__file__, vectors.__file__)
    return [__file__, *modules, task.reward.__code__.co_filename]


def compile_observe(task: TaskCode) -> CFunc:
    """The task as the `observe` callback of `envs.engine.batch`; its outcome is an `Outcome`."""
    size = sum(s.size for s in task.sources())
    observe = observe_function(task)

    def observe_addresses(readings_at, constants_at, action_at, memory_at, obs_at, outcome_at):
        observe(
            carray(pointer(readings_at, types.float64), size),
            carray(pointer(constants_at, types.float64), MAX_CONSTANTS),
            carray(pointer(action_at, types.float32), 4),
            carray(pointer(memory_at, types.float64), FRAME_SIZE),
            carray(pointer(obs_at, types.float64), OBS_SIZE),
            carray(pointer(outcome_at, types.float64), OUTCOME_SIZE),
        )

    return compile_callback(
        observe_addresses,
        types.void(*[types.int64] * 6),
        name=f"observe_{task.env_name}",
        sources=observe_sources(task),
    )
