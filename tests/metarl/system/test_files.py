"""Reading files of any content gives at most a one-line error; files are written whole."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from metarl.errors import UserError, printable
from metarl.system.files import read_json, read_text, set_aside, written_whole


@dataclass
class Counters:
    iteration: int


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"iteration": "3"}', "iteration: Input should be a valid integer"),
        (b'{"iteration": 3', "EOF"),
        (b"[]", "Input should be"),
        (b"[" * 100_000, "recursion limit"),
        (b"\xff", "utf-8"),
        (b"", "EOF"),
    ],
)
def test_damaged_json_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "meta.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_json(path, Counters)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_whole_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_text('{"iteration": 3}', encoding="utf-8")
    assert read_json(path, Counters) == Counters(3)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", Counters)


def test_files_have_a_largest_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_text(tmp_path / "a", limit=5) == "12345"
    with pytest.raises(UserError, match="larger than 4 bytes"):
        read_text(tmp_path / "a", limit=4)
    with pytest.raises(UserError, match="cannot read"):
        read_text(tmp_path)


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), written_whole(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_foreign_text_is_printable() -> None:
    assert printable("a\n  b\x1b[31m\u202e \ud800") == r"a b\x1b[31m\u202e \ud800"
    assert printable("x" * 5_000_000, limit=10) == "xxxxxxxxxx …"
    assert printable("RL² → 3 °C") == "RL² → 3 °C"


def test_damaged_files_are_set_aside_one_beside_another(tmp_path: Path) -> None:
    path = tmp_path / "env.json"
    for name in ("env.json.damaged", "env.json.damaged-2"):
        path.write_text(name, encoding="utf-8")
        assert set_aside(path) == tmp_path / name
    assert [each.read_text() for each in sorted(tmp_path.iterdir())] == [
        "env.json.damaged", "env.json.damaged-2"
    ]  # fmt: skip


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "meta.json")
    with pytest.raises(UserError, match="is not a regular file"):
        read_json(tmp_path / "meta.json", Counters)
