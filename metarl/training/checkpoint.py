"""Checkpoints: a folder of safetensors and JSON that is either whole or not there.

A checkpoint is written beside its target, flushed to disk and then renamed, so a folder with a
checkpoint's name is complete whenever the process dies. Later damage is found by its checksums,
which `sha256sum --check SHA256SUMS` reads too. Nothing that is loaded can execute code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from metarl.errors import UserError, printable
from metarl.learning import optim, replay
from metarl.system.files import check_is_file, read_json, read_text
from metarl.system.finite import first_not_finite
from metarl.tasks import ContentHashes
from metarl.training.folder import META, checkpoints

TENSORS = "tensors.safetensors"
SUMS = "SHA256SUMS"
FORMAT = 2
"""Newest format; format 1, which had no checksums, is still read."""
FORMAT_KEY = "format"
"""Key of the format in the metadata of the tensors, so that removed checksums are noticed."""
GROWING = (optim.PREFIX, replay.PREFIX)
"""Prefixes of tensors that a new agent does not have yet."""
Count = Annotated[int, Field(ge=0, le=2**53)]


class Meta(BaseModel, frozen=True, extra="forbid"):
    """Progress of the run whose state a checkpoint holds."""

    format: Literal[1, 2] = FORMAT
    iteration: Count
    env_steps: Count | None = None
    tasks: Count | None = None
    """Tasks trained on; few-shot learning counts them in place of env steps."""
    skipped: Count = 0
    """Iterations that taught nothing."""
    published: bool = False
    """True if the checkpoint holds only what the agent acts and adapts with."""
    task_hashes: ContentHashes | None = None
    """Content hashes of the tasks trained on; format 1 has none."""
    replay: Literal[True] | None = None
    """True if the agent's replay is stored beside the checkpoints, and needed to go on."""

    @model_validator(mode="after")
    def _counts_one_thing(self) -> Meta:
        if (self.env_steps is None) == (self.tasks is None):
            raise ValueError("it should count env_steps or tasks")
        return self

    @property
    def trained_for(self) -> int:
        """Env steps, or tasks of few-shot learning; the checkpoint's folder is named after it."""
        count = self.tasks if self.env_steps is None else self.env_steps
        assert count is not None
        return count


class _Version(BaseModel):
    format: int


class Saved(NamedTuple):
    """A loaded checkpoint, with its tensors on the CPU."""

    tensors: dict[str, Tensor]
    meta: Meta


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], meta: Meta) -> None:
    """Writes a checkpoint; an existing one is complete and stays unchanged.

    Raises:
        OSError: the system refuses to write it, or the folder around it is gone.
    """
    if folder.is_dir():
        return
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()},
                  partial / TENSORS, metadata={FORMAT_KEY: str(FORMAT)})  # fmt: skip
        content = {**meta.model_dump(exclude_none=True), "format": FORMAT}
        (partial / META).write_text(json.dumps(content, indent=1), encoding="utf-8")
        (partial / SUMS).write_text(_checksums(partial), encoding="utf-8")
        for path in (partial / TENSORS, partial / META, partial / SUMS, partial):
            _flush(path)
        partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)  # it would only take room on a full disk
        if isinstance(error, SafetensorError):  # raised where the system refuses to write
            raise OSError(f"{error}: {folder}") from None
        raise
    _flush(folder.parent)


def load_checkpoint(folder: Path) -> Saved:
    """The content of a checkpoint.

    Raises:
        UserError: it is missing, damaged, renamed or of another format, or holds a tensor that is
            not finite.
    """
    meta = read_meta(folder)
    try:
        check_is_file(folder / TENSORS)
        with safe_open(folder / TENSORS, "pt") as file:
            version = (file.metadata() or {}).get(FORMAT_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # torch raises many kinds for a damaged header
        raise _damaged(folder, error) from None
    if version != (None if meta.format == 1 else str(meta.format)):
        raise _damaged(folder, f"{META} and {TENSORS} are of different formats")
    if name := first_not_finite(tensors):
        raise _damaged(folder, f"its tensor {printable(name, limit=200)} is not finite")
    return Saved(tensors, meta)


def read_meta(folder: Path) -> Meta:
    """Progress stored in a checkpoint; its files are compared with their checksums.

    Raises:
        UserError: it is missing, damaged, renamed or of another format.
    """
    if not os.path.lexists(folder):
        raise UserError(f"no checkpoint {folder}{_others(folder)}")
    try:
        if not folder.is_dir():
            raise UserError("it is no folder")
        version = read_json(folder / META, _Version).format
        if version not in (1, FORMAT):
            raise UserError(f"it is of another version: of format {version}, not of 1 or {FORMAT}")
        # A checkpoint that claims to be of format 1 but has checksums is compared too.
        if version > 1 or os.path.lexists(folder / SUMS):
            _compare_checksums(folder)
        meta = read_json(folder / META, Meta)
    except (OSError, UserError) as error:
        raise _damaged(folder, error) from None
    if str(meta.trained_for) != folder.name:
        raise UserError(
            f"checkpoint {folder} was renamed: it holds the state after {meta.trained_for}; give "
            "it that name again, or remove it"
        )
    return meta


def check_fits(loaded: dict[str, Tensor], expected: dict[str, Tensor], *, source: Path) -> None:
    """Checks that loaded tensors belong to an agent that has the `expected` ones.

    Optimizer moments and a replay may be missing from `expected`, as a new agent has none yet. They
    are compared with its parameters when they are loaded; see `metarl.learning.optim`.

    Raises:
        UserError: a tensor does not fit; names the first such tensor.
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
                f"{_size(tensor)} here; the observations, actions or layer sizes "
                "differ, or another version of this toolkit trained it"
            )
        if loaded[name].dtype != tensor.dtype:
            raise UserError(
                f"checkpoint {source} does not fit: {name} is of type {loaded[name].dtype} there "
                f"and {tensor.dtype} here"
            )
    unknown = [n for n in loaded if n not in expected and not n.startswith(GROWING)]
    if unknown:
        raise UserError(
            f"checkpoint {source} is of another agent: it has a tensor "
            f"{printable(unknown[0], limit=200)}"
        )


def _size(tensor: Tensor) -> str:
    return "×".join(str(n) for n in tensor.shape) or "a number"


def _others(folder: Path) -> str:
    others = [path.name for path in checkpoints(folder.parent) if path != folder]
    return f"; there are {', '.join(others)}" if others else ""


def _damaged(folder: Path, error: object) -> UserError:
    """The error for a checkpoint that cannot be used, with advice how to continue without it."""
    known = checkpoints(folder.parent)
    older = known[: known.index(folder)] if folder in known else []
    advice = (
        f"remove {folder} to go on from the next older one, {older[-1].name}"
        if older
        else "there is no older one; train the config anew"
    )
    return UserError(f"checkpoint {folder} is damaged ({printable(error)}); {advice}")


def _checksums(folder: Path) -> str:
    """The content of a checkpoint's `SHA256SUMS`."""
    lines = []
    for name in (TENSORS, META):
        check_is_file(folder / name)
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def _compare_checksums(folder: Path) -> None:
    if not all((folder / name).is_file() for name in (TENSORS, META, SUMS)):
        raise UserError(f"it has no {TENSORS}, {META} or {SUMS}")
    if read_text(folder / SUMS, limit=1000) != _checksums(folder):
        raise UserError(f"its files are not those that were saved, by their {SUMS}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
