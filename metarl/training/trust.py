"""Whose code is executed: modules that this user has trained with, or allows by name.

A run names the modules of its tasks and its algorithm where they are a user's own, and whatever
plays the run executes them. Whoever trains with a module has chosen it; the run of somebody else
has not been chosen so. What is remembered are paths (or names) of modules, not their content: an
own module may be edited.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from metarl.config import Config
from metarl.errors import UserError
from metarl.system.cache import cache_folder
from metarl.system.files import read_json, written_whole

FILE = "trusted_modules.json"
"""In the cache folder of the user: who deletes it is asked once more."""


def trust(code: str | None) -> None:
    """Remembers that code may be executed; nothing where there is none, or where nothing can be
    remembered.

    Args:
        code: whole path of a file, or name of a module.
    """
    if code is None or code in (known := _trusted()):
        return
    with suppress(OSError, RuntimeError):  # without a home it is asked for each time
        path = cache_folder() / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            there = [name for name in known if not name.endswith(".py") or Path(name).is_file()]
            partial.write_text(json.dumps(sorted([*there, code]), indent=1), encoding="utf-8")


def check_trusted(code: str | None, run: Path, *, allowed: bool, option: str = "--trust") -> None:
    """Checks that the code that a run names may be executed, before it is.

    Args:
        code: as for `trust`; None where the run executes none.
        run: folder of the run.
        allowed: whether the user allowed it, by this option; it is remembered.
        option: how the user allows it.

    Raises:
        UserError: nobody has allowed it; names the code.
    """
    if allowed:
        trust(code)
    elif code is not None and code not in _trusted():
        raise UserError(
            f"{run} would execute {code}, which was not trained with here; read it, and if you "
            f"trust it add {option}, once"
        )


def code_of(config: Config) -> str | None:
    """The code that a section of an experiment says it executes; None where it executes none."""
    return getattr(config, "code", None)


def _trusted() -> list[str]:
    try:
        return read_json(cache_folder() / FILE, list[str])
    except (OSError, RuntimeError, UserError):
        return []
