"""The native engine: MuJoCo's C library called from threads, observation and reward compiled.

The same bits of physics as the official environments, many times faster. V2 rewards; the official
`info` but for `grasp_success`, which only the reference engine gives.
"""

# pyright: reportCallIssue=false
# Type checkers see the typing context of intrinsics as an argument.

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from numba import types
from numba.core.ccallback import CFunc
from numba.np.numpy_support import carray

from envs.engine.batch import Batch
from envs.engine.compiled import compile_callback, pointer
from envs.metaworld.official import ACTION_SPACE, HORIZON, MetaWorldTask, observation_space
from envs.metaworld.snapshots import official, snapshots
from envs.metaworld.tasks import TASKS
from envs.metaworld.tasks.interface import (
    ACTION_SCALE,
    EXTRA_CONSTANTS,
    MOCAP_HIGH,
    MOCAP_LOW,
    OBS_SIZE,
    Outcome,
    compile_observe,
)
from envs.slots import SlotEnv

NUM_SUBSTEPS = 5
ACTION_SIZE = 4


def _act(action_at, constants_at, mocap_pos_at, ctrl_at):
    """The official action: the hand's mocap body moves within its box, the fingers push."""
    action = carray(pointer(action_at, types.float32), ACTION_SIZE)
    constants = carray(pointer(constants_at, types.float64), EXTRA_CONSTANTS)
    mocap_pos = carray(pointer(mocap_pos_at, types.float64), 3)
    ctrl = carray(pointer(ctrl_at, types.float64), 2)
    scale = np.float32(constants[ACTION_SCALE])
    for k in range(3):
        delta = min(max(action[k], np.float32(-1.0)), np.float32(1.0)) * scale  # float32
        moved = mocap_pos[k] + np.float64(delta)
        mocap_pos[k] = min(max(moved, constants[MOCAP_LOW + k]), constants[MOCAP_HIGH + k])
    ctrl[0] = np.float64(action[3])  # MuJoCo clips it; the reward sees it as it is
    ctrl[1] = -np.float64(action[3])


@cache
def compiled_act() -> CFunc:
    """The `act` callback of `envs.engine.batch`."""
    signature = types.void(*[types.int64] * 4)
    return compile_callback(_act, signature, name="act", sources=[__file__])


@cache
def compiled_observe(env_name: str) -> CFunc:
    """The `observe` callback of a task."""
    return compile_observe(TASKS[env_name])


