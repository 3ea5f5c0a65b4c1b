"""Yardsticks: baselines on held-out tasks, such as random actions, scripts, PPO and SAC."""

from envs.yardsticks.curves import LearningCurve, env_steps_to
from envs.yardsticks.from_scratch import learn_all_tasks, learn_from_scratch
from envs.yardsticks.learners import PPOConfig, SACConfig
from envs.yardsticks.policies import RandomPolicy, SB3Policy, ScriptedPolicy
from envs.yardsticks.results import (
    Yardstick,
    fixed_yardstick,
    from_scratch_yardstick,
    multi_task_yardstick,
    read_yardstick,
    spread,
    write_yardstick,
)

__all__ = [
    "LearningCurve",
    "PPOConfig",
    "RandomPolicy",
    "SACConfig",
    "SB3Policy",
    "ScriptedPolicy",
    "Yardstick",
    "env_steps_to",
    "fixed_yardstick",
    "from_scratch_yardstick",
    "learn_all_tasks",
    "learn_from_scratch",
    "multi_task_yardstick",
    "read_yardstick",
    "spread",
    "write_yardstick",
]
