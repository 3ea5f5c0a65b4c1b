"""What lies in a run's folder, read while it may be in training; imports no torch, which is slow.

`metarl.training.run` writes it, and says what each file holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from metarl.errors import UserError, printable
from metarl.system.files import read_text

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
META = "meta.json"
"""File of a checkpoint's progress."""
REPLAY = "replay"
LOCK = ".lock"


def is_in_training(folder: Path) -> bool:
    """True if a process trains the run.

    Raises:
        UserError: its lock cannot be looked at.
    """
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError) as error:
        raise UserError(f"cannot lock {folder}: {printable(error)}") from None


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a folder, oldest first; other names are ignored.

    Raises:
        UserError: the folder cannot be read.
    """
    if not os.path.lexists(folder):
        return []
    try:
        # isdecimal accepts digits of every script, and `007`; neither names a checkpoint.
        numbers = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
        named = [folder / str(number) for number in sorted(set(numbers))]
        return [path for path in named if os.path.lexists(path)]
    except OSError as error:
        raise UserError(f"cannot read {folder}: {printable(error)}") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, also of one that is being written; none if there is no log.

    Raises:
        UserError: it cannot be read.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        return []
    lines: list[Any] = []
    for line in text.split("\n")[:-1]:  # what follows the last newline is being written
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            continue  # the run itself tells of damaged lines when it is resumed
    return [line for line in lines if isinstance(line, dict) and steps_of(line)]


def steps_of(line: Mapping[str, object]) -> int:
    """Env steps or tasks after a line; 0 if it does not say."""
    count = line.get("env_steps", line.get("tasks"))
    return count if isinstance(count, int) and 0 < count <= 2**53 else 0
