"""OpenGL back ends for drawing without a screen, each tested in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from metarl.errors import UserError
from metarl.system.started import typed

BACKENDS = ("egl", "osmesa", "glfw") if sys.platform == "linux" else ("glfw",)
"""Back ends in the order of testing: GPU or driver, software, display."""
ADVICE = typed("`python -m metarl.doctor` says more")
SWITCHED_OFF = ("disable", "disabled", "off", "false", "0")
"""Values of MUJOCO_GL that forbid OpenGL."""


@dataclass(frozen=True)
class Probe:
    """Result of testing a back end on this machine."""

    works: bool
    reason: str
    """Reason of a failure, with the Debian packages to install if known; '' if it works."""


def find_backend(*, patience: float = 60.0) -> str:
    """The back end to draw with: the one that MUJOCO_GL names, else the first of `BACKENDS` that
    works.

    Args:
        patience: time limit for testing each back end (s).

    Raises:
        UserError: no back end works, or MUJOCO_GL forbids rendering.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in SWITCHED_OFF:
        raise UserError(f"MUJOCO_GL={wanted} switches rendering off; unset it to draw")
    # Other values that MuJoCo knows, such as "glx" and "on", mean its default.
    candidates = (wanted,) if wanted in BACKENDS else (BACKENDS if not wanted else ("glfw",))
    reasons = []
    for backend in candidates:
        found = probe(backend, patience)
        if found.works:
            return backend
        reasons.append(f"{backend}: {found.reason}")
    asked = f"MUJOCO_GL={wanted} does not work here" if wanted else "nothing here can draw"
    raise UserError(
        f"{asked} ({'; '.join(reasons)}). On Debian, `apt-get install libosmesa6` is enough to "
        f"draw without GPU and display; {ADVICE}"
    )


@cache
def probe(backend: str, patience: float) -> Probe:
    """Tests a back end on a small scene, in a process that may crash or hang.

    Args:
        patience: time limit (s).
    """
    try:
        tried = subprocess.run(
            command("metarl.visual.rendering.attempt", backend), env=environment(backend),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=patience,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Probe(works=False, reason=f"does not answer in {patience:g} s")
    if tried.returncode == 0:
        return Probe(works=True, reason="")
    if tried.returncode < 0:
        return Probe(works=False, reason=f"crashes with {signal_name(-tried.returncode)}")
    return Probe(works=False, reason=last_line(tried.stdout) or last_line(tried.stderr))


def command(module: str, *arguments: str) -> list[str]:
    """Command that runs a module of this package, unaffected by files in the current folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(backend: str) -> dict[str, str]:
    """Environment variables of a process that draws with this back end."""
    # Importing mujoco in this process may have set PYOPENGL_PLATFORM.
    kept = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "MUJOCO_GL": backend, "PYTHONPATH": path}


def last_line(text: str) -> str:
    """Last line of a program's output; of a traceback, the exception."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def signal_name(number: int) -> str:
    """Name of a signal, such as SIGSEGV."""
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
