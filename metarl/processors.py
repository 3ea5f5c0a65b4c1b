"""How many processors there are to work with."""

import os
import sys


def num_processors() -> int:
    """How many this process may use, where the system tells; else how many there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
