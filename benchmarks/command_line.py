"""Command lines of benchmarks: a mistake is one line, as everywhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from metarl.errors import UserError


def fail(message: str) -> NoReturn:
    """Refuses to go on.

    Raises:
        UserError: always.
    """
    raise UserError(message)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Parser of the benchmark that was called, which has this docstring; it fails in one line."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{Path(sys.argv[0]).stem}",
        description=(doc or "").partition("\n")[0],
    )
    made.error = fail
    return made
