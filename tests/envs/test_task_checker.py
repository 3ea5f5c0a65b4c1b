"""The checker of modules: its findings, and modules that it accepts."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.gymnasium_tasks import GymnasiumConfig, GymnasiumTasks, check, checker
from tests.envs.user_modules import WALK, write
from train import checking_agents

ROOT = Path(__file__).parents[2]


# Text to replace in WALK, its replacement, and the checker's finding.
OBS = "np.array([self.place, self.steps])"
STEP_RESULT = 'return self._obs(), self.place, False, far, {"success": far}'
START = "self.steps, self.place = 0"
MOVE = "self.place += float(action[0])"
MISTAKES = {
    "missing": ("test_tasks =", "test_task =", "there is no test_tasks;"),
    "not tasks": ('[{"drift": 500.0}]', '["far"]', "test_tasks[0] is 'far'; a task is"),
    "horizon": ("horizon = 5", "horizon = 5.0", "horizon must be a whole number"),
    "no set_task": ("def set_task", "def give_task", "its environment has no set_task(task)"),
    "no env": (
        "make_env = Walk", "make_env = lambda: 3",
        "make_env must return a gymnasium.Env, but returned int",
    ),
    "actions": (
        "spaces.Box(-1, 1, (1,), np.float32)", "spaces.MultiBinary(2)", "neither Discrete nor"
    ),
    "old reset": (
        "return self._obs(), {}", "return self._obs()",
        "reset must return (obs, info), but returned a ndarray",
    ),
    "old step": (
        STEP_RESULT, "return self._obs(), self.place, far, {}",
        "truncated, info), but returned 4 things",
    ),
    "shape": (
        OBS, "np.array([[self.place, self.steps]])",
        "reset: the observation has shape (1, 2), the observation space (2,)",
    ),
    "nan": (OBS, "np.array([np.nan, self.steps])", "the observation is not finite"),
    "dtype": (
        "(2,), np.float64", "(2,), np.float32", "is float64, the observation space float32"
    ),
    "outside": (
        "spaces.Box(-np.inf, np.inf, (2,)", "spaces.Box(-9, 2, (2,)",
        "the observation is outside the observation space",
    ),
    "reward": (
        "self.place, False, far", "np.inf, False, far",
        "step 1: the reward is inf, which is no finite number",
    ),
    "raises": (
        MOVE, "self.place += self.velocity",
        "step 1: AttributeError: 'Walk' object has no attribute 'velocity' (module.py, line 27)",
    ),
    "early": ("10 * i}", "10 * i + 1000}", "note: random play ended an episode after 3 of 5 steps"),
    "twice": ("10 * i}", "10 * (i // 2)}", "train_tasks has 8 tasks, but only 4 differ"),
    "shared": ("500.0", "70", "1 of train_tasks are in test_tasks too, e.g. {'drift': 70}"),
    "no difference": ('task["drift"]', "3", "the task makes no difference: 5 tasks give"),
    "forgotten": (
        START, f"self.drift = 0; {START}",
        "the task does not survive a reset: set_task(task), then reset() forgets it",
    ),
    "forgotten later": (
        MOVE, f"self.drift *= self.steps < 5; {MOVE}",
        "a second episode differs from the first, with the same seed and actions: reset forgets",
    ),
    "not seeded": (
        "self.np_random.normal()\n        return", "np.random.normal()\n        return",
        "not reproducible: the same task, seed and actions lead elsewhere; draw all",
    ),
    "left over": (
        'self.drift = task["drift"]', 'self.drift = getattr(self, "drift", 1) + task["drift"]',
        "lead elsewhere once other tasks were played; let reset start everything anew",
    ),
    "no success": ('{"success": far}', "{}", 'note: no info has "success" or "is_success"'),
    "info": ('{"success": far}', "None", "info must be a dictionary, but is None"),
    "gymnasium": ("seed=None, options=None", "seed=None", "gymnasium's check_env: "),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_the_checker_finds(name: str, tmp_path: Path, capsys) -> None:
    old, new, finding = MISTAKES[name]
    assert WALK.count(old) == 1
    module = write(tmp_path, WALK.replace(old, new))
    found = check(module)
    first, *notes = found
    assert finding in first and "\n" not in first
    assert all(note.startswith("note: ") for note in notes)
    expected = 0 if first.startswith("note: ") else 2
    code = 0
    try:
        checker.tell(module, found)
    except SystemExit as stopped:
        code = stopped.code
    assert code == expected
    assert capsys.readouterr().out.splitlines()[0] == first


def test_the_checker_is_content_with_what_is_right(tmp_path: Path) -> None:
    """Also a module with a distribution, and with a make_env that takes the task."""
    module = write(tmp_path, WALK)
    assert check(module) == check(GymnasiumConfig(module=module).build()) == []
    of_task = """
def make_env(task):
    env = Walk()
    env.drift = task["drift"]
    return env
"""
    assert check(write(tmp_path, WALK + of_task, "of_task.py")) == []
    assert "missing.py" in check(tmp_path / "missing.py")[0]


ACTIONS = [
    spaces.Box(-0.1, 0.1, (2,), np.float16),
    spaces.Box(-0.1, 0.1, (2,), np.float64),
    spaces.Discrete(3, start=-1, dtype=np.int32),
]


@pytest.mark.parametrize("actions", ACTIONS, ids=str)
def test_agents_learn_from_actions_of_any_precision(actions: spaces.Space) -> None:
    tasks = GymnasiumTasks(
        lambda task: Contained(task, actions), train_tasks=[1, 2], test_tasks=[3], horizon=9
    )
    assert check(tasks, agents=checking_agents()) == []


class Contained(gymnasium.Env):
    """Environment that rejects actions outside its space and observes more than float32 can
    hold."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def __init__(self, task: float, actions: spaces.Space, scale: float = 1.0) -> None:
        self.action_space, self.task, self.scale = deepcopy(actions), task, scale

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1), {}

    def step(self, action):
        assert self.action_space.contains(action)
        noise = self.np_random.normal(size=1) * self.scale
        return noise, self.task + float(noise[0] > 0), False, False, {"success": True}


def test_what_only_an_agent_finds() -> None:
    """1e300 is finite, but infinite in the agents' float32."""
    tasks = GymnasiumTasks(
        lambda task: Contained(task, ACTIONS[1], 1e300),
        train_tasks=[1, 2], test_tasks=[3], horizon=9,
    )  # fmt: skip
    assert all(text.startswith("note: ") for text in check(tasks))
    found = [
        text for text in check(tasks, agents=checking_agents()) if not text.startswith("note: ")
    ]
    assert [text.split(" ")[0] for text in found] == ["maml_trpo", "promp", "rl2", "varibad"]
    assert all("cannot learn from it: observation in step 2 of slot 0" in text for text in found)


def test_a_module_that_crashes_is_a_finding(tmp_path: Path) -> None:
    """The checker plays in its own process."""
    module = write(tmp_path, WALK.replace("self.steps += 1", "import os; os.kill(os.getpid(), 11)"))
    (found,) = checker.check_apart(module, checking_agents())
    assert (
        found == f"{module}: its worker process was killed by SIGSEGV, at call 5 of the environment"
    )


def test_the_checker_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "envs.gymnasium_tasks"]
    done = subprocess.run(
        [*command, write(tmp_path, WALK)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.endswith("module.py can be trained on\n")