class NativeEnv(SlotEnv[MetaWorldTask]):
    """A vector environment with one Meta-World task in each slot.

    Nothing is random once tasks are chosen, so seeds change nothing. `info` always has, as arrays
    over the slots: `final_obs` (N, 39), the true next observation; `success` (N,), bool; and
    `near_object`, `grasp_reward`, `in_place_reward`, `obj_to_target` and `unscaled_reward` (N,),
    float64. Only `grasp_success` of the official ones is left to the reference engine.

    Args:
        tasks: one for each slot, in any mixture.
        horizon: steps in an episode.
        num_threads: None for one per processor that this process may use.

    Raises:
        ValueError: no task, an unknown one, or a number out of range.
    """

    def __init__(
        self,
        tasks: Sequence[MetaWorldTask],
        *,
        horizon: int = HORIZON,
        num_threads: int | None = None,
    ) -> None:
        if not len(tasks):
            raise ValueError("NativeEnv needs at least one task")
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, not {horizon}")
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1 or None, not {num_threads}")
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=observation_space(),
            action_space=ACTION_SPACE,
        )
        readings = (sum(s.size for s in code.sources()) for code in TASKS.values())
        self._batch = Batch(
            num_slots=self.num_envs,
            action_size=ACTION_SIZE,
            obs_size=OBS_SIZE,
            outcome_size=len(Outcome._fields),
            readings_size=max(readings),
            num_substeps=NUM_SUBSTEPS,
            horizon=horizon,
            num_threads=num_threads,
        )
        self.tasks: tuple[MetaWorldTask, ...] = ()
        """What the slots play now; empty before the first `reset`."""
        self._started = False
        self._known_unstable = np.zeros(self.num_envs, dtype=np.bool_)

    @property
    def num_threads(self) -> int:
        """How many threads step the slots, the caller's among them."""
        return self._batch.num_threads

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, "N 39"], dict[str, Any]]:
        """Starts an episode in every slot. `seed` and `options` change nothing."""
        del seed, options
        self._started = False  # until all of it has happened
        if self.tasks is not self.next_tasks:
            self._place(self.next_tasks)
            self.tasks = self.next_tasks
        self._batch.restart()
        self._known_unstable[:] = False
        self._started = True
        return self._batch.obs.copy(), {}

    def _place(self, tasks: tuple[MetaWorldTask, ...]) -> None:
        for slot, (task, snapshot) in enumerate(zip(tasks, snapshots(tasks), strict=True)):
            scene, observe = official(task.env_name).scene, compiled_observe(task.env_name)
            self._batch.place(slot, scene, snapshot, compiled_act(), observe)

    def step(
        self, actions: np.ndarray
    ) -> tuple[
        Float[np.ndarray, "N 39"],
        Float[np.ndarray, " N"],
        np.ndarray,
        np.ndarray,
        dict[str, Any],
    ]:
        """Steps every slot.

        Args:
            actions: (N, 4) floats; taken as float32, as officially. Beyond [-1, 1] the first three
                are clipped; the fourth is clipped in the controls, not in the reward.

        Returns:
            Observations (N, 39), rewards (N,), terminations (N,), which are all False, truncations
            (N,), `info`.

        Raises:
            ValueError: before the first `reset`; for actions of another shape or kind, or with NaN
                or infinity. Nothing has been stepped then.
        """
        if not self._started:
            raise ValueError("call reset() before step()")
        self._batch.step(self._checked(actions))
        self._warn_of_instability()
        outcome = self._batch.outcome
        info: dict[str, Any] = {
            name: outcome[:, k].copy() for k, name in enumerate(Outcome._fields) if k > 0
        }
        info["success"] = info["success"] > 0
        info["unscaled_reward"] = outcome[:, 0].copy()
        info["final_obs"] = self._batch.final_obs.copy()
        return (
            self._batch.obs.copy(),
            outcome[:, 0].copy(),
            np.zeros(self.num_envs, dtype=np.bool_),
            self._batch.episode_end.copy(),
            info,
        )

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, ACTION_SIZE):
            shape = (self.num_envs, ACTION_SIZE)
            raise ValueError(f"actions must have shape {shape}, not {actions.shape}")
        if not np.issubdtype(actions.dtype, np.floating):
            raise ValueError(f"actions must be floats, not {actions.dtype}")
        with np.errstate(over="ignore"):
            actions = actions.astype(np.float32, copy=False)
        if not np.isfinite(actions).all():
            slot = int(np.nonzero(~np.isfinite(actions).all(axis=1))[0][0])
            raise ValueError(f"{self._where(slot)}: action {actions[slot]} is not finite")
        return actions

    def _warn_of_instability(self) -> None:
        unstable = self._batch.unstable_at > 0
        for slot in np.nonzero(unstable & ~self._known_unstable)[0]:
            step = self._batch.unstable_at[slot]
            name = self.tasks[slot].env_name
            warnings.warn(
                f"slot {slot} ({name}), step {step}: the physics became unstable; the slot keeps "
                "its last stable observation, with reward 0, until its episode ends",
                RuntimeWarning,
                stacklevel=3,
            )
        self._known_unstable[:] = unstable

    def _where(self, slot: int) -> str:
        step = self._batch.elapsed[slot] + 1
        return f"slot {slot} ({self.tasks[slot].env_name}), step {step}"

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        self._batch.close()
