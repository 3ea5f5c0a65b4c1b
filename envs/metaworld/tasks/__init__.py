"""Observation and reward of the Meta-World tasks, one module for each family of tasks."""

from envs.metaworld.tasks import (
    assembling,
    buttons,
    doors,
    drawers,
    faucets,
    handles,
    picking,
    placing,
    pushing,
    reaching,
    sliding,
    sticks,
    sweeping,
    tools,
    windows,
)
from envs.metaworld.tasks.interface import TaskCode

FAMILIES = (
    assembling,
    buttons,
    doors,
    drawers,
    faucets,
    handles,
    picking,
    placing,
    pushing,
    reaching,
    sliding,
    sticks,
    sweeping,
    tools,
    windows,
)

TASKS: dict[str, TaskCode] = {task.env_name: task for family in FAMILIES for task in family.TASKS}
"""Every task that the native engine knows, by its official name."""
