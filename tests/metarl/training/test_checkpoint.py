"""A checkpoint is complete or missing, and one that does not fit gives a clear error."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metarl.errors import UserError
from metarl.training import checkpoint
from metarl.training.checkpoint import (
    META,
    Meta,
    check_fits,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7, dtype=torch.int64)}


def save(parent: Path, env_steps: int = 100) -> Path:
    folder = parent / str(env_steps)
    save_checkpoint(folder, TENSORS, Meta(iteration=3, env_steps=env_steps))
    return folder


def save_as_before(folder: Path, tensors: dict[str, torch.Tensor], **facts: int | bool) -> None:
    """Saves a checkpoint in format 1."""
    folder.mkdir()
    save_file(tensors, folder / checkpoint.TENSORS)
    (folder / META).write_text(json.dumps({"format": 1, "iteration": 3, **facts}))


def test_what_was_saved_is_loaded_and_other_programs_can_check_it(tmp_path: Path) -> None:
    folder = save(tmp_path)
    tensors, meta = load_checkpoint(folder)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert meta == Meta(iteration=3, env_steps=100)
    subprocess.run(["sha256sum", "--check", "--strict", checkpoint.SUMS], cwd=folder, check=True)


def test_the_newest_is_by_number_and_other_names_are_none(tmp_path: Path) -> None:
    for steps in (900, 1000, 0):
        save(tmp_path, steps)
    for name in ("²", "٣", "01000", "-1", "1e4", ".partial-2000", "9" * 200 + "x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["0", "900", "1000"]


def test_what_is_no_folder_is_named_and_not_passed_over(tmp_path: Path) -> None:
    """Otherwise a run would continue from an older one, and could never save under this name."""
    save(tmp_path, 100)
    (tmp_path / "200").write_text("")
    (tmp_path / "300").symlink_to(tmp_path / "300")
    assert [path.name for path in checkpoints(tmp_path)] == ["100", "200", "300"]
    for number, older in ((200, 100), (300, 200)):
        with pytest.raises(
            UserError, match=f"no folder.*to go on from the next older one, {older}"
        ):
            load_checkpoint(tmp_path / str(number))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "100").symlink_to(tmp_path / "100")
    assert load_checkpoint(tmp_path / "linked" / "100").meta.env_steps == 100


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.META, checkpoint.SUMS])
@pytest.mark.parametrize("keep", [None, 0, 20, -5])
def test_truncated_files_are_refused_by_name(tmp_path: Path, file: str, keep: int | None) -> None:
    save(tmp_path, 50)
    path = save(tmp_path) / file
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"100 is damaged.*remove .*100 to go on .* older one, 50"):
        load_checkpoint(tmp_path / "100")


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.META, checkpoint.SUMS])
def test_no_flipped_bit_goes_unseen(tmp_path: Path, file: str) -> None:
    """All bits of bytes at random positions."""
    path = save(tmp_path) / file
    whole = path.read_bytes()
    rng = random.Random(0)
    for place in rng.sample(range(len(whole)), 40):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            with pytest.raises(UserError, match="is damaged"):
                load_checkpoint(tmp_path / "100")
    path.write_bytes(whole)
    load_checkpoint(tmp_path / "100")


def test_the_counters_inside_decide_and_not_the_name(tmp_path: Path) -> None:
    save(tmp_path, 100).rename(tmp_path / "700")
    with pytest.raises(UserError, match="700 was renamed: it holds the state after 100"):
        load_checkpoint(tmp_path / "700")


def test_files_of_two_checkpoints_are_not_mixed(tmp_path: Path) -> None:
    first, second = save(tmp_path, 100), save(tmp_path, 200)
    shutil.copy(first / META, second / META)
    with pytest.raises(UserError, match="not those that were saved"):
        load_checkpoint(second)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    tensors = {**TENSORS, "optimizer.exp_avg.a": torch.tensor([0.0, value])}
    save_as_before(tmp_path / "100", tensors, env_steps=100)
    with pytest.raises(UserError, match=r"its tensor optimizer.exp_avg.a is not finite"):
        load_checkpoint(tmp_path / "100")


def test_what_was_saved_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    save_as_before(tmp_path / "100", TENSORS, env_steps=100, skipped=1, published=True)
    tensors, meta = load_checkpoint(tmp_path / "100")
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert (meta.format, meta.skipped, meta.published) == (1, 1, True)


def test_checksums_that_were_taken_away_are_missed(tmp_path: Path) -> None:
    folder = save(tmp_path)
    path = folder / META
    (folder / checkpoint.SUMS).unlink()
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(folder)
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(UserError, match="of different formats"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": 99}, "another version: of format 99"),
        ({"format": "1"}, "format: Input should be a valid integer"),
        ({"format": 1, "iteration": 1}, "env_steps or tasks"),
        ({"format": 1, "iteration": -1, "env_steps": 100}, "iteration: Input should be greater"),
        ({"format": 1, "iteration": 10**40, "env_steps": 100}, "iteration: Input should be less"),
        ({"format": 1, "iteration": 1.5, "env_steps": 100}, "iteration: Input should be a valid"),
        ({"format": 1, "iteration": 1, "env_stepz": 100}, "env_stepz: Extra inputs"),
        ([], "Input should be"),
    ],
)
def test_facts_that_make_no_sense_are_refused(tmp_path: Path, facts: object, message: str) -> None:
    save_as_before(tmp_path / "100", TENSORS)
    (tmp_path / "100" / META).write_text(json.dumps(facts))
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "100")


@pytest.mark.parametrize("flushes", [0, 1, 2, 3])
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
        save(tmp_path)
    assert checkpoints(tmp_path) == []
    save(tmp_path)
    load_checkpoint(tmp_path / "100")


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    wider = {**TENSORS, "a": torch.zeros(2, 4)}
    with pytest.raises(UserError, match="a is 2×3 there and 2×4 here"):
        check_fits(TENSORS, wider, source=tmp_path)
    with pytest.raises(UserError, match="another agent: it has no tensor c"):
        check_fits(TENSORS, {**TENSORS, "c": torch.zeros(1)}, source=tmp_path)
    with pytest.raises(UserError, match="another agent: it has a tensor b"):
        check_fits(TENSORS, {"a": TENSORS["a"]}, source=tmp_path)
    with pytest.raises(UserError, match=r"b is of type torch\.int64 there and torch\.float32 here"):
        check_fits(TENSORS, {**TENSORS, "b": torch.tensor(7.0)}, source=tmp_path)
    check_fits({**TENSORS, "optimizer.step.a": torch.zeros(())}, TENSORS, source=tmp_path)
