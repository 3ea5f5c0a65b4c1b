"""How benchmarks are called: a mistake is one line, as everywhere."""

from __future__ import annotations

import argparse
from typing import NoReturn

from metarl.errors import UserError


def fail(message: str) -> NoReturn:
    """Refuses to go on.

    Raises:
        UserError: always.
    """
    raise UserError(message)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Of a script with this docstring, whose first line says what it is; it fails in one line."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.error = fail
    return made
