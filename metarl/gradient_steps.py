"""Gradient steps on any `nn.Module`; written in `metarl.learning.gradient_steps`."""

from metarl.learning.gradient_steps import (
    SGD,
    Adam,
    AdamState,
    Adapted,
    InnerOptimizer,
    adapt,
    for_each_task,
    on_each_task,
)

__all__ = [
    "SGD",
    "Adam",
    "AdamState",
    "Adapted",
    "InnerOptimizer",
    "adapt",
    "for_each_task",
    "on_each_task",
]
