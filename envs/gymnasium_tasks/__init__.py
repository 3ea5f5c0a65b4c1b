"""Any Gymnasium environment whose task can be set, as a task distribution."""

from envs.gymnasium_tasks.checker import check
from envs.gymnasium_tasks.tasks import GymnasiumConfig, GymnasiumEnv, GymnasiumTasks
from metarl.evaluation.adapt import Adapted, LoneEnv

__all__ = ["Adapted", "GymnasiumConfig", "GymnasiumEnv", "GymnasiumTasks", "LoneEnv", "check"]
