"""All campaigns, by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.campaign import configs, damage, disks, hostile, kills, storms, workers
from benchmarks.campaign.experiments import Place
from benchmarks.campaign.verdict import Verdict


@dataclass(frozen=True)
class Campaign:
    """Attacks of one kind."""

    count: int
    """Number of attacks in the whole campaign."""
    attack: Callable[[int, random.Random, Place], Verdict]
    """Carries out the attack with a number; all its randomness comes from the generator."""


CAMPAIGNS = {
    name: Campaign(module.COUNT, module.attack)
    for name, module in {
        "kills": kills,
        "storms": storms,
        "damage": damage,
        "hostile": hostile,
        "configs": configs,
        "workers": workers,
        "disks": disks,
    }.items()
}
