"""Where a run comes from: versions, machine and command of each start, and what changed since.

A run's env.json is the list of its starts. A run ends with the same bits however often it was
stopped only where all starts were alike; what is not alike is said.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from metarl.errors import UserError, note, printable
from metarl.system.files import read_json, set_aside, written_whole
from metarl.tasks import ContentHashes

STARTS = "env.json"
PACKAGES = ("torch", "numpy", "gymnasium", "metaworld", "mujoco")
COMPARED = ("threads", "python", "cpu", "gpu", "git")
"""What decides about the last bits, beside versions of packages."""


def environment() -> dict[str, Any]:
    """Versions, machine and command: what a result must be read with."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "git": _git_revision(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_name() -> str:
    """The processor's name, as well as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip()


def append_start(folder: Path) -> None:
    """Notes this start of a run in env.json; says what was otherwise at the last one. A file that
    cannot be read is kept beside the new one."""
    path = folder / STARTS
    starts: list[dict[str, Any]] = []
    try:
        starts = read_json(path, list[dict[str, Any]])
    except FileNotFoundError:
        pass
    except UserError as error:
        kept = set_aside(path)
        note(f"{error}; kept as {kept.name}. Whether this machine and its versions are those that "
             f"{folder} was trained with cannot be told")  # fmt: skip
    now = environment()
    if starts and (changed := differences(starts[-1], now)):
        note(f"{folder} was last trained with {', '.join(changed)}: it goes on, but its numbers "
             "can differ from those of a run that was never stopped, first in their last bits"
             f"{_same_threads(starts[-1], now)}")  # fmt: skip
    with written_whole(path) as partial:
        partial.write_text(json.dumps([*starts, now], indent=1), encoding="utf-8")


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two starts and decides about the last bits, in words; what was not
    written down before is left out."""
    versions = before.get("versions")
    then = {**before, **(versions if isinstance(versions, dict) else {})}
    today = {**now, **now["versions"]}
    return [
        f"{name} {printable(then[name], limit=80)} (now {today[name]})"
        for name in (*COMPARED, *now["versions"])
        if name in then and then[name] != today[name]
    ]


def _same_threads(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How to get as many threads as before, where they differ."""
    threads = before.get("threads")
    if not isinstance(threads, int) or threads == now["threads"]:
        return ""
    return f". Stop it and set OMP_NUM_THREADS={threads} for as many threads as before"


def check_same_content(
    before: ContentHashes | None, now: ContentHashes | None, *, folder: Path
) -> None:
    """Checks that a run goes on with the tasks that it was trained on; says where the code that
    plays them, or that learns, changed. What was not written down before is not compared.

    Raises:
        UserError: the tasks are others.
    """
    if before is None or now is None:
        return
    splits = {"training": before.train != now.train, "held-out": before.test != now.test}
    changed = [name for name, differs in splits.items() if differs]
    if changed:
        raise UserError(
            f"the {' and the '.join(changed)} tasks are not those that {folder} was trained with "
            f"(its config, module, images or goals changed); undo the change, or train on these "
            "tasks in a new run"
        )
    if before.agent != now.agent:
        note(f"the file of {folder}'s algorithm changed since it was last saved: it goes on with "
             "the new one")  # fmt: skip
    if before.module != now.module:
        note(f"the module of {folder}'s tasks changed since it was last saved; its tasks are the "
             "same, but if they play otherwise, its curve is one over both")  # fmt: skip
