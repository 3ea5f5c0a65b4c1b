"""A slot as a `gymnasium.Env`: what `gymnasium.make` gives for the benchmarks' names."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from jaxtyping import Shaped, UInt8

from metarl.rollout.slots import SlotEnv

T = TypeVar("T")


class SingleEnv(gymnasium.Env, Generic[T]):
    """The one slot of a slot environment. An episode that has ended is followed by a `reset`.

    `info` is a number for every entry of the slot environment's, `success` among them.

    Args:
        slots: an environment of one slot; closed with this one.
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
        """Steps of an episode."""
        return self.slots.horizon

    def set_task(self, task: T) -> None:
        """Gives the environment another task; takes effect at the next `reset`."""
        self.slots.set_tasks([task])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Shaped[np.ndarray, " O"], dict[str, Any]]:
        """Starts an episode; a seed restarts the random streams. There are no options."""
        super().reset(seed=seed)
        if options:
            raise ValueError(f"reset knows no option {next(iter(options))!r}; it has none")
        obs, _ = self.slots.reset(seed=seed)
        self._ended = False
        return obs[0], {}

    def step(
        self, action: Any
    ) -> tuple[Shaped[np.ndarray, " O"], float, bool, bool, dict[str, Any]]:
        """One step; the last one of an episode is truncated.

        Raises:
            ResetNeeded: before the first `reset`, and after the last step of an episode.
            ValueError: an action of another shape or kind, or that is not finite.
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
        """A picture of the present; of the next start where an episode has just ended."""
        return self.slots.render()[0]

    def close(self) -> None:
        """Closes the slot environment."""
        self.slots.close()
