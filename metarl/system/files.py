"""Reading files of any content with limits, writing files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from pydantic import TypeAdapter, ValidationError

from metarl.errors import UserError, printable

SIZE_LIMIT = 256 * 2**20
"""Bytes of a text file; none that this toolkit writes comes near."""


def check_is_file(path: Path) -> None:
    """Checks that a path is that of a regular file: a pipe would be waited for, a device never end.

    Raises:
        OSError: there is nothing, or it cannot be looked at.
        UserError: it is something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"cannot read {path}: it is no file")


def read_text(path: Path, *, limit: int = SIZE_LIMIT) -> str:
    """The text in a file.

    Raises:
        FileNotFoundError: there is no such file.
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
    """The JSON in a file as a value of type `kind`, which is anything that pydantic can validate.

    Types are taken strictly: a number in quotes is no number. Nesting is limited by the parser.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be read, is no JSON, or holds something else; says where.
    """
    return parse_json(read_text(path, limit=limit), kind, source=str(path))


def parse_json(text: str, kind: Any, *, source: str) -> Any:
    """The same of JSON that was read already; `source` names it in messages.

    Raises:
        UserError: it is no JSON, or holds something else; says where.
    """
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"cannot read {source}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """Where pydantic found something wrong first, and what."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = printable(".".join(map(str, problem["loc"])))
    return f"{place}: {printable(problem['msg'])}" if place else printable(problem["msg"])


def check_can_write(folder: Path) -> None:
    """Checks, before anything that takes long, that files can be made in a folder, which need not
    be there yet; leaves nothing behind.

    Raises:
        UserError: they cannot; says why.
    """
    try:
        there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
        with TemporaryFile(dir=there, buffering=0) as file:
            file.write(bytes(2**16))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {printable(error.strerror)}") from None


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when all is written, and is gone
    when something fails."""
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Renames a damaged file, so that another takes its place and nothing is lost; returns where it
    is now."""
    kept = path.with_name(f"{path.name}.damaged")
    number = 1
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{path.name}.damaged-{number}")
    return path.rename(kept)
