"""Renamed keys: files that were stored with the old names still load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXPERIMENT = {
    "train.tasks_per_trial": "train.meta_batch_size",
    "train.tasks_per_update": "train.meta_batch_size",
}
"""Keys of an experiment's YAML file."""
FEW_SHOT_OPTIONS = {"options.episodes": "options.num_tasks"}
"""Keys of a stored evaluation of a few-shot learner."""


def renamed(values: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """`values` with today's names for `section.key`. A section with both names keeps them, so that
    validation refuses it."""
    found = dict(values)
    for old, new in table.items():
        section, old_key = old.split(".")
        content = found.get(section)
        new_key = new.split(".")[1]
        if isinstance(content, Mapping) and old_key in content and new_key not in content:
            found[section] = {
                (new_key if key == old_key else key): value for key, value in content.items()
            }
    return found
