"""Native engine: threads that call MuJoCo's C library, with compiled observations and rewards.

Its physics equals that of the official environments to the bit, many times faster. It has the V2
rewards and the official `info`, except `grasp_success`, which only the reference engine has.
"""

# pyright: reportCallIssue=false
# Type checkers take the typing context of intrinsics for an argument.

from collections.abc import Sequence
from functools import cache

import numpy as np
from numba import types
from numba.core.ccallback import CFunc
from numba.np.numpy_support import carray

from envs.engine.batch import Batch, SharedModel
from envs.engine.compiled import compile_callback, inner, pointer
from envs.engine.env import EngineEnv
from envs.metaworld.official import ACTION_SPACE, DT, HORIZON, MetaWorldTask, observation_space
from envs.metaworld.snapshots import drawn_scene, official, snapshots
from envs.metaworld.tasks import TASK_CLASSES
from envs.metaworld.tasks.interface import (
    ACTION_SCALE,
    EXTRA_CONSTANTS,
    MOCAP_HIGH,
    MOCAP_LOW,
    OBS_SIZE,
    Outcome,
    compile_observe,
)
from metarl.rollout.scene import Scene

NUM_SUBSTEPS = 5
ACTION_SIZE = 4
OUTCOME_NAMES = ("unscaled_reward", *Outcome._fields[1:])
"""Names of a step's scalars in `info`; the first is the reward."""


@inner
def act(action, constants, mocap_pos, ctrl):
    """Applies the official action: moves the hand's mocap body within its box, and the fingers."""
    scale = np.float32(constants[ACTION_SCALE])
    for k in range(3):
        delta = min(max(action[k], np.float32(-1.0)), np.float32(1.0)) * scale  # float32
        moved = mocap_pos[k] + np.float64(delta)
        mocap_pos[k] = min(max(moved, constants[MOCAP_LOW + k]), constants[MOCAP_HIGH + k])
    ctrl[0] = np.float64(action[3])  # MuJoCo clips it; the reward uses the unclipped value
    ctrl[1] = -np.float64(action[3])


def _act(action_at, constants_at, mocap_pos_at, ctrl_at):
    """`act` as a C callback."""
    act(
        carray(pointer(action_at, types.float32), ACTION_SIZE),
        carray(pointer(constants_at, types.float64), EXTRA_CONSTANTS),
        carray(pointer(mocap_pos_at, types.float64), 3),
        carray(pointer(ctrl_at, types.float64), 2),
    )


@cache
def compiled_act() -> CFunc:
    """The `act` callback of `envs.engine.batch`."""
    signature = types.void(*[types.int64] * 4)
    return compile_callback(_act, signature, name="act", sources=[__file__])


@cache
def compiled_observe(env_name: str) -> CFunc:
    """The `observe` callback of a task."""
    return compile_observe(TASK_CLASSES[env_name])


class NativeEnv(EngineEnv[MetaWorldTask]):
    """A vector environment with one Meta-World task in each slot.

    Given the tasks, everything is deterministic, so seeds have no effect. `info` has `success`,
    `near_object`, `grasp_reward`, `in_place_reward`, `obj_to_target` and `unscaled_reward`; the
    official `grasp_success` is only in the reference engine. The first three actions are clipped to
    [-1, 1]; the fourth is clipped in the controls, but not in the reward.

    Args:
        tasks: one for each slot, in any mixture.
        horizon: steps per episode.
        num_threads: None for one per processor that this process may use.
        render_mode: `rgb_array` to enable `render`.

    Raises:
        ValueError: there is no task, a task is unknown, or a number is out of range.
        UserError: the render mode is unknown.
    """

    def __init__(
        self,
        tasks: Sequence[MetaWorldTask],
        *,
        horizon: int = HORIZON,
        num_threads: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        readings = (sum(s.size for s in code.sources()) for code in TASK_CLASSES.values())
        batch = Batch(
            num_slots=len(tasks),
            action_size=ACTION_SIZE,
            obs_size=OBS_SIZE,
            outcome_size=len(Outcome._fields),
            readings_size=max(readings),
            num_substeps=NUM_SUBSTEPS,
            finish="forward",  # needed: it changes the solver's warm start
            horizon=horizon,
            num_threads=num_threads,
        )
        super().__init__(
            tasks,
            batch=batch,
            outcome=OUTCOME_NAMES,
            horizon=horizon,
            observation_space=observation_space(),
            action_space=ACTION_SPACE,
            dt=DT,
            render_mode=render_mode,
        )

    def scene(self, task: MetaWorldTask) -> Scene:
        """The official scene, with the task's positions of bodies and sites."""
        return drawn_scene(task)

    def _shared_model(self, task: MetaWorldTask) -> SharedModel:
        return official(task.env_name).scene

    def _place(self, slots: Sequence[int], tasks: Sequence[MetaWorldTask]) -> None:
        for slot, task, snapshot in zip(slots, tasks, snapshots(tasks), strict=True):
            scene, observe = official(task.env_name).scene, compiled_observe(task.env_name)
            self._batch.place(slot, scene, snapshot, compiled_act(), observe)
