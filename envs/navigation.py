"""2-D navigation of a point to a hidden goal.

As in MAML (Finn et al. 2017, arXiv:1703.03400, section 5.3): the goal is uniform in a square, the
observation is the point's position, an action is a velocity within ±0.1, and the reward is the
negative distance to the goal, which is not observed.

With `goals: semicircle` and a `reward_radius`, it is the sparse navigation of PEARL (Rakelly et al.
2019, arXiv:1903.08254, section 6.3): goals one unit from the start, and no reward far from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Int
from pydantic import Field

from metarl.config import Config, Positive, Seed, Size
from metarl.rollout.slots import SlotEnv
from metarl.system.memory import TASK_BYTES, check_memory
from metarl.tasks import TaskSet

STEP_LENGTH = 0.1
"""Largest displacement per step along each axis."""
SUCCESS_RADIUS = 0.05
"""Distance to the goal below which a step is a success, if there is no `reward_radius`."""


@dataclass(frozen=True, eq=False)
class PointTask:
    """A goal in the plane."""

    goal: Float[np.ndarray, " 2"]
    env_name: str = "point-navigation"

    @property
    def parameters(self) -> Float[np.ndarray, " 2"]:
        """The goal."""
        return self.goal


class PointConfig(Config):
    """2-D navigation to a hidden goal."""

    kind: Literal["point"] = "point"
    horizon: Size = 100
    """Steps per episode."""
    goals: Literal["square", "semicircle"] = "square"
    """Goals are uniform in a square around the start, or on the upper half of the unit circle."""
    half_side: Positive = 0.5
    """Half the side of the square of goals, which are uniform in [-half_side, half_side]²."""
    reward_radius: Annotated[float, Field(gt=0, le=1)] | None = None
    """Distance to the goal within which the reward is 1 minus the distance, and a step a success;
    beyond it the reward is 0. Without it the reward is minus the distance everywhere."""
    num_train_tasks: Size = 10_000
    """Number of training goals."""
    num_test_tasks: Size = 200
    """Number of held-out goals."""
    seed: Seed = 0
    """Seed of the goals of all tasks."""

    def build(self) -> Points:
        """The distribution."""
        return Points(self)


class Points:
    """The distribution over goals."""

    def __init__(self, config: PointConfig) -> None:
        self.name = "2-D point navigation"
        if config.reward_radius is not None:
            self.name += f", rewarded within {config.reward_radius:g}"
        self.horizon = config.horizon
        self._reward_radius = config.reward_radius
        rng = np.random.default_rng(config.seed)
        total = config.num_train_tasks + config.num_test_tasks
        check_memory(total * TASK_BYTES, f"{total:,} goals")
        if config.goals == "square":
            goals = rng.uniform(-config.half_side, config.half_side, (total, 2))
        else:
            angles = rng.uniform(0, np.pi, total)
            goals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        tasks = [PointTask(goal) for goal in goals]
        self.train = TaskSet(tasks[: config.num_train_tasks])
        self.test = TaskSet(tasks[config.num_train_tasks :])

    def make_env(self, num_slots: int) -> PointEnv:
        """Slots that play training tasks until `set_tasks` is called."""
        tasks = self.train.sample(num_slots, np.random.default_rng(0))
        return PointEnv(tasks, horizon=self.horizon, reward_radius=self._reward_radius)


class PointEnv(SlotEnv[PointTask]):
    """One goal per slot; every episode starts at the origin. The environment is deterministic."""

    def __init__(
        self, tasks: Sequence[PointTask], *, horizon: int, reward_radius: float | None = None
    ) -> None:
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float64),
            action_space=spaces.Box(-STEP_LENGTH, STEP_LENGTH, (2,), np.float32),
        )
        self._reward_radius = reward_radius
        self._goals = np.zeros((self.num_envs, 2))
        self._positions = np.zeros((self.num_envs, 2))
        self._steps = np.zeros(self.num_envs, dtype=np.int64)

    def _restart(
        self, slots: Int[np.ndarray, " n"], tasks: Sequence[PointTask]
    ) -> Float[np.ndarray, "N 2"]:
        """Moves points to the origin."""
        self._goals[slots] = [tasks[slot].goal for slot in slots]
        self._positions[slots] = 0.0
        self._steps[slots] = 0
        return self._positions.copy()

    def _step(self, actions: Float[np.ndarray, "N 2"]) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Moves every point by its action, clipped to the step length."""
        move = np.clip(np.asarray(actions, np.float64), -STEP_LENGTH, STEP_LENGTH)
        self._positions = self._positions + move
        self._steps += 1
        distance = np.linalg.norm(self._positions - self._goals, axis=1)
        reward, radius = -distance, SUCCESS_RADIUS
        if self._reward_radius is not None:
            radius = self._reward_radius
            reward = np.where(distance < radius, 1 - distance, 0.0)
        info = {"final_obs": self._positions.copy(), "success": distance < radius}
        ended = self._steps == self.horizon
        self._positions[ended] = 0.0
        self._steps[ended] = 0
        return self._positions.copy(), reward, ended, info
