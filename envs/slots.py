"""What the vector environments of this toolkit share: slots, each with a task of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

T = TypeVar("T")


class SlotEnv(VectorEnv, Generic[T]):
    """A vector environment whose slots play given tasks, episodes of `horizon` steps each.

    Autoreset is `SAME_STEP`: a slot that ends an episode starts the next one of the same task.
    Subclasses play `self.next_tasks` from their `reset` on.
    """

    def __init__(
        self,
        tasks: Sequence[T],
        *,
        horizon: int,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
    ) -> None:
        self.num_envs = len(tasks)
        self.horizon = horizon
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self.next_tasks = tuple(tasks)

    def set_tasks(self, tasks: Sequence[T]) -> None:
        """Gives each slot its task; takes effect at the next `reset`.

        Raises:
            ValueError: not one task per slot.
        """
        if len(tasks) != self.num_envs:
            raise ValueError(f"{len(tasks)} tasks for {self.num_envs} slots; give one per slot")
        self.next_tasks = tuple(tasks)
