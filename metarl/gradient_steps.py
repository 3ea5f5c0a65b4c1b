"""Public names of `metarl.learning.gradient_steps`: gradient steps on any `nn.Module`."""

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
