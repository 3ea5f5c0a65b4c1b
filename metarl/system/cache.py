"""A folder for everything that can be made again: safe to delete, and to share between processes.

It is `METARL_CACHE`, or `metarl` in the user's cache folder; who has no home has one in the folder
for temporary files.
"""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np


def cache_folder() -> Path:
    """The folder; it may not exist yet."""
    chosen = os.environ.get("METARL_CACHE")
    if chosen:
        return Path(chosen)
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if caches.is_absolute():  # relative ones are void, says the standard
        return caches / "metarl"
    return Path.home() / ".cache" / "metarl" if has_home() else _temporary_folder()


def has_home() -> bool:
    """Whether the user has a home folder: not one without an entry, as in containers."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def _temporary_folder() -> Path:
    """A folder that is this user's alone, as compiled code is loaded from it; it may be one where
    nothing can be written."""
    nowhere = Path(os.devnull) / "metarl"
    try:
        folder = Path(tempfile.gettempdir()) / f"metarl-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except (OSError, AttributeError):  # Windows has no such number
        return nowhere
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if own and not found.st_mode & 0o022 else nowhere


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Arrays that were kept, or None where there are none, or damaged ones: it is only a cache."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # whatever a damaged file makes zipfile and NumPy raise
        return None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Replaces the file at once: other processes see the old one or the new one whole.

    A cache that cannot be written stops nobody.
    """
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, allow_pickle=False, **arrays)
            except OSError:  # a full disk
                os.unlink(file.name)
                return
        os.replace(file.name, path)
