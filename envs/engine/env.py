"""A vector environment that steps a batch of the native engine."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float, Float64, Int, Shaped

from envs.drawn import DrawnEnv
from envs.engine.batch import Batch
from metarl.rollout.recording import Sink
from metarl.tasks import Task

T = TypeVar("T", bound=Task)


class EngineEnv(DrawnEnv[T]):
    """A vector environment whose slots are those of a `Batch`. Subclasses define the tasks.

    The `info` of every step holds arrays over the slots: `final_obs` (N, O), the true next
    observation; `success` (N,), bool; and the outcome's scalars by name (N,), float64.

    Args:
        tasks: one for each slot, in any mixture.
        batch: the batch that steps the slots.
        outcome: names of the batch's scalars; the first is the reward, one is `success`.
        dt: duration of a step (s).
        random: True if the starts of episodes are drawn.
        render_mode: `rgb_array` to enable `render`.
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
        dt: float,
        random: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=observation_space,
            action_space=action_space,
            dt=dt,
            random=random,
            render_mode=render_mode,
        )
        self._batch = batch
        self._outcome = tuple(outcome)
        self._placed: list[T | None] = [None] * self.num_envs
        self._known_unstable = np.zeros(self.num_envs, dtype=np.bool_)
        self._sink: Sink | None = None

    @property
    def horizon(self) -> int:  # pyright: ignore
        """Steps per episode; fixed, because the batch counts them.

        Raises:
            AttributeError: it is set to another number.
        """
        return self._horizon

    @horizon.setter
    def horizon(self, horizon: int) -> None:
        if getattr(self, "_horizon", horizon) != horizon:
            raise AttributeError("the horizon is fixed: make an environment with another one")
        self._horizon = horizon

    @property
    def num_threads(self) -> int:
        """Number of threads that step the slots, including the caller's."""
        return self._batch.num_threads

    @abstractmethod
    def _place(self, slots: Sequence[int], tasks: Sequence[T]) -> None:
        """Sets the task of each of these slots of the batch."""

    def record(self, sink: Sink | None) -> None:
        """Passes every whole episode to `sink`, starting at the next `reset`; None stops it."""
        self._sink = sink

    def _draw_starts(self, slots: Shaped[np.ndarray, " n"]) -> None:
        """Draws the start of these slots' next episode, if starts are random."""
        del slots

    def _why_together(self) -> str:
        return "while episodes are recorded" if self._sink is not None else ""

    def _restart(
        self, slots: Int[np.ndarray, " n"], tasks: Sequence[T]
    ) -> Float[np.ndarray, "N O"]:
        new = [k for k in slots.tolist() if self._placed[k] is not tasks[k]]
        if new:
            for slot in new:
                self._placed[slot] = None  # in case placing is interrupted
            self._place(new, [tasks[slot] for slot in new])
            for slot in new:
                self._placed[slot] = tasks[slot]
        self._batch.keep_record(self._sink is not None)
        self._draw_starts(slots)
        self._batch.restart(slots)
        self._draw_starts(slots)
        self._known_unstable[slots] = False
        return self._batch.obs.copy()

    def _step(
        self, actions: Float[np.ndarray, "N A"]
    ) -> tuple[
        Float[np.ndarray, "N O"], Float[np.ndarray, " N"], Bool[np.ndarray, " N"], dict[str, Any]
    ]:
        batch = self._batch
        batch.step(actions)
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
        return batch.obs.copy(), scalars[0].copy(), ended, info

    def _checked(self, actions: Any) -> Float[np.ndarray, "N A"]:
        """The actions in float32, as the official environments take them."""
        actions = np.asarray(actions)
        if np.issubdtype(actions.dtype, np.floating):
            with np.errstate(over="ignore"):  # overflow gives infinity, which is refused below
                actions = actions.astype(np.float32, copy=False)
        return super()._checked(actions)

    def _drawn(self, slot: int) -> Float64[np.ndarray, " R"]:
        return self._batch.drawn(slot)

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
                stacklevel=4,
            )
        self._known_unstable[:] = unstable & ~self._batch.episode_end  # the next one warns again

    def _where(self, slot: int) -> str:
        step = self._batch.elapsed[slot] + 1
        return f"{super()._where(slot)}, step {step}"

    def close_extras(self, **kwargs: Any) -> None:
        """Stops the threads and the renderers."""
        super().close_extras()
        self._batch.close()
