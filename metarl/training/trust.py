"""Whose code is executed: modules of tasks that this user has trained with, or allows by name.

A run names the module of its tasks, and whatever plays the run executes it. Whoever trains with a
module has chosen it; the run of somebody else has not been chosen so. What is remembered are paths
(or names) of modules, not their content: an own module may be edited.
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


def trust(env: Config) -> None:
    """Remembers that the code of these tasks may be executed; nothing where there is none, or
    where nothing can be remembered."""
    module = _module(env)
    if module is None or module in (known := _trusted()):
        return
    with suppress(OSError, RuntimeError):  # without a home it is asked for each time
        path = cache_folder() / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            there = [name for name in known if not name.endswith(".py") or Path(name).is_file()]
            partial.write_text(json.dumps(sorted([*there, module]), indent=1), encoding="utf-8")


def check_trusted(env: Config, run: Path, *, allowed: bool, option: str = "--trust") -> None:
    """Checks that the code that a run names may be executed, before it is.

    Args:
        allowed: by the user, by this option; it is remembered.

    Raises:
        UserError: nobody has allowed it; names the code.
    """
    module = _module(env)
    if allowed:
        trust(env)
    elif module is not None and module not in _trusted():
        raise UserError(
            f"{run} would execute {module}, which was not trained with here; read it, and if you "
            f"trust it add {option}, once"
        )


def _module(env: Config) -> str | None:
    """The code that a config of tasks says it executes; None where it has none to say."""
    return getattr(env, "code", None)


def _trusted() -> list[str]:
    try:
        return read_json(cache_folder() / FILE, list[str])
    except (OSError, RuntimeError, UserError):
        return []
