"""Reading files of any content within limits, and writing files atomically."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from pydantic import TypeAdapter, ValidationError

from metarl.errors import UserError, printable

SIZE_LIMIT = 256 * 2**20
"""Maximum size of a text file in bytes; no file that this toolkit writes comes near."""


def check_is_file(path: Path) -> None:
    """Checks that a path is a regular file: reading a pipe may block, reading a device never ends.

    Raises:
        OSError: the path does not exist or is not accessible.
        UserError: the path is not a regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"cannot read {path}: it is not a regular file")


def read_text(path: Path, *, limit: int = SIZE_LIMIT) -> str:
    """The text in a file.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: it cannot be read, is no regular file, is larger than `limit` bytes, or is not
            UTF-8.
    """
    try:
        check_is_file(path)
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise UserError(f"cannot read {path}: it is larger than {limit:,} bytes")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {printable(error)}") from None


def read_json(path: Path, kind: Any, *, limit: int = SIZE_LIMIT) -> Any:
    """The JSON in a file as a value of type `kind`, which is any type that pydantic can validate.

    Types are strict: a number in quotes is not a number. The parser limits the depth of nesting.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: it cannot be read, is not JSON, or does not fit `kind`; says where.
    """
    return parse_json(read_text(path, limit=limit), kind, source=str(path))


def parse_json(text: str, kind: Any, *, source: str) -> Any:
    """JSON text as a value of type `kind`, see `read_json`; `source` names it in messages.

    Raises:
        UserError: the text is not JSON, or does not fit `kind`; says where.
    """
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"cannot read {source}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """Place and message of the first error that pydantic found."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = printable(".".join(map(str, problem["loc"])))
    return f"{place}: {printable(problem['msg'])}" if place else printable(problem["msg"])


def check_can_write(folder: Path) -> None:
    """Checks, before long work starts, that files can be created in a folder.

    The folder need not exist yet. The check leaves nothing behind.

    Raises:
        UserError: files cannot be created; says why.
    """
    try:
        there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
        with TemporaryFile(dir=there, buffering=0) as file:
            file.write(bytes(2**16))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {printable(error.strerror)}") from None


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to: it replaces `path` at the end, and is deleted on
    failure."""
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Renames a damaged file, so that a new one can take its place and nothing is lost.

    Returns:
        The new path of the damaged file.
    """
    kept = path.with_name(f"{path.name}.damaged")
    number = 1
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{path.name}.damaged-{number}")
    return path.rename(kept)


def check_shape(nested: Any, shape: Sequence[int], *, name: str) -> None:
    """Checks the lengths of nested lists.

    Raises:
        ValueError: a list has another length.
    """
    if not shape:
        return
    if len(nested) != shape[0]:
        raise ValueError(f"{name} has {len(nested):,} rows in place of {shape[0]:,}")
    for row in nested:
        check_shape(row, shape[1:], name=name)
