"""Provenance of a run: versions, machine and command of each start, and changes between starts.

A run's env.json lists its starts. However often it was stopped, a run ends with the same bits only
if all its starts were alike, so differences are reported.
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
from metarl.system.started import SCRIPTS
from metarl.tasks import ContentHashes

STARTS = "env.json"
PACKAGES = ("torch", "numpy", "gymnasium", "metaworld", "mujoco")
COMPARED = ("threads", "python", "cpu", "gpu", "git")
"""Properties, beside package versions, that can change the last bits of a result."""


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process, needed to interpret its results."""
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
    """The processor's name, as far as the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    if not (SCRIPTS / "pyproject.toml").is_file():
        return None  # installed: a repository around it is another one
    try:
        revision = subprocess.run(
            ["git", "-C", str(SCRIPTS), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip()


def append_start(folder: Path) -> None:
    """Adds this start of a run to env.json, and reports differences from the last start.

    An unreadable env.json is kept beside the new one.
    """
    path = folder / STARTS
    starts: list[dict[str, Any]] = []
    try:
        starts = read_json(path, list[dict[str, Any]])
    except FileNotFoundError:
        pass
    except UserError as error:
        kept = set_aside(path)
        note(f"{error}; kept as {kept.name}. Cannot tell whether machine and versions are those "
             f"that {folder} was trained with")  # fmt: skip
    now = environment()
    if starts and (changed := differences(starts[-1], now)):
        note(f"{folder} was last trained with {', '.join(changed)}: it goes on, but its numbers "
             "can differ from those of a run that was never stopped, first in their last bits"
             f"{_same_threads(starts[-1], now)}")  # fmt: skip
    with written_whole(path) as partial:
        partial.write_text(json.dumps([*starts, now], indent=1), encoding="utf-8")


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences between two starts that can change the last bits, in words.

    Properties that the earlier start did not record are left out.
    """
    versions = before.get("versions")
    then = {**before, **(versions if isinstance(versions, dict) else {})}
    today = {**now, **now["versions"]}
    return [
        f"{name} {printable(then[name], limit=80)} (now {today[name]})"
        for name in (*COMPARED, *now["versions"])
        if name in then and then[name] != today[name]
    ]


def _same_threads(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Advice how to get the earlier number of threads, if it differs; otherwise ""."""
    threads = before.get("threads")
    if not isinstance(threads, int) or threads == now["threads"]:
        return ""
    return f". Stop it and set OMP_NUM_THREADS={threads} for as many threads as before"


def check_same_content(
    before: ContentHashes | None, now: ContentHashes | None, *, folder: Path
) -> None:
    """Checks that a resumed run has the tasks that it was trained on.

    Reports changed code of the tasks or of the algorithm. Hashes that were not stored before are
    not compared.

    Raises:
        UserError: the tasks differ.
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
             "same, but if they play differently, its curve mixes both")  # fmt: skip
