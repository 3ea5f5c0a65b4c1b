"""Bandits: the smallest tasks on which exploring must be learned.

An episode is one pull, so a trial of K episodes is a bandit of K pulls.

bernoulli    an arm pays 1 or 0; means from U[0, 1]. Duan et al. 2016, "RL²", arXiv:1611.02779,
             section 3.1.
gaussian     an arm pays its mean and noise from N(0, 1); means from N(0, 1).
dependent    two Bernoulli arms of means p and 1 - p, p from U[0, 1]: each reward informs on both.
             Wang et al. 2016, "Learning to reinforcement learn", arXiv:1611.05763, section 3.1,
             "uniform dependent".
informative  deterministic. One arm, the target, pays well. The last arm identifies it by paying the
             target's number (from 1) divided by the number of candidates: 0.1 to 1 with 11 arms,
             less than any other arm. All others pay 1.1.
             Wang et al., section 3.1. Their target pays 5, which gives only ten bandits and leaves
             none to hold out; here it pays an amount from U[4, 6].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Int
from pydantic import Field, field_validator

from metarl.config import Config, Seed, Size
from metarl.rollout.slots import SlotEnv
from metarl.system.memory import TASK_BYTES, check_memory
from metarl.tasks import TaskSet

Arms = Literal["bernoulli", "gaussian", "dependent", "informative"]

OTHERS_PAY = 1.1
"""Reward of an informative bandit's other arms: neither the target nor the informative arm."""
TARGET_PAYS = (4.0, 6.0)
"""Lowest and highest reward of an informative bandit's target."""


@dataclass(frozen=True, eq=False)
class BanditTask:
    """A bandit with given arm means."""

    arm_means: Float[np.ndarray, " A"]
    arms: Arms = "bernoulli"
    """Distribution of the rewards and of the arm means; see the module's docstring."""

    @property
    def env_name(self) -> str:
        """The class of the task."""
        return f"{self.arms}-bandit"

    @property
    def parameters(self) -> Float[np.ndarray, " A"]:
        """The arm means."""
        return self.arm_means


class BanditConfig(Config):
    """Bandits with independent or dependent arms."""

    choices: ClassVar = {
        "arms=bernoulli": "arms pay 1 or 0; independent means from U[0, 1]",
        "arms=gaussian": "arms pay their mean plus noise; independent means from N(0, 1)",
        "arms=dependent": "two arms that pay 1 or 0, with means p and 1 - p",
        "arms=informative": "the last arm pays little but identifies the best arm",
    }

    kind: Literal["bandit"] = "bandit"
    arms: Arms = "bernoulli"
    """Distribution of the arm means and rewards."""
    num_arms: Annotated[int, Field(ge=2, le=10_000, validate_default=True)] = 5
    """Number of arms of every bandit: 2 if they are dependent, at least 3 if one is informative."""
    num_train_tasks: Size = 10_000
    """Number of training bandits."""
    num_test_tasks: Size = 1_000
    """Number of held-out bandits."""
    seed: Seed = 0
    """Seed of the arm means of all tasks."""

    @field_validator("num_arms")
    @classmethod
    def _fits(cls, num_arms: int, info: Any) -> int:
        arms = info.data.get("arms")
        if arms == "dependent" and num_arms != 2:
            raise ValueError("should be 2 where arms are dependent")
        if arms == "informative" and num_arms < 3:
            raise ValueError("should be at least 3 where an arm is informative")
        return num_arms

    @property
    def horizon(self) -> int:
        """Steps of an episode: one pull."""
        return 1

    def build(self) -> Bandits:
        """The distribution."""
        return Bandits(self)


