"""Command line that checks a module of tasks; see `envs.gymnasium_tasks.checker`."""

import sys

from envs.gymnasium_tasks.checker import main
from metarl.system.command_line import one_line_errors

if __name__ == "__main__":
    with one_line_errors("envs.gymnasium_tasks"):
        main(sys.argv[1:])
