"""The cache is in the user's cache folder; without such a folder there is no cache."""

import os
from pathlib import Path

import numpy as np
import pytest

from metarl.system.cache import cache_folder, read_arrays, write_arrays


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without HOME and without a passwd entry, as in containers; the temporary folder."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "METARL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_it_is_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("METARL_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # invalid by the standard
    assert cache_folder() == tmp_path / ".cache" / "metarl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "metarl"
    monkeypatch.setenv("METARL_CACHE", "here")
    assert cache_folder() == Path("here")


def test_without_a_home_it_is_a_private_temporary_folder(no_home: Path) -> None:
    folder = cache_folder()
    assert folder.parent == no_home and folder.stat().st_mode & 0o777 == 0o700
    write_arrays(folder / "a.npz", {"x": np.arange(3)})
    assert read_arrays(folder / "a.npz")["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("planted", ["open", "link", "file", "no folder"])
def test_nothing_is_read_from_where_others_can_write(no_home: Path, planted: str) -> None:
    """Compiled code would be executed."""
    place = no_home / f"metarl-{os.getuid()}"
    if planted == "open":
        place.mkdir()
        place.chmod(0o777)
    elif planted == "link":
        (no_home / "theirs").mkdir()
        place.symlink_to(no_home / "theirs")
    elif planted == "file":
        place.write_text("")
    else:
        no_home.rmdir()
    folder = cache_folder()
    assert no_home not in folder.parents
    write_arrays(folder / "a.npz", {"x": np.arange(3)})
    assert read_arrays(folder / "a.npz") is None
