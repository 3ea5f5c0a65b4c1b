"""Observations and rewards of the Meta-World tasks, one module per family of tasks."""

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

TASK_CLASSES: dict[str, TaskCode] = {
    task.env_name: task for family in FAMILIES for task in family.TASK_CLASSES
}
"""Code of every task of the native engine, by official name."""
