"""One to three of SIGINT, SIGTERM and SIGHUP at any moment, also during imports.

The command must end with exit code 130 (or 0 if it had finished) and at most one line on stderr,
and the training must resume to the same bits.
"""

from __future__ import annotations

import random
import signal

from benchmarks.campaign.child import Trap
from benchmarks.campaign.experiments import EVALUATING, KILLED, RUN, Place
from benchmarks.campaign.verdict import Verdict

COUNT = 320
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
PAUSES = (0.0, 0.01, 0.1, 0.5, 2.0)
"""Largest pauses between two signals (s)."""
FRESH_SECONDS = 7.0
EARLIEST = 0.1
"""Time until the first line of a command has run (s); before it, Python handles signals."""


def attack(number: int, rng: random.Random, place: Place) -> Verdict:
    """Sends signals to a training or an evaluation, then resumes or repeats it."""
    how = ("operation", "clock", "clock", "fresh", "operation", "clock", "clock", "evaluation")[
        number % 8
    ]
    experiment = KILLED[number // 8 % len(KILLED)]
    storm = [rng.choice(SIGNALS) for _ in range(rng.randint(1, 3))]
    pauses = [rng.uniform(0, rng.choice(PAUSES)) for _ in storm[1:]]
    reference = place.reference(experiment)
    if how == "evaluation":
        place.copy_of(experiment)
        fresh, seconds = rng.random() < 0.3, 2.0
        arguments = ["evaluate.py", RUN, *EVALUATING[experiment]]
    else:
        fresh, seconds = how == "fresh", reference.seconds
        arguments = place.lay_out(experiment)
    if how == "operation":
        at = rng.randint(1, len(reference.operations))
        when = f"before file operation {at}"
        trap = Trap(place.folder / RUN, at=at, do=storm[0])
        running = place.command(*arguments, trap=trap).start()
        running.ended_within(1.0)  # the moment of the trap, or a little later
    else:
        after = rng.uniform(EARLIEST, FRESH_SECONDS if fresh else 1.1 * seconds)
        when = f"after {after:.3f} s{' of a new Python' if fresh else ''}"
        running = place.command(*arguments, fresh=fresh).start()
        # Before that, Python itself starts, not the project.
        if not fresh or running.has_loaded("numpy"):
            running.ended_within(after)
        running.send(signal.Signals[storm[0]])
    for name, pause in zip(storm[1:], pauses, strict=True):
        running.ended_within(pause)
        running.send(signal.Signals[name])
    gaps = "".join(
        f", {name} {pause:.3f} s later" for name, pause in zip(storm[1:], pauses, strict=True)
    )
    said = f"{arguments[0]} of {experiment}: {storm[0]} {when}{gaps}"
    ended = running.end()
    if fault := ended.fault(said, codes=(0, 130)):
        return fault
    if how == "evaluation":
        ended = place.run(*arguments)
        fault = ended.fault(f"{said}; then evaluated again", codes=(0,))
        return fault or Verdict("survived", said)
    return place.finish(experiment, said)
