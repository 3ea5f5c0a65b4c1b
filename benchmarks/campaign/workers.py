"""Users' environments that fail in every way, at every place, with and without workers.

With workers, no failure of an environment may break the run: it is reported in a line, or costs a
trial. A failure that happens only once is gone when the run is resumed, which must then give the
bits of a run without it.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from benchmarks.campaign.experiments import (
    CONFIG,
    EXPERIMENTS,
    MODULE,
    RUN,
    USER_MODULE,
    Place,
    metrics,
    training,
)
from benchmarks.campaign.verdict import Ended, Verdict

COUNT = 170
LAST = "128"
"""The last checkpoint."""
RAISES = {
    "raises": "raise RuntimeError('no')",
    "raises what cannot be sent": "raise Odd(lambda: 0)",
    "raises what cannot be printed": "raise Mute()",
    "raises ANSI": "raise RuntimeError('\\x1b[2J\\x1b[31m [/bold] [link=x]')",
    "raises a path": "raise OSError('cannot read [/data/model]')",
    "raises 5 MB": "raise RuntimeError('x' * 5_000_000)",
    "raises StopIteration": "raise StopIteration",
    "raises MemoryError": "bytearray(2**46)",
    "recurses": "f = lambda: f(); f()",
    "exits": "sys.exit(3)",
    "exits with 0": "sys.exit(0)",
    "interrupts": "raise KeyboardInterrupt",
    "raises BaseException": "raise BaseException('no')",
}
DIES = {
    "dies with 0": "os._exit(0)",
    "dies with 3": "os._exit(3)",
    "segfaults": "ctypes.string_at(0)",
    "aborts": "os.abort()",
    "kills itself": "os.kill(os.getpid(), 9)",
    "terminates itself": "os.kill(os.getpid(), 15)",
    "closes all files": "os.closerange(3, 200)",
}
HANGS = {
    "sleeps": "time.sleep(10**6)",
    "spins": "exec('while True: pass')",
    "sleeps and ignores": (
        "[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; time.sleep(10**6)"
    ),
}
HARMLESS = {
    "prints 5 MB": "print('x' * 5_000_000, flush=True)",
    "warns": "warnings.warn('[/bold] careful')",
    "changes the folder": ("os.makedirs(OTHER, exist_ok=True); os.chdir(OTHER)"),
    "closes stdout": "sys.stdout.close()",
    "leaves a thread": "threading.Thread(target=time.sleep, args=(10**6,), daemon=True).start()",
    "seeds numpy": "np.random.seed(0)",
    "makes garbage": "gc.disable()",
}
RETURNS = {
    "None": "None", "NaN": "np.full(1, np.nan, np.float32)", "two numbers": "np.zeros(2)",
    "a number": "0.5", "text": "'x'", "objects": "np.array([object()])", "a list": "[[1], [2, 3]]",
    "infinity": "np.full(1, np.inf, np.float32)", "1e300": "np.full(1, 1e300)",
}  # fmt: skip
"""Expressions of wrong observations."""
RESULTS = {
    "four": "(obs, rest[0], False, {})", "None": "None", "a text": "'x'",
    "a NaN reward": "(obs, float('nan'), False, False, {})",
    "no reward": "(obs, None, False, False, {})",
    "a reward of 10^400": "(obs, 10**400, False, False, {})",
    "a reward of two": "(obs, np.zeros(2), False, False, {})",
    "an info of None": "(obs, rest[0], False, False, None)",
    "an end of arrays": "(obs, rest[0], np.zeros(3), False, {})",
}  # fmt: skip
"""Expressions of wrong results of `step`."""
PLACES = ("import", "make_env", "set_task", "reset", "step", "step", "step", "close")
HEAD = f"""
import ctypes, gc, os, signal, sys, threading, time, warnings
from pathlib import Path

OTHER = Path(__file__).resolve().parent / "other"


class Odd(Exception):
    pass


class Mute(Exception):
    def __str__(self):
        raise ValueError

    __repr__ = __str__


def happens(once, counted=[0]):
    counted[0] += 1
    if once:
        try:
            (Path(__file__).parent / "happened").touch(exist_ok=False)
        except FileExistsError:
            return False
    return True

{USER_MODULE}
"""
FAULTY = """

