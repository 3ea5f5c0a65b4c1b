"""How much memory there is, and what would not fit: said before the system ends the process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from metarl.errors import UserError
from metarl.types import TrialShape

CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
TASK_BYTES = 500
"""Of a task and its place in a set, beside what it is made of."""
STEP_BYTES = 100
"""Of what a slot sees and does in a step, at least."""


def total_memory() -> int | None:
    """Bytes that this machine, or the container, has; None where the system does not tell."""
    known = []
    with suppress(AttributeError, ValueError, OSError):  # there is no such thing on Windows
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in CONTAINER_LIMITS:
        with suppress(ValueError, OSError):  # "max" is no limit
            known.append(int(limit.read_text(encoding="utf-8")))
    return min(known, default=None)


def check_memory(needed: int, what: str) -> None:
    """Checks that something fits into memory at all.

    Args:
        needed: bytes that it takes at least.
        what: names it, and the options that it follows from.

    Raises:
        UserError: it does not.
    """
    total = total_memory()
    if total is not None and needed > total:
        raise UserError(
            f"{what} would take {needed / 1e9:,.0f} GB of memory or more, and there are "
            f"{total / 1e9:,.0f}; choose less"
        )


def check_trial_fits(shape: TrialShape, *, num_tasks: int, horizon: int) -> None:
    """Checks that what is seen in a trial fits into memory.

    Raises:
        UserError: it does not.
    """
    steps = num_tasks * shape.total_episodes * horizon
    check_memory(
        steps * STEP_BYTES,
        f"a trial of {num_tasks:,} tasks, {shape.total_episodes:,} episodes each of {horizon:,} "
        "steps,",
    )
