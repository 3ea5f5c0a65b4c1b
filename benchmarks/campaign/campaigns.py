"""All campaigns by their names."""

from __future__ import annotations

import random
from typing import Protocol

from benchmarks.campaign import configs, damage, disks, hostile, kills, storms, workers
from benchmarks.campaign.experiments import Place
from benchmarks.campaign.verdict import Verdict


class Campaign(Protocol):
    """A module with attacks."""

    COUNT: int
    """Of attacks in the whole campaign."""

    def attack(self, number: int, rng: random.Random, place: Place) -> Verdict:
        """Carries out the attack of a number; all chance in it comes from `rng`."""
        ...


CAMPAIGNS: dict[str, Campaign] = {
    "kills": kills,
    "storms": storms,
    "damage": damage,
    "hostile": hostile,
    "configs": configs,
    "workers": workers,
    "disks": disks,
}
