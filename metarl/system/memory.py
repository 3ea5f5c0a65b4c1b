"""Memory checks: sizes that cannot fit are refused before the system kills the process."""

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
"""Bytes of a task and its place in a set, without its parameters."""
STEP_BYTES = 100
"""Minimum number of bytes of a slot's observation, action and reward in one step."""


def total_memory() -> int | None:
    """Bytes of memory of this machine or container; None where the system does not tell."""
    known = []
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in CONTAINER_LIMITS:
        with suppress(ValueError, OSError):  # "max" is no limit
            known.append(int(limit.read_text(encoding="utf-8")))
    return min(known, default=None)


def check_memory(needed: int, what: str) -> None:
    """Checks that a number of bytes fits into the total memory.

    Args:
        needed: minimum number of bytes that are needed.
        what: their use, and the options that determine it, for the message.

    Raises:
        UserError: they do not fit.
    """
    total = total_memory()
    if total is not None and needed > total:
        raise UserError(
            f"{what} would take {needed / 1e9:,.0f} GB of memory or more, and there are "
            f"{total / 1e9:,.0f}; choose smaller numbers"
        )


def check_trial_fits(shape: TrialShape, *, num_tasks: int, horizon: int) -> None:
    """Checks that the rollouts of a trial fit into memory.

    Raises:
        UserError: they do not fit.
    """
    steps = num_tasks * shape.total_episodes * horizon
    check_memory(
        steps * STEP_BYTES,
        f"a trial of {num_tasks:,} tasks, {shape.total_episodes:,} episodes each of {horizon:,} "
        "steps,",
    )
