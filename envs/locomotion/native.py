"""Locomotion on the native engine: Gymnasium's physics and observations, a compiled reward."""

# pyright: reportCallIssue=false
# Type checkers take the typing context of intrinsics for an argument.

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Shaped
from numba import types
from numba.core.ccallback import CFunc
from numba.np.numpy_support import carray

from envs.engine.batch import Batch, SharedModel, Snapshot
from envs.engine.compiled import compile_callback, inner, pointer
from envs.engine.env import EngineEnv
from envs.locomotion import variants
from envs.locomotion.robots import body, draw_start, edits
from envs.locomotion.variants import (
    VARIANTS,
    LocomotionTask,
    Term,
    Variant,
    multipliers,
    target,
)
from metarl.rollout.scene import Scene

CAMERA = "track"
OUTCOME = ("reward", "success", "fallen", "x_velocity", "y_velocity", "reward_term")

# Indices of a slot's constants. A check is four numbers: start and stop among the readings, low and
# high. The weights of the points follow.
MAX_CHECKS = 4
(
    NUM_OBS,
    NUM_ACTIONS,
    CLIP_FROM,
    CLIP_TO,
    CLIP,
    FORCES_FROM,
    FORCES_TO,
    NUM_POINTS,
    DIMENSIONS,
    DT,
    TERM,
    TARGET_X,
    TARGET_Y,
    TOLERANCE,
    WEIGHT,
    CONTROL,
    CONTACT,
    ALIVE,
    FALLS_END,
    CHECKS,
) = range(20)
NUM_CONSTANTS = CHECKS + 4 * MAX_CHECKS
MEMORY_SIZE = 2
MAX_CONTACT_COST = 10.0
RUN, SPEED = int(Term.RUN), int(Term.SPEED)


def constants(variant: Variant, task: LocomotionTask) -> Float[np.ndarray, " C"]:
    """Constants of a task for `act` and `observe`."""
    here, reward, wanted = body(variant.robot), variant.reward, variant.wanted
    forces = here.slices.get("cfrc_ext", slice(0, 0))
    clipped, limit = here.clip
    numbers = np.zeros(NUM_CONSTANTS)
    numbers[:CHECKS] = (
        here.obs_size, here.action_space.shape[0], clipped.start, clipped.stop, limit,
        forces.start, forces.stop, len(here.weights), here.dimensions, here.dt,
        wanted.term, *target(task), wanted.tolerance,
        reward.weight, reward.control, reward.contact, reward.alive, reward.falls_end,
    )  # fmt: skip
    numbers[CHECKS : CHECKS + 4 * len(here.checks)] = np.ravel(here.checks)
    return np.concatenate([numbers, here.weights])


def task_scene(task: LocomotionTask) -> Scene:
    """Scene of the robot with a task's body parameters, seen by the tracking camera."""
    robot = VARIANTS[task.env_name].robot
    model = body(robot).scene.edited_model(edits(robot, multipliers(task)))
    return Scene(model=model, camera=CAMERA, dt=body(robot).dt)


def check_task(variant: str, slot: int, task: LocomotionTask) -> None:
    """Checks that a slot's task belongs to the variant.

    Raises:
        ValueError: it does not, or its parameters are not finite.
    """
    expected = num_parameters(variant)
    if task.env_name != variant or task.parameters.shape != (expected,):
        raise ValueError(
            f"slot {slot}: {task.env_name} with parameters of shape {task.parameters.shape} is "
            f"no task of {variant}, which has {expected}"
        )
    if not np.isfinite(task.parameters).all():
        raise ValueError(f"slot {slot}: the task's parameters are not finite")


@cache
def num_parameters(variant: str) -> int:
    """Number of parameters of a variant's tasks."""
    return VARIANTS[variant].wanted.draw(1, np.random.default_rng(0)).shape[1]


@inner
def act(action, constants, mocap_pos, ctrl):
    """Copies the action to the controls."""
    for k in range(int(constants[NUM_ACTIONS])):
        ctrl[k] = np.float64(action[k])


@inner
def observe(readings, known, action, memory, obs, outcome):
    """Writes observation, reward and fall. The memory holds the last position."""
    num_obs, num_points = int(known[NUM_OBS]), int(known[NUM_POINTS])
    dimensions = int(known[DIMENSIONS])

    fallen = False
    for check in range(CHECKS, NUM_CONSTANTS, 4):
        for k in range(int(known[check]), int(known[check + 1])):
            fallen |= not known[check + 2] <= readings[k] <= known[check + 3]
    for k in range(num_obs):
        obs[k] = readings[k]
    for k in range(int(known[CLIP_FROM]), int(known[CLIP_TO])):
        obs[k] = min(max(readings[k], -known[CLIP]), known[CLIP])

    x, y = 0.0, 0.0
    for point in range(num_points):
        x += known[NUM_CONSTANTS + point] * readings[num_obs + point * dimensions]
        if dimensions == 2:
            y += known[NUM_CONSTANTS + point] * readings[num_obs + point * dimensions + 1]
    x_velocity, y_velocity = (x - memory[0]) / known[DT], (y - memory[1]) / known[DT]
    memory[0], memory[1] = x, y

    target_x, target_y = known[TARGET_X], known[TARGET_Y]
    if known[TERM] == RUN:
        term = x_velocity * target_x + y_velocity * target_y
        success = term > 0.0
    elif known[TERM] == SPEED:
        term = -abs(x_velocity - target_x)
        success = -term <= known[TOLERANCE]
    else:
        term = -(abs(x - target_x) + abs(y - target_y))
        success = np.hypot(x - target_x, y - target_y) <= known[TOLERANCE]

    control, contact = 0.0, 0.0
    for k in range(int(known[NUM_ACTIONS])):
        control += np.float64(action[k]) ** 2
    for k in range(int(known[FORCES_FROM]), int(known[FORCES_TO])):
        contact += obs[k] ** 2
    outcome[0] = (
        known[WEIGHT] * term
        - known[CONTROL] * control
        - min(known[CONTACT] * contact, MAX_CONTACT_COST)
        + known[ALIVE]
    )
    outcome[1] = 1.0 if success else 0.0
    outcome[2] = 1.0 if fallen and known[FALLS_END] > 0.0 else 0.0
    outcome[3], outcome[4], outcome[5] = x_velocity, y_velocity, term