class Bandits:
    """The distribution over bandits."""

    horizon = 1

    def __init__(self, config: BanditConfig) -> None:
        arms = config.arms
        kind = arms.capitalize() if arms in ("bernoulli", "gaussian") else arms
        self.name = f"{config.num_arms}-armed {kind} bandits"
        total = config.num_train_tasks + config.num_test_tasks
        check_memory(
            total * (TASK_BYTES + 8 * config.num_arms),
            f"{total:,} bandits of {config.num_arms:,} arms",
        )
        means = draw_arm_means(
            arms,
            total,
            config.num_arms,
            rng=np.random.default_rng(config.seed),
        )
        tasks = [BanditTask(row, arms) for row in means]
        self.train = TaskSet(tasks[: config.num_train_tasks])
        self.test = TaskSet(tasks[config.num_train_tasks :])

    def make_env(self, num_slots: int) -> BanditEnv:
        """Slots that play training tasks until `set_tasks` is called."""
        return BanditEnv(self.train.sample(num_slots, np.random.default_rng(0)))


def draw_arm_means(
    arms: Arms, num_tasks: int, num_arms: int, *, rng: np.random.Generator
) -> Float[np.ndarray, "N A"]:
    """Arm means of N bandits."""
    if arms == "bernoulli":
        return rng.random((num_tasks, num_arms))
    if arms == "gaussian":
        return rng.standard_normal((num_tasks, num_arms))
    if arms == "dependent":
        first = rng.random(num_tasks)
        return np.stack([first, 1 - first], axis=1)
    means = np.full((num_tasks, num_arms), OTHERS_PAY)
    target = rng.integers(num_arms - 1, size=num_tasks)
    means[np.arange(num_tasks), target] = rng.uniform(*TARGET_PAYS, size=num_tasks)
    means[:, -1] = (target + 1) / (num_arms - 1)
    return means


class BanditEnv(SlotEnv[BanditTask]):
    """One bandit per slot, all of one class. The observation is always 0.

    A pull of the best arm is a success.
    """

    _BLOCK = 128  # Random numbers that a slot draws from its stream at once.

    def __init__(self, tasks: Sequence[BanditTask]) -> None:
        super().__init__(
            tasks,
            horizon=1,
            observation_space=spaces.Box(0.0, 0.0, (1,), np.float64),
            action_space=spaces.Discrete(len(tasks[0].arm_means)),
            random=True,
        )
        self._slots = np.arange(self.num_envs)
        self._means = np.zeros((self.num_envs, len(tasks[0].arm_means)))
        self._best = np.zeros(self.num_envs)
        self._drawn = np.zeros((self.num_envs, self._BLOCK))
        self._pulls = np.zeros(self.num_envs, dtype=np.int64)

    def _restart(
        self, slots: Int[np.ndarray, " n"], tasks: Sequence[BanditTask]
    ) -> Float[np.ndarray, "N O"]:
        """Starts a trial.

        Raises:
            ValueError: the slots' tasks are of different classes.
        """
        arms = {task.arms for task in tasks}
        if len(arms) > 1:
            raise ValueError(f"bandits of one class at a time, not {', '.join(sorted(arms))}")
        (self._arms,) = arms
        self._means[slots] = [tasks[slot].arm_means for slot in slots]
        self._best = self._means.max(axis=1)
        self._pulls[slots] = 0
        return np.zeros((self.num_envs, 1))

    def _step(self, actions: Int[np.ndarray, " N"]) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Pulls one arm in every slot."""
        index = self._pulls % self._BLOCK
        for slot in np.flatnonzero(index == 0):
            self._drawn[slot] = self._draw(self._rngs[slot])
        drawn = self._drawn[self._slots, index]
        self._pulls += 1
        mean = self._means[self._slots, actions]
        if self._arms == "gaussian":
            reward = mean + drawn
        elif self._arms == "informative":
            reward = mean.copy()
        else:
            reward = (drawn < mean).astype(np.float64)
        info = {
            "final_obs": np.zeros((self.num_envs, 1)),
            "success": mean == self._best,
        }
        return np.zeros((self.num_envs, 1)), reward, np.ones(self.num_envs, dtype=bool), info

    def _draw(self, rng: np.random.Generator) -> Float[np.ndarray, " B"]:
        if self._arms == "gaussian":
            return rng.standard_normal(self._BLOCK)
        return rng.random(self._BLOCK)
