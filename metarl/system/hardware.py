"""Processors, devices, and the extra packages that rollouts on a GPU need.

Nothing here imports those packages, so that the rest of the toolkit works without them.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from metarl.errors import UserError
from metarl.system import ranks

INSTALL = "pip install --no-deps -r requirements-gpu.txt"
NEEDED = ("mujoco-warp", "warp-lang")
NEEDED_ON_CUDA = ("numba-cuda",)


def missing_packages(device: torch.device) -> list[str]:
    """The packages that the `warp` engine needs on a device and that are not installed."""
    wanted = NEEDED + (NEEDED_ON_CUDA if device.type == "cuda" else ())
    return [name for name in wanted if not _is_installed(name)]


def check_installed(device: torch.device) -> None:
    """Checks that the packages of the `warp` engine are installed.

    Raises:
        UserError: a package is missing; says how to install it.
    """
    if missing := missing_packages(device):
        raise UserError(
            f"engine 'warp' needs {' and '.join(missing)}; in an environment of its own: {INSTALL}"
        )


def default_device() -> torch.device:
    """The current GPU, or the CPU if torch finds no GPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def processors() -> list[int]:
    """Numbers of the processors that this process may use; where the system does not tell, of
    all."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def num_processors() -> int:
    """Number of processors that this process may use; where the system does not tell, of all. The
    ranks on a machine share its processors."""
    return max(1, len(processors()) // ranks.on_this_machine())


@cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """True if products in bfloat16 are faster than in float32: on GPUs since Ampere, and on
    processors with instructions for them (AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
