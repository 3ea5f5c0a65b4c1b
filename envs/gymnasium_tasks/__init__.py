"""Any Gymnasium environment whose task can be set, as a task distribution."""

import sys

from metarl import stopping

if sys.argv[:1] == ["-m"] and __name__ in sys.orig_argv:
    # Python imports this on its way to the command of the same name, and it takes seconds.
    stopping.install(__name__)

from envs.gymnasium_tasks.adapted import Adapted, LoneEnv
from envs.gymnasium_tasks.checker import check
from envs.gymnasium_tasks.tasks import GymnasiumConfig, GymnasiumEnv, GymnasiumTasks

__all__ = ["Adapted", "GymnasiumConfig", "GymnasiumEnv", "GymnasiumTasks", "LoneEnv", "check"]
