"""A single slot as a `gymnasium.Env`; `gymnasium.make` returns it for the benchmarks' names."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from jaxtyping import Shaped, UInt8

from metarl.rollout.slots import SlotEnv

T = TypeVar("T")


class SingleEnv(gymnasium.Env, Generic[T]):
    """The single slot of a slot environment. Call `reset` after the end of an episode.

    `info` has the same keys as the slot environment's, with one number each, `success` included.

    Args:
        slots: a vector environment with one slot; `close` closes it too.
    """

    def __init__(self, slots: SlotEnv[T]) -> None:
        self.slots = slots
        self.observation_space = slots.single_observation_space
        self.action_space = slots.single_action_space
        self.render_mode = slots.render_mode
        self.metadata = {k: v for k, v in slots.metadata.items() if k.startswith("render")}
        self._ended = False

    @property
    def horizon(self) -> int:
        """Steps per episode."""
        return self.slots.horizon

    def set_task(self, task: T) -> None:
        """Sets the task; takes effect at the next `reset`."""
        self.slots.set_tasks([task])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Shaped[np.ndarray, " O"], dict[str, Any]]:
        """Starts an episode; a seed restarts the random streams. Takes no options."""
        super().reset(seed=seed)
        if options:
            raise ValueError(f"reset knows no option {next(iter(options))!r}; it has none")
        obs, _ = self.slots.reset(seed=seed)
        self._ended = False
        return obs[0], {}

    def step(
        self, action: Any
    ) -> tuple[Shaped[np.ndarray, " O"], float, bool, bool, dict[str, Any]]:
        """Takes one step; the last step of an episode is truncated.

        Raises:
            ResetNeeded: before the first `reset`, and after the last step of an episode.
            ValueError: the action has the wrong shape or dtype, or is not finite.
        """
        if self._ended:
            raise ResetNeeded("the episode has ended; call reset()")
        _, reward, terminated, truncated, info = self.slots.step(np.asarray(action)[None])
        self._ended = bool(terminated[0] or truncated[0])
        numbers = {
            name: value[0].item()
            for name, value in info.items()
            if not name.startswith("_") and name not in ("final_obs", "final_info")
        }
        last = info["final_obs"][0]
        return last, float(reward[0]), bool(terminated[0]), bool(truncated[0]), numbers

    def render(self) -> UInt8[np.ndarray, "H W 3"]:  # pyright: ignore
        """A picture of the current state; after the end of an episode, of the next start."""
        return self.slots.render()[0]

    def close(self) -> None:
        """Closes the slot environment."""
        self.slots.close()
