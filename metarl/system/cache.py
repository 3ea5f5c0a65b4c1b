"""The cache folder: everything in it can be recreated, and processes may share it.

It is `METARL_CACHE`, or else `metarl` in the user's cache folder; for a user without a home folder
it is a folder among the temporary files.
"""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np


def cache_folder() -> Path:
    """The cache folder, which may not exist yet."""
    chosen = os.environ.get("METARL_CACHE")
    if chosen:
        return Path(chosen)
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if caches.is_absolute():  # the XDG standard declares relative paths invalid
        return caches / "metarl"
    return Path.home() / ".cache" / "metarl" if has_home() else _temporary_folder()


def has_home() -> bool:
    """True if the user has a home folder; in containers a user may have none."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def _temporary_folder() -> Path:
    """A folder that only this user can write to, because compiled code is loaded from it; if there
    is none, a path that nobody can write to."""
    nowhere = Path(os.devnull) / "metarl"
    try:
        folder = Path(tempfile.gettempdir()) / f"metarl-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except (OSError, AttributeError):  # Windows has no user numbers
        return nowhere
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if own and not found.st_mode & 0o022 else nowhere


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The cached arrays; None if the file is missing or damaged, because it is only a cache."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # whatever a damaged file makes zipfile and NumPy raise
        return None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Replaces the file atomically: other processes see the whole old file or the whole new one.

    A cache that cannot be written is no error.
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
