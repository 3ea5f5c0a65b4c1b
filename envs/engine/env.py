"""A batch of the native engine as a vector environment."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float, Shaped

from envs.engine.batch import Batch
from envs.slots import SlotEnv
from metarl.recording import Sink
from metarl.scene import Scene
from metarl.tasks import Task

T = TypeVar("T", bound=Task)


class EngineEnv(SlotEnv[T]):
    """A vector environment whose slots are those of a `Batch`. What a task is, subclasses say.

    `info` of every step has, as arrays over the slots: `final_obs` (N, O), the true next
    observation; `success` (N,), bool; and the outcome's scalars by their names (N,), float64.

    Args:
        tasks: one for each slot, in any mixture.
        batch: what steps them.
        outcome: the names of the batch's scalars; the first is the reward, one is `success`.
    """

    def __init__(
        self,
        tasks: Sequence[T],
        *,
        batch: Batch,
        outcome: Sequence[str],
        horizon: int,
        observation_space: spaces.Box,
        action_space: spaces.Box,
    ) -> None:
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=observation_space,
            action_space=action_space,
        )
        self._batch = batch
        self._outcome = tuple(outcome)
        self.tasks: tuple[T, ...] = ()
        """What the slots play now; empty before the first `reset`."""
        self._started = False
        self._known_unstable = np.zeros(self.num_envs, dtype=np.bool_)
        self._sink: Sink | None = None

    @property
    def num_threads(self) -> int:
        """How many threads step the slots, the caller's among them."""
        return self._batch.num_threads

    @abstractmethod
    def _place(self, tasks: tuple[T, ...]) -> None:
        """Gives each slot of the batch its task."""

    @abstractmethod
    def scene(self, task: T) -> Scene:
        """What a task is played in."""

    def record(self, sink: Sink | None) -> None:
        """Gives every whole episode to `sink` from the next `reset` on; None ends it."""
        self._sink = sink

    def _seed(self, seed: int) -> None:
        """Restarts every slot's random stream, where a start of an episode is random."""
        del seed

    def _draw_starts(self, slots: Shaped[np.ndarray, " n"]) -> None:
        """Draws the start of the next episode of these slots, where it is random."""
        del slots

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, "N O"], dict[str, Any]]:
        """Starts an episode in every slot; a seed restarts every slot's random stream."""
        del options
        self._started = False  # until all of it has happened
        if seed is not None:
            self._seed(seed)
        if self.tasks is not self.next_tasks:
            self.tasks = ()  # if placing fails, some slots have their new task already
            self._place(self.next_tasks)
            self.tasks = self.next_tasks
        self._batch.keep_record(self._sink is not None)
        everyone = np.arange(self.num_envs)
        self._draw_starts(everyone)
        self._batch.restart()
        self._draw_starts(everyone)
        self._known_unstable[:] = False
        self._started = True
        return self._batch.obs.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[
        Float[np.ndarray, "N O"],
        Float[np.ndarray, " N"],
        Bool[np.ndarray, " N"],
        Bool[np.ndarray, " N"],
        dict[str, Any],
    ]:
        """Steps every slot.

        Args:
            actions: (N, A) floats; taken as float32, as the official environments take them.

        Returns:
            Observations (N, O), rewards (N,), terminations (N,), which are all False, truncations
            (N,), `info`.

        Raises:
            ValueError: before the first `reset`; for actions of another shape or kind, or with NaN
                or infinity. Nothing has been stepped then.
        """
        if not self._started:
            raise ValueError("call reset() before step()")
        batch = self._batch
        batch.step(self._checked(actions))
        self._warn_of_instability()
        scalars = batch.outcome.T.copy()
        info: dict[str, Any] = dict(zip(self._outcome, scalars, strict=True))
        info["success"] = info["success"] > 0
        info["final_obs"] = batch.final_obs.copy()
        ended = batch.episode_end.copy()
        if ended.any():
            if self._sink is not None and batch.record is not None:
                self._sink(batch.record)
            self._draw_starts(np.flatnonzero(ended))
        return batch.obs.copy(), scalars[0].copy(), np.zeros_like(ended), ended, info

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            shape = self.action_space.shape
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
        if not unstable.any() and not self._known_unstable.any():
            return
        for slot in np.nonzero(unstable & ~self._known_unstable)[0]:
            step = self._batch.unstable_at[slot]
            name = self.tasks[slot].env_name
            warnings.warn(
                f"slot {slot} ({name}), step {step}: the physics became unstable; the slot keeps "
                "its last stable observation, with reward 0, until its episode ends",
                RuntimeWarning,
                stacklevel=3,
            )
        self._known_unstable[:] = unstable & ~self._batch.episode_end  # told anew in the next

    def _where(self, slot: int) -> str:
        step = self._batch.elapsed[slot] + 1
        return f"slot {slot} ({self.tasks[slot].env_name}), step {step}"

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        self._batch.close()