class Faulty(Find):
    steps = 0

    def set_task(self, task):
        super().set_task(task)
        {set_task}

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        {reset}
        return obs, info

    def step(self, action):
        obs, *rest = super().step(action)
        result = (obs, *rest)
        Faulty.steps += 1
        if Faulty.steps > 5:
            {step}
        return result

    def close(self):
        {close}


def make_env():
    {make_env}
    return Faulty()


{module}
"""


def attack(number: int, rng: random.Random, place: Place) -> Verdict:
    """Trains with a failing environment, to the end where the run can continue."""
    workers = 0 if number % 4 == 3 else 2
    where, what, code = choose(rng, workers)
    once = rng.random() < 0.5
    on_failure = rng.choice(["stop", "restart"])
    attack_said = (
        f"{where} {what} {'once' if once else 'always'}, {workers} workers, on_failure {on_failure}"
    )
    lines: dict[str, str] = dict.fromkeys(
        ("set_task", "reset", "step", "close", "make_env", "module"), "pass"
    )
    place_of = "module" if where == "import" else where
    lines[place_of] = f"if happens({once}): {code}"
    config = EXPERIMENTS["user_module"].replace(
        "num_workers: 2", f"num_workers: {workers}, on_failure: {on_failure}, step_timeout: 2"
    )
    (place.folder / CONFIG).write_text(config, encoding="utf-8")
    (place.folder / MODULE).write_text(HEAD + FAULTY.format(**lines), encoding="utf-8")
    # Resets may take a minute, regardless of the time limit of steps.
    patient = what in HANGS and where not in ("step", "close")
    ended = quiet(place.run(*training("user_module"), patience=3 if patient else 1))
    interrupted = what == "interrupts" and workers == 0
    codes = (0, 2, 130) if interrupted else (0, 2)
    if fault := ended.fault(attack_said, codes=codes):
        return fault
    harmless = what in HARMLESS or where == "close"
    lost = on_failure == "restart" and any(
        "skipped" in line for line in (metrics(place.folder / RUN) if logged(place) else [])
    )
    if ended.code == 0 and not (place.folder / RUN / "checkpoints" / LAST).is_dir():
        return Verdict("accepted", attack_said, "ends as if all was well, and nothing is trained")
    if ended.code == 0 and not lost:
        # Nothing happened, or only at a place where nothing is lost.
        verdict = place.compare("user_module", attack_said)
        if verdict.kind == "differs" and what.startswith(("returns", "observes")):
            return replace(verdict, kind="accepted", said=f"learned from it: {verdict.said}")
        return verdict
    if harmless and ended.code != 0:
        return Verdict("other", attack_said, f"costs the run: {(ended.errors or [''])[-1]}")
    if once and not lost:
        return place.finish("user_module", attack_said)
    return ended.refused(attack_said) or Verdict("survived", attack_said, "a trial was lost")


def logged(place: Place) -> bool:
    """True if the run has a log."""
    return (place.folder / RUN / "metrics.jsonl").exists()


def choose(rng: random.Random, workers: int) -> tuple[str, str, str]:
    """Place and kind of a failure, and the code that causes it."""
    where = rng.choice(PLACES)
    if rng.random() < 0.25:
        where = rng.choice(["reset", "step", "step"])
        if where == "step" and rng.random() < 0.6:
            what = rng.choice(list(RESULTS))
            return where, f"returns {what}", f"result = {RESULTS[what]}"
        what = rng.choice(list(RETURNS))
        code = "obs = {0}" if where == "reset" else "result = ({0}, *rest)"
        return where, f"observes {what}", code.format(RETURNS[what])
    kinds = [RAISES, HARMLESS] if workers == 0 else [RAISES, RAISES, DIES, DIES, HANGS, HARMLESS]
    kind = rng.choice(kinds)
    if kind is HANGS and where not in ("step", "close") and rng.random() < 0.7:
        where = "step"  # the others take a minute each
    what = rng.choice(list(kind))
    return where, what, kind[what]


def quiet(ended: Ended) -> Ended:
    """The end of a command without the lines that the user's environment printed."""
    out, err = (re.sub("x{9999,}\n?", "", text) for text in (ended.out, ended.err))
    warned = "\n".join(line for line in err.splitlines() if "careful" not in line)
    return replace(ended, out=out, err=warned)
