"""Checkpoints: a folder of safetensors and JSON that is either whole or not there.

A checkpoint is written beside its target, flushed to disk and then renamed, so whenever the process
dies, what carries a checkpoint's name is complete. Nothing that is loaded can execute.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from metarl.errors import UserError
from metarl.optim import PREFIX

TENSORS = "tensors.safetensors"
META = "meta.json"
FORMAT = 1


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Writes a checkpoint; one that is already there is complete and stays as it is.

    Raises:
        OSError: the system does not let it be written, or the folder that it goes to is gone.
    """
    if folder.exists():
        return
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()},
                  partial / TENSORS)  # fmt: skip
        text = json.dumps({"format": FORMAT, **meta}, indent=1)
        (partial / META).write_text(text, encoding="utf-8")
        for path in (partial / TENSORS, partial / META, partial):
            _flush(path)
        partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk it only takes room
        if isinstance(error, SafetensorError):  # it says so where the system refuses
            raise OSError(f"{error}: {folder}") from None
        raise
    _flush(folder.parent)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and facts of a checkpoint.

    Raises:
        UserError: it is missing, truncated, damaged or of another format.
    """
    if not folder.is_dir():
        raise UserError(f"no checkpoint {folder}{_others(folder)}")
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"checkpoint {folder} is damaged ({error}); remove it and use another{_others(folder)}"
        ) from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"checkpoint {folder} is of another version, not of format {FORMAT}")
    return tensors, meta


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def check_fits(loaded: dict[str, Tensor], expected: dict[str, Tensor], *, source: Path) -> None:
    """Checks that loaded tensors belong to an agent that has the `expected` ones.

    Optimizer moments may be missing from `expected`: a new agent has none yet.

    Raises:
        UserError: naming the first tensor that does not fit.
    """
    for name, tensor in expected.items():
        if name not in loaded:
            raise UserError(
                f"checkpoint {source} is of another agent: it has no tensor {name}; "
                "give the config that it was trained with"
            )
        if loaded[name].shape != tensor.shape:
            raise UserError(
                f"checkpoint {source} does not fit: {name} is {_size(loaded[name])} there and "
                f"{_size(tensor)} here; the observations, actions or layer sizes differ"
            )
    unknown = [n for n in loaded if n not in expected and not n.startswith(PREFIX)]
    if unknown:
        raise UserError(f"checkpoint {source} is of another agent: it has a tensor {unknown[0]}")


def _size(tensor: Tensor) -> str:
    return "×".join(str(n) for n in tensor.shape) or "a number"


def _others(folder: Path) -> str:
    others = [path.name for path in checkpoints(folder.parent) if path != folder]
    return f"; there are {', '.join(others)}" if others else ""


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
