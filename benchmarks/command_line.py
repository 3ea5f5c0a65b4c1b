"""Command lines of benchmarks, with one-line errors as everywhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NoReturn

from metarl.errors import UserError, nearest


def fail(message: str) -> NoReturn:
    """Ends the program with a message.

    Raises:
        UserError: always.
    """
    raise UserError(message)


def check_known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Checks names that were given.

    Raises:
        UserError: one is not known; says which are.
    """
    for name in names:
        if name not in known:
            fail(f"no {what} {name!r}.{nearest(name, known)} Known: {', '.join(known)}")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Parser of a benchmark, described by the benchmark's docstring, with one-line errors."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{Path(sys.argv[0]).stem}",
        description=(doc or "").partition("\n")[0],
    )
    made.error = fail
    return made
