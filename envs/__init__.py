"""Task distributions and the engines that step their environments."""

import sys

from metarl.system import stopping

if sys.argv[:1] == ["-m"] and "envs.gymnasium_tasks" in sys.orig_argv:
    # Python imports this module before it runs that command, and the imports below take seconds.
    stopping.install("envs.gymnasium_tasks")

import envs.registration  # noqa: F401  (registers the benchmarks with Gymnasium)
