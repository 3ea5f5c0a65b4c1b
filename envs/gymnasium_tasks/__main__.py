"""Says in words what is wrong with a module of tasks; see `envs.gymnasium_tasks.checker`."""

import sys

from envs.gymnasium_tasks.checker import main

if __name__ == "__main__":
    main(sys.argv[1:])
