"""A point in the wind that must find out where it is wanted."""

import gymnasium
import numpy as np
from gymnasium import spaces

horizon = 20


class WindyPoint(gymnasium.Env):
    """Observes its position; neither the goal nor the wind. Paid the negative distance."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-0.1, 0.1, (2,), np.float32)

    def set_task(self, task):
        """Says what the next episodes are about; the toolkit calls it before a reset."""
        self.goal, self.wind = np.array(task["goal"]), np.array(task["wind"])

    def reset(self, *, seed=None, options=None):
        """Puts the point at the origin."""
        super().reset(seed=seed)
        self.position = np.zeros(2)
        return self.position, {}

    def step(self, action):
        """Moves the point by its action, by the wind and by a gust."""
        gust = self.np_random.normal(0.0, 0.005, 2)
        self.position = self.position + action + self.wind + gust
        distance = float(np.linalg.norm(self.position - self.goal))
        return self.position, -distance, False, False, {"success": distance < 0.1}


def draw_tasks(count, seed):
    """Tasks are plain data: here a mapping of two vectors."""
    rng = np.random.default_rng(seed)
    return [
        {"goal": rng.uniform(-0.5, 0.5, 2), "wind": rng.uniform(-0.03, 0.03, 2)}
        for _ in range(count)
    ]


train_tasks = draw_tasks(1000, seed=0)
test_tasks = draw_tasks(50, seed=1)
make_env = WindyPoint
