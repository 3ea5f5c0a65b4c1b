"""Packages that rollouts on a GPU need besides the ordinary install: which are missing.

Nothing here imports them, so that the rest of the toolkit does without.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from metarl.errors import UserError

INSTALL = "pip install --no-deps -r requirements-gpu.txt"
NEEDED = ("mujoco-warp", "warp-lang")
NEEDED_ON_CUDA = ("numba-cuda",)


def missing_packages(device: torch.device) -> list[str]:
    """The packages that the engine lacks on a device."""
    wanted = NEEDED + (NEEDED_ON_CUDA if device.type == "cuda" else ())
    return [name for name in wanted if not _is_installed(name)]


def check_installed(device: torch.device) -> None:
    """Does nothing where the engine can run.

    Raises:
        UserError: a package is missing; says how to install it.
    """
    if missing := missing_packages(device):
        raise UserError(
            f"engine 'warp' needs {' and '.join(missing)}; in an environment of its own: {INSTALL}"
        )


def default_device() -> torch.device:
    """The current GPU, or the processor where torch finds none."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def num_processors() -> int:
    """How many this process may use, where the system tells; else how many there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
