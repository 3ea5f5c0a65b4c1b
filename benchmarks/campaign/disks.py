"""Disks that become full or read-only, and folders that vanish, while something is written.

The system's error must become one line that says what is saved; once there is room, resuming the
run must give the same bits. Small disks and read-only folders are mounts, which only root can make;
for other users, errors are simulated in Python and the size of files is limited.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.campaign.child import Trap
from benchmarks.campaign.experiments import EVALUATING, KILLED, RUN, Place
from benchmarks.campaign.verdict import Verdict

COUNT = 84
ROOM = 64 * 2**20
EVALUATED = [name for name in KILLED if name != "user_module"]


def attack(number: int, rng: random.Random, place: Place) -> Verdict:
    """Makes writing fail, then makes room and resumes."""
    kinds = (
        small_disk, trapped_training, read_only, limited_files, small_disk_evaluated,
        trapped_evaluation, small_disk_reported,
    )  # fmt: skip
    kind = kinds[number % len(kinds)]
    if kind in (small_disk, read_only, small_disk_evaluated, small_disk_reported) and os.geteuid():
        return Verdict("skipped", kind.__name__, "only root can mount a small or read-only disk")
    return kind(rng, place)


def small_disk(rng: random.Random, place: Place) -> Verdict:
    """Trains on a disk that becomes full."""
    experiment = rng.choice(KILLED)
    size = rng.randrange(8, 2 + used(place.reference(experiment).folder) // 1024)
    with mounted(place.folder, size * 1024):
        arguments = place.lay_out(experiment)
        ended = place.run(*arguments)
        attack_said = f"{experiment} on a disk of {size} KiB"
        if fault := ended.fault(attack_said):
            return fault
        resize(place.folder, ROOM)
        return place.finish(experiment, attack_said)


def small_disk_evaluated(rng: random.Random, place: Place, *, report: bool = False) -> Verdict:
    """Evaluates a run on a disk with little room left."""
    experiment = rng.choice(EVALUATED)
    arguments = ["evaluate.py", RUN, *EVALUATING[experiment], *(["--report"] if report else [])]
    room = rng.choice([0, 4, 8, 16, 64, 128, 512 if report else 32])
    with mounted(place.folder, ROOM):
        place.copy_of(experiment)
        resize(place.folder, max(used(place.folder), 4096) + room * 1024)
        attack_said = f"{' '.join(arguments[2:])} of {experiment}, {room} KiB free"
        ended = place.run(*arguments)
        if fault := ended.fault(attack_said):
            return fault
        results = list((place.folder / RUN).rglob("*.partial*")) + [
            path for path in (place.folder / RUN).rglob("*.json") if not path.stat().st_size
        ]
        if results:
            return Verdict("other", attack_said, f"left half written: {results[0].name}")
        resize(place.folder, ROOM)
        again = place.run(*arguments)
        return again.fault(f"{attack_said}; then again with room", codes=(0,)) or (
            ended.refused(attack_said) or Verdict("survived", attack_said)
        )


def small_disk_reported(rng: random.Random, place: Place) -> Verdict:
    """Evaluates a run with a report, on a disk with little room left."""
    return small_disk_evaluated(rng, place, report=True)


def read_only(rng: random.Random, place: Place) -> Verdict:
    """Resumes and evaluates a read-only run, with results in the run or elsewhere."""
    experiment = rng.choice(EVALUATED)
    place.copy_of(experiment)
    evaluation = ["evaluate.py", RUN, *EVALUATING[experiment]]
    elsewhere = place.folder.parent / "elsewhere"
    how = rng.choice(["--resume", "evaluated", "reported", "new", "--output"])
    arguments = {
        "--resume": ["train.py", "--resume", RUN],
        "evaluated": evaluation,
        "reported": [*evaluation, "--report"],
        "new": ["train.py", "tiny.yaml", "--run-dir", "another"],
        "--output": [*evaluation, "--output", str(elsewhere)],
    }[how]
    with mounted(place.folder, None):
        attack_said = f"{experiment} on a read-only disk: {how}"
        ended = place.run(*arguments)
        if fault := ended.fault(attack_said, codes=(0,) if how == "--output" else (2,)):
            return fault
        if how == "--output" and not list(elsewhere.rglob("*.json")):
            return Verdict("accepted", attack_said, "ends as if all was well; nothing is stored")
        return ended.refused(attack_said) or Verdict("survived", attack_said)


def trapped_training(rng: random.Random, place: Place) -> Verdict:
    """Trains; from some file operation on, all writing fails or the folder is gone."""
    experiment = rng.choice(KILLED)
    operations = place.reference(experiment).operations
    do = rng.choice(["no space", "read-only", "remove"])
    at = rng.randint(1, len(operations))
    arguments = place.lay_out(experiment)
    ended = place.run(*arguments, trap=Trap(place.folder / RUN, at=at, do=do))
    attack_said = f"{experiment}, {do} from file operation {at} on"
    if fault := ended.fault(attack_said):
        return fault
    if ended.code == 0:
        return place.compare(experiment, attack_said)
    if do == "remove":
        shutil.rmtree(place.folder / RUN, ignore_errors=True)
    return place.finish(experiment, attack_said)


def trapped_evaluation(rng: random.Random, place: Place) -> Verdict:
    """Evaluates; from some file operation on, all writing fails or the folder is gone."""
    experiment = rng.choice(EVALUATED)
    place.copy_of(experiment)
    do = rng.choice(["no space", "read-only", "remove"])
    at = rng.randint(1, 14)
    arguments = ["evaluate.py", RUN, *EVALUATING[experiment]]
    ended = place.run(*arguments, trap=Trap(place.folder / RUN, at=at, do=do))
    attack_said = f"evaluation of {experiment}, {do} from file operation {at} on"
    if verdict := ended.fault(attack_said) or ended.refused(attack_said):
        return verdict
    if not list((place.folder / RUN).rglob("eval/*.json")):
        return Verdict("accepted", attack_said, "ends as if all was well, and nothing is stored")
    return Verdict("survived", attack_said)


def limited_files(rng: random.Random, place: Place) -> Verdict:
    """Trains with a limit on the size of files."""
    experiment = rng.choice(KILLED)
    size = rng.choice([100, 500, 1_000, 3_000, 10_000, 30_000])
    arguments = place.lay_out(experiment)
    ended = place.run(*arguments, file_size=size)
    attack_said = f"{experiment}, no file above {size:,} bytes"
    if fault := ended.fault(attack_said):
        return fault
    return place.finish(experiment, attack_said)


# -- mounts ---------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, size: int | None) -> Iterator[None]:
    """Mounts a disk of `size` bytes in place of a folder; with None, makes the folder read-only."""
    if size is None:
        _mount("--bind", str(folder), str(folder))
    else:
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        if size is None:
            _mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def resize(folder: Path, size: int) -> None:
    """Changes the size of a small disk (bytes)."""
    _mount("-o", f"remount,size={size}", str(folder))


def used(folder: Path) -> int:
    """Size of a folder on a disk of pages (bytes)."""
    return sum(-(-path.lstat().st_size // 4096) * 4096 for path in folder.rglob("*"))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
