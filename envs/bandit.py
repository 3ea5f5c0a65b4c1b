"""Bernoulli bandits: the smallest tasks on which exploring must be learned.

As in the RL² paper (Duan et al. 2016, arXiv:1611.02779, section 3.1): arm means are drawn uniformly
from [0, 1], an episode is one pull, and a trial of K episodes is a bandit of K pulls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Int
from pydantic import Field

from envs.slots import SlotEnv
from metarl.config import Config
from metarl.seeding import slot_generators
from metarl.tasks import TaskSet


@dataclass(frozen=True, eq=False)
class BanditTask:
    """A bandit with given arm means."""

    arm_means: Float[np.ndarray, " A"]
    env_name: str = "bernoulli-bandit"

    @property
    def parameters(self) -> Float[np.ndarray, " A"]:
        """The arm means."""
        return self.arm_means


class BanditConfig(Config):
    """Bernoulli bandits."""

    kind: Literal["bandit"] = "bandit"
    num_arms: Annotated[int, Field(ge=2)] = 5
    """Arms of every bandit."""
    num_train_tasks: Annotated[int, Field(ge=1)] = 10_000
    """Bandits to learn on."""
    num_test_tasks: Annotated[int, Field(ge=1)] = 1_000
    """Bandits held out."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the arm means of all tasks."""

    @property
    def horizon(self) -> int:
        """Steps of an episode: one pull."""
        return 1

    def build(self) -> Bandits:
        """The distribution."""
        return Bandits(self)


class Bandits:
    """The distribution over Bernoulli bandits."""

    horizon = 1

    def __init__(self, config: BanditConfig) -> None:
        self.name = f"{config.num_arms}-armed Bernoulli bandits"
        rng = np.random.default_rng(config.seed)
        total = config.num_train_tasks + config.num_test_tasks
        tasks = [BanditTask(means) for means in rng.random((total, config.num_arms))]
        self.train = TaskSet(tasks[: config.num_train_tasks])
        self.test = TaskSet(tasks[config.num_train_tasks :])

    def make_env(self, num_slots: int) -> BanditEnv:
        """Slots that play training tasks until `set_tasks` says otherwise."""
        return BanditEnv(self.train.sample(num_slots, np.random.default_rng(0)))


class BanditEnv(SlotEnv[BanditTask]):
    """One bandit per slot. There is nothing to observe: the observation is always 0.

    Success means that the best arm was pulled.
    """

    _BLOCK = 128  # Uniform numbers that a slot draws from its stream at once.

    def __init__(self, tasks: Sequence[BanditTask]) -> None:
        super().__init__(
            tasks,
            horizon=1,
            observation_space=spaces.Box(0.0, 0.0, (1,), np.float64),
            action_space=spaces.Discrete(len(tasks[0].arm_means)),
        )
        self._rngs = slot_generators(0, self.num_envs)
        self._slots = np.arange(self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, "N O"], dict[str, Any]]:
        """Starts a trial; with a seed, restarts the random stream of every slot."""
        del options
        if seed is not None:
            self._rngs = slot_generators(seed, self.num_envs)
        self._means = np.stack([task.arm_means for task in self.next_tasks])
        self._pulls = 0
        return np.zeros((self.num_envs, 1)), {}

    def step(self, actions: Int[np.ndarray, " N"]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Pulls one arm in every slot."""
        index = self._pulls % self._BLOCK
        if index == 0:
            self._uniform = np.stack([rng.random(self._BLOCK) for rng in self._rngs])
        self._pulls += 1
        mean = self._means[self._slots, actions]
        reward = (self._uniform[:, index] < mean).astype(np.float64)
        obs = np.zeros((self.num_envs, 1))
        info = {"final_obs": obs, "success": mean == self._means.max(axis=1)}
        ended = np.ones(self.num_envs, dtype=bool)
        return obs, reward, np.zeros_like(ended), ended, info


def thompson_sampling(
    arm_means: Float[np.ndarray, "N A"], *, pulls: int, rng: np.random.Generator
) -> Float[np.ndarray, " N"]:
    """Rewards that Thompson sampling collects on N bandits (Thompson 1933; Beta(1, 1) prior)."""
    slots = np.arange(len(arm_means))
    wins, losses = np.ones_like(arm_means), np.ones_like(arm_means)
    for _ in range(pulls):
        arm = rng.beta(wins, losses).argmax(axis=1)
        won = rng.random(len(arm_means)) < arm_means[slots, arm]
        wins[slots, arm] += won
        losses[slots, arm] += ~won
    return wins.sum(axis=1) - arm_means.shape[1]
