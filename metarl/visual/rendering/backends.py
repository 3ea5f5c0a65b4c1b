"""What can draw without a screen: OpenGL back ends, each tried out in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from metarl.errors import UserError

BACKENDS = ("egl", "osmesa", "glfw") if sys.platform == "linux" else ("glfw",)
"""In the order in which they are tried: a GPU or a driver, software, a display."""
ADVICE = "`python -m metarl.doctor` says more"
SWITCHED_OFF = ("disable", "disabled", "off", "false", "0")
"""Words of MUJOCO_GL that forbid OpenGL."""


@dataclass(frozen=True)
class Probe:
    """Whether a back end draws here."""

    works: bool
    reason: str
    """Why not, and on Debian what to install, where that is known; '' where it works."""


def find_backend(*, patience: float = 60.0) -> str:
    """The first back end that draws: the one that MUJOCO_GL names, else any of `BACKENDS`.

    Args:
        patience: seconds that each may take.

    Raises:
        UserError: none does.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in SWITCHED_OFF:
        raise UserError(f"MUJOCO_GL={wanted} switches rendering off; unset it to draw")
    # The other words that MuJoCo knows, "glx" and "on" for instance, mean what it takes by itself.
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
    """Tries whether a back end draws a small scene, in a process that may crash or hang.

    Args:
        patience: seconds that it may take.
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
    """Runs a module of this package in a new process, whatever the current folder holds."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(backend: str) -> dict[str, str]:
    """Environment variables of a process that draws with this back end."""
    # PyOpenGL's platform is what an import of mujoco in this process may have left behind.
    kept = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "MUJOCO_GL": backend, "PYTHONPATH": path}


def last_line(text: str) -> str:
    """What a program said last: of a traceback, the exception."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def signal_name(number: int) -> str:
    """SIGSEGV and the like."""
    try:
        return signal.Signals(number).name
    except ValueError:  # those for real time have none
        return f"signal {number}"
