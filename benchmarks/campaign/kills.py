"""SIGKILL at any moment of a training, which must then resume to the same bits.

Of five attacks, two are killed right before a file operation and two at a random time; one is a new
Python, killed at a random time, most likely during imports. Some are killed again after resuming.
"""

from __future__ import annotations

import random
import signal
from typing import Any

from benchmarks.campaign.child import Trap
from benchmarks.campaign.experiments import KILLED, RUN, Place
from benchmarks.campaign.verdict import Verdict

COUNT = 250
FRESH_SECONDS = 6.0
"""Longest time before a new Python is killed (s)."""


def attack(number: int, rng: random.Random, place: Place) -> Verdict:
    """Kills a training one to three times, then lets it end."""
    experiment = KILLED[number // 5 % len(KILLED)]
    how = ("operation", "operation", "clock", "clock", "fresh")[number % 5]
    reference = place.reference(experiment)
    arguments = place.lay_out(experiment)
    said, done = "", []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        begun = (place.folder / RUN).exists()
        arguments = ["train.py", "--resume", RUN] if begun else arguments
        options: dict[str, Any] = {}
        after = float("inf")
        if how == "operation":
            at = rng.randint(1, len(reference.operations))
            options["trap"] = Trap(place.folder / RUN, at=at, do="SIGKILL")
            done.append(f"before file operation {at}")
        else:
            seconds = reference.seconds * 1.1 if how == "clock" else FRESH_SECONDS
            after = rng.uniform(0, seconds)
            options["fresh"] = how == "fresh"
            done.append(f"after {after:.3f} s{' of a new Python' if how == 'fresh' else ''}")
        running = place.command(*arguments, **options).start()
        if not running.ended_within(min(after, 60.0)):
            running.send(signal.SIGKILL)
        ended = running.end()
        said = f"{experiment} killed {', then '.join(done)}"
        if fault := ended.fault(said, codes=(0, -signal.SIGKILL)):
            return fault
    return place.finish(experiment, said)
