"""Trusted code: modules that this user has trained with, or allows by name.

A run names the modules of its tasks and its algorithm if they are a user's own, and playing the run
executes them. A user who trains with a module has chosen it; the modules of somebody else's run
were not chosen. Paths (or names) of modules are remembered, not their content, so that users can
edit their own modules.
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
"""File in the user's cache folder; after its deletion, trust has to be given again."""


def trust(code: str | None) -> None:
    """Remembers that code may be executed; does nothing without code or without a cache folder.

    Args:
        code: full path of a file, or name of a module.
    """
    if code is None or code in (known := _trusted()):
        return
    with suppress(OSError, RuntimeError):  # without a home folder the user is asked each time
        path = cache_folder() / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            there = [name for name in known if not name.endswith(".py") or Path(name).is_file()]
            partial.write_text(json.dumps(sorted([*there, code]), indent=1), encoding="utf-8")


def check_trusted(code: str | None, run: Path, *, allowed: bool, option: str = "--trust") -> None:
    """Checks that the code that a run names may be executed.

    Args:
        code: as for `trust`; None if the run executes none.
        run: folder of the run.
        allowed: whether the user allowed it by this option; the permission is remembered.
        option: how the user allows it.

    Raises:
        UserError: the user has not allowed it; names the code.
    """
    if allowed:
        trust(code)
    elif code is not None and code not in _trusted():
        raise UserError(
            f"{run} would execute {code}, which was not trained with here; read it, and if you "
            f"trust it add {option}, once"
        )


def code_of(config: Config) -> str | None:
    """The code that a section of an experiment declares to execute; None if there is none."""
    code = getattr(config, "code", None)
    return code if isinstance(code, str) else None


def _trusted() -> list[str]:
    try:
        return read_json(cache_folder() / FILE, list[str])
    except (OSError, RuntimeError, UserError):
        return []
