"""A folder for everything that can be made again: safe to delete, and to share between processes.

It is `METARL_CACHE`, or `metarl` in the user's cache folder.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np


def cache_folder() -> Path:
    """The folder; it may not exist yet."""
    chosen = os.environ.get("METARL_CACHE")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "metarl"


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