def _act(action_at, constants_at, mocap_pos_at, ctrl_at):
    """`act` as a C callback."""
    known = carray(pointer(constants_at, types.float64), NUM_CONSTANTS)
    size = int(known[NUM_ACTIONS])
    act(
        carray(pointer(action_at, types.float32), size),
        known,
        carray(pointer(mocap_pos_at, types.float64), 3),
        carray(pointer(ctrl_at, types.float64), size),
    )


def _observe(readings_at, constants_at, action_at, memory_at, obs_at, outcome_at):
    """`observe` as a C callback."""
    known = carray(pointer(constants_at, types.float64), NUM_CONSTANTS)
    num_obs, num_points = int(known[NUM_OBS]), int(known[NUM_POINTS])
    observe(
        carray(pointer(readings_at, types.float64), num_obs + num_points * int(known[DIMENSIONS])),
        carray(pointer(constants_at, types.float64), NUM_CONSTANTS + num_points),
        carray(pointer(action_at, types.float32), int(known[NUM_ACTIONS])),
        carray(pointer(memory_at, types.float64), MEMORY_SIZE),
        carray(pointer(obs_at, types.float64), num_obs),
        carray(pointer(outcome_at, types.float64), len(OUTCOME)),
    )


@cache
def compiled_act() -> CFunc:
    """The `act` callback of `envs.engine.batch`."""
    signature = types.void(*[types.int64] * 4)
    return compile_callback(_act, signature, name="act_locomotion", sources=[__file__])


@cache
def compiled_observe() -> CFunc:
    """The `observe` callback of `envs.engine.batch`."""
    signature = types.void(*[types.int64] * 6)
    sources = [__file__, variants.__file__]  # the code contains the numbers of `Term`
    return compile_callback(_observe, signature, name="observe_locomotion", sources=sources)


class LocomotionEnv(EngineEnv[LocomotionTask]):
    """A vector environment with one task of a variant in each slot.

    Episodes start with noise from the slot's own random stream. `info` has `success` (the target is
    met), `fallen`, `x_velocity`, `y_velocity` (m/s), and `reward_term`, the reward term that
    depends on the task. In a variant whose episodes end with a fall, a fallen robot rests: it keeps
    its last observation, with reward 0, until the horizon. MuJoCo clips the controls; the control
    cost uses the unclipped action, as in Gymnasium. Without a seed, `reset` uses seed 0.

    Args:
        variant: name of the variant, a key of `VARIANTS`.
        tasks: one task of the variant for each slot. `reset` raises a ValueError for any other.
        horizon: steps per episode.
        num_threads: None for one per processor that this process may use.
        render_mode: `rgb_array` to enable `render`.

    Raises:
        KeyError: the variant is unknown.
        ValueError: there is no task, or a number is out of range.
        UserError: the render mode is unknown.
    """

    def __init__(
        self,
        variant: str,
        tasks: Sequence[LocomotionTask],
        *,
        horizon: int,
        num_threads: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.variant_name, self.variant = variant, VARIANTS[variant]
        here = body(self.variant.robot)
        batch = Batch(
            num_slots=len(tasks),
            action_size=here.action_space.shape[0],
            obs_size=here.obs_size,
            outcome_size=len(OUTCOME),
            readings_size=here.scene.num_readings,
            num_substeps=here.num_substeps,
            finish=here.finish,
            over=OUTCOME.index("fallen"),
            horizon=horizon,
            num_threads=num_threads,
        )
        super().__init__(
            tasks,
            batch=batch,
            outcome=OUTCOME,
            horizon=horizon,
            observation_space=spaces.Box(-np.inf, np.inf, (here.obs_size,), np.float64),
            action_space=here.action_space,
            dt=here.dt,
            random=True,
            render_mode=render_mode,
        )
        self._starts = np.tile(here.start, (self.num_envs, 1))

    def scene(self, task: LocomotionTask) -> Scene:
        """Scene of the robot with the task's body parameters, seen by the tracking camera."""
        return task_scene(task)

    def _shared_model(self, task: LocomotionTask) -> SharedModel:
        del task
        return body(self.variant.robot).scene

    def _draw_starts(self, slots: Shaped[np.ndarray, " n"]) -> None:
        for slot in slots:
            self._starts[slot] = draw_start(self.variant.robot, self._rngs[slot])

    def _place(self, slots: Sequence[int], tasks: Sequence[LocomotionTask]) -> None:
        robot, made = self.variant.robot, {}
        for slot, task in zip(slots, tasks, strict=True):
            check_task(self.variant_name, slot, task)
            key = task.parameters.tobytes()
            if key not in made:  # several slots may play the same task
                made[key] = edits(robot, multipliers(task)), constants(self.variant, task)
            body_edits, known = made[key]
            snapshot = Snapshot(
                state=self._starts[slot],
                edits=body_edits,
                constants=known,
                memory=np.zeros(MEMORY_SIZE),
                obs=None,
            )
            self._batch.place(slot, body(robot).scene, snapshot, compiled_act(), compiled_observe())
