"""Task distributions over any Gymnasium environment whose task can be set."""

from envs.gymnasium_tasks.checker import check
from envs.gymnasium_tasks.tasks import GymnasiumConfig, GymnasiumEnv, GymnasiumTasks
from metarl.evaluation.adapt import AdaptedAgent, LoneEnv

__all__ = ["AdaptedAgent", "GymnasiumConfig", "GymnasiumEnv", "GymnasiumTasks", "LoneEnv", "check"]
