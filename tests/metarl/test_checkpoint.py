"""A checkpoint is whole or not there, and says plainly when it does not fit."""

import json
from pathlib import Path

import pytest
import torch

from metarl import checkpoint
from metarl.checkpoint import check_fits, checkpoints, load_checkpoint, save_checkpoint
from metarl.errors import UserError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7, dtype=torch.int64)}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "100", TENSORS, {"iteration": 3})
    tensors, meta = load_checkpoint(tmp_path / "100")
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert meta["iteration"] == 3


def test_the_newest_is_by_number(tmp_path: Path) -> None:
    for steps in (900, 1000, 0):
        save_checkpoint(tmp_path / str(steps), TENSORS, {})
    assert [path.name for path in checkpoints(tmp_path)] == ["0", "900", "1000"]


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.META])
@pytest.mark.parametrize("keep", [0, 20, -5])
def test_truncated_files_are_refused_by_name(tmp_path: Path, file: str, keep: int) -> None:
    save_checkpoint(tmp_path / "100", TENSORS, {"iteration": 3})
    save_checkpoint(tmp_path / "50", TENSORS, {})
    path = tmp_path / "100" / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"100 is damaged.*there are 50"):
        load_checkpoint(tmp_path / "100")


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "1", TENSORS, {})
    (tmp_path / "1" / checkpoint.META).write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="another version"):
        load_checkpoint(tmp_path / "1")


@pytest.mark.parametrize("flushes", [0, 1, 2])
def test_dying_at_any_flush_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushes: int
) -> None:
    calls = []

    def die(path: Path) -> None:
        calls.append(path)
        if len(calls) > flushes:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "_flush", die)
        save_checkpoint(tmp_path / "100", TENSORS, {})
    assert checkpoints(tmp_path) == []
    save_checkpoint(tmp_path / "100", TENSORS, {})
    load_checkpoint(tmp_path / "100")


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    wider = {**TENSORS, "a": torch.zeros(2, 4)}
    with pytest.raises(UserError, match="a is 2×3 there and 2×4 here"):
        check_fits(TENSORS, wider, source=tmp_path)
    with pytest.raises(UserError, match="another agent: it has no tensor c"):
        check_fits(TENSORS, {**TENSORS, "c": torch.zeros(1)}, source=tmp_path)
    with pytest.raises(UserError, match="another agent: it has a tensor b"):
        check_fits(TENSORS, {"a": TENSORS["a"]}, source=tmp_path)
    check_fits({**TENSORS, "optimizer.step.a": torch.zeros(())}, TENSORS, source=tmp_path)
