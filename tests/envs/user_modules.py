"""Modules as users write them, for the tests of environments that play them."""

from pathlib import Path

# Walks by its action, the task and noise; beyond 1000, an episode ends after three steps.
WALK = """
import gymnasium
import numpy as np
from gymnasium import spaces

horizon = 5
train_tasks = [{"drift": 10 * i} for i in range(8)]
test_tasks = [{"drift": 500.0}]

class Walk(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def set_task(self, task):
        self.drift = task["drift"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.normal()
        return self._obs(), {}

    def _obs(self):
        return np.array([self.place, self.steps])

    def step(self, action):
        self.steps += 1
        self.place += float(action[0]) + self.drift + self.np_random.normal()
        far = self.steps == 3 and self.place > 1000
        return self._obs(), self.place, False, far, {"success": far}

make_env = Walk
"""

# Task 0 is harmless; others fail in the sixth step of a trial, the second step of its second
# episode.
FAULTY = """
import os
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

horizon = 4
train_tasks = [0, 1, 2, 3, 4, 5]
test_tasks = [6]

def wrong():
    return 1 // 0

def once():
    if not Path("failed").exists():
        Path("failed").touch()
        os._exit(3)

FAULTS = [lambda: None, wrong, lambda: os._exit(3), lambda: time.sleep(1000),
          lambda: os.kill(os.getpid(), signal.SIGSEGV), once, wrong]

class Faulty(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def set_task(self, task):
        self.fault, self.steps = FAULTS[int(task)], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 6:
            self.fault()
        return np.array([self.steps]), 1.0, False, False, {}

make_env = Faulty
"""

# A robot of Gymnasium whose torso has the mass given by the task.
HOPPER = """
import gymnasium

horizon = 30
train_tasks = [1.0, 2.0, 3.0]
test_tasks = [0.5]

class Heavy(gymnasium.Wrapper):
    def set_task(self, task):
        self.unwrapped.model.body_mass[1] = 3.0 * task

def make_env():
    return Heavy(gymnasium.make("Hopper-v5"))
"""


def write(folder: Path, text: str, name: str = "module.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)
