"""Damaged checkpoints, run folders, stored results and recordings.

A run without its last checkpoint is damaged and then resumed or evaluated: it must be refused in
one line, or give the same bits. Half of the damage that JSON and safetensors can express is done to
checkpoints of the format without checksums, so that the code behind the checksums is tested too.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.campaign.experiments import (
    EVALUATING,
    NO_WORKERS,
    RECORDED,
    RUN,
    Place,
    Trained,
    checkpoint_names,
    metrics,
)
from benchmarks.campaign.verdict import Ended, Verdict

COUNT = 1_060
TENSORS, META = "tensors.safetensors", "meta.json"
OLD_META = ("iteration", "env_steps", "tasks", "skipped")
"""Fields of checkpoints of format 1, which had no checksums."""
THINGS = (
    "nothing", "a pipe", "a folder", "a file", "a link to itself", "a dangling link",
    "a link to /dev/zero",
)  # fmt: skip
"""Things that can take the place of a file or folder."""
BLOCK = 64
NAMES = ("²", "٣", "0400", " 400", "-1", "1e3", "9" * 30, "4_00", "x\ny", "\udcff", "１２")
"""Names of folders that are no checkpoints, although `str.isdigit` or `int` may accept them."""
VALUES = (
    None, True, -1, 0, 3, 2.5, 1e308, 10**30, "", "3", "NaN", [], [1], {}, {"a": 1}, "\x1b[31mred"
)  # fmt: skip
TEXTS = (
    b"", b"\0" * 100, b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe\xfa", b'{"format": 1}',
    b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"1" * 5_000, b"NaN",
    b'{"iteration": Infinity}', b"\xef\xbb\xbf{}",
)  # fmt: skip
"""Wrong contents of a JSON file."""


def attack(number: int, rng: random.Random, place: Place) -> Verdict:
    """Damages a run, then resumes it, evaluates it or reads its stored results."""
    kinds = (
        bytes_of_checkpoint, bytes_of_checkpoint, tensors_of_checkpoint, meta_of_checkpoint,
        places_of_checkpoints, evaluated_checkpoint, run_folder, stored_result, log_lines,
        bytes_of_checkpoint, bytes_of_checkpoint, tensors_of_checkpoint, meta_of_checkpoint,
        places_of_checkpoints, evaluated_checkpoint, run_folder, recording, log_lines, config,
    )  # fmt: skip
    return kinds[number % len(kinds)](rng, place)


# -- kinds of damage ------------------------------------------------------------------------------


def bytes_of_checkpoint(rng: random.Random, place: Place) -> Verdict:
    """Damages bits, blocks or ends of the newest checkpoint's files."""
    experiment, newest = interrupted(rng, place)
    file = newest / rng.choice([TENSORS, TENSORS, *sorted(path.name for path in newest.iterdir())])
    return resumed(place, experiment, f"{file.name}: {spoil(file, rng)}")


def evaluated_checkpoint(rng: random.Random, place: Place) -> Verdict:
    """Damages the checkpoint of a finished run, which is then evaluated."""
    experiment = rng.choice(NO_WORKERS)
    place.copy_of(experiment)
    arguments = ["evaluate.py", RUN, *EVALUATING[experiment]]
    newest = place.folder / RUN / "checkpoints" / checkpoint_names(place.folder / RUN)[-1]
    what = rng.choice(["bytes", "bytes", "tensors", "meta"])
    if what == "bytes":
        file = newest / rng.choice([TENSORS, META])
        done = f"{file.name}: {spoil(file, rng)}"
    else:
        done = change_tensors(newest, rng) if what == "tensors" else change_meta(newest, rng)
    return same_scores(place, experiment, arguments, f"{experiment} evaluated; {done}")


def tensors_of_checkpoint(rng: random.Random, place: Place) -> Verdict:
    """Replaces the tensors by valid files with other tensors."""
    experiment, newest = interrupted(rng, place)
    return resumed(place, experiment, change_tensors(newest, rng))


def meta_of_checkpoint(rng: random.Random, place: Place) -> Verdict:
    """Changes counters and facts of meta.json."""
    experiment, newest = interrupted(rng, place)
    return resumed(place, experiment, change_meta(newest, rng))


def places_of_checkpoints(rng: random.Random, place: Place) -> Verdict:
    """Moves or replaces files and folders of checkpoints."""
    experiment, newest = interrupted(rng, place)
    folder = newest.parent
    names = checkpoint_names(folder.parent)
    other = folder / rng.choice(names[:-1])
    far = folder / str(int(names[-1]) * 3)
    name = rng.choice(NAMES)

    def exchange(file: str) -> str:
        contents = [(checkpoint / file).read_bytes() for checkpoint in (other, newest)]
        for checkpoint, content in zip((newest, other), contents, strict=True):
            (checkpoint / file).write_bytes(content)
        return f"{file} of {newest.name} and {other.name} exchanged"

    def rename(source: Path, target: str) -> str:
        if (folder / target).exists():
            (folder / target).rename(folder / "kept")
            source.rename(folder / target)
            (folder / "kept").rename(source)
        else:
            source.rename(folder / target)
        return f"checkpoint {source.name} renamed to {target!r}"

    def replace_by(kind: str, path: Path) -> str:
        put_in_place(kind, path)
        return f"{kind} in place of {path.relative_to(folder)}"

    def add(path: Path, make: Callable[[Path], Any], what: str) -> str:
        make(path)
        return f"{what} {path.name!r} beside checkpoints"

    done = rng.choice(
        [
            lambda: exchange(TENSORS),
            lambda: exchange(META),
            lambda: rename(newest, other.name),
            lambda: rename(newest, far.name),
            lambda: rename(other, far.name),
            lambda: rename(newest, name),
            lambda: rename(other, name),
            lambda: replace_by(rng.choice(THINGS), newest / rng.choice([TENSORS, META])),
            lambda: replace_by(rng.choice(THINGS), newest),
            lambda: add(far, Path.mkdir, "empty folder"),
            lambda: add(far, Path.touch, "empty file"),
            lambda: add(far, lambda path: path.symlink_to("nowhere"), "dangling link"),
            lambda: add(far, lambda path: shutil.copytree(newest, path), "copy as"),
            lambda: add(folder / name, lambda path: shutil.copytree(newest, path), "copy as"),
            lambda: add(folder / name, Path.mkdir, "empty folder"),
            lambda: add(newest / "more.bin", Path.touch, "another file"),
            lambda: add(folder / f".partial-{far.name}", Path.mkdir, "half written"),
        ]
    )()
    verdict = resumed(place, experiment, done)
    if verdict.kind != "survived":
        return verdict
    # The newest checkpoint for `--resume` must be the newest for other commands too.
    shutil.rmtree(place.folder / RUN / "eval", ignore_errors=True)
    arguments = ["evaluate.py", RUN, *EVALUATING[experiment]]
    return same_scores(place, experiment, arguments, f"{verdict.attack}; resumed, then evaluated")


def run_folder(rng: random.Random, place: Place) -> Verdict:
    """Damages other files of the run: env.json, the lock, TensorBoard's events."""
    experiment, newest = interrupted(rng, place)
    run = newest.parents[1]
    events = sorted(path.name for path in run.glob("events.*"))[0]
    name = rng.choice(["env.json", "env.json", "env.json", ".lock", events, "metrics.jsonl"])
    file = run / name
    if name == "env.json" and rng.random() < 0.6:
        content, done = damaged_json(file.read_bytes(), rng)
        file.write_bytes(content)
    elif rng.random() < 0.5 and name != "metrics.jsonl":
        done = spoil(file, rng)
    else:
        kind = rng.choice(THINGS)
        put_in_place(kind, file)
        done = f"{kind} in its place"
    return resumed(place, experiment, f"{re.sub(r'[0-9.]{9,}.*', '', name)}: {done}", lines=True)


def log_lines(rng: random.Random, place: Place) -> Verdict:
    """Damages lines of metrics.jsonl; damaged lines may be lost, if that is reported."""
    experiment, newest = interrupted(rng, place)
    file = newest.parents[1] / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    chosen = rng.randrange(len(lines) - 2)
    how = rng.choice(["text", "value", "bytes", "twice", "cut", "order", "zeros"])
    if how == "text":
        lines[chosen] = rng.choice(TEXTS).replace(b"\n", b"") + b"\n"
    elif how == "value":
        line = json.loads(lines[chosen])
        key = rng.choice(["iteration", *line])
        # A line with another number would be valid.
        line[key] = rng.choice([v for v in VALUES if type(v) not in (int, float)])
        lines[chosen] = json.dumps(line).encode() + b"\n"
        how = f"{key} {str(line[key])[:20]!r}"
    elif how == "bytes":
        at = rng.randrange(len(lines[chosen]))
        lines[chosen] = lines[chosen][:at] + b"\xff\xfe" + lines[chosen][at:]
    elif how == "twice":
        lines.insert(chosen, lines[chosen])
    elif how == "cut":
        lines[chosen] = lines[chosen][: rng.randrange(1, len(lines[chosen]))]
    elif how == "order":
        lines[chosen], lines[chosen + 1] = lines[chosen + 1], lines[chosen]
    else:
        lines[chosen] = b"\0" * len(lines[chosen]) + b"\n"
    file.write_bytes(b"".join(lines))
    return resumed(place, experiment, f"metrics.jsonl, line {chosen + 1}: {how}", lines=True)


def config(rng: random.Random, place: Place) -> Verdict:
    """Changes lines of config.yaml to invalid ones."""
    experiment, newest = interrupted(rng, place)
    file = newest.parents[1] / "config.yaml"
    text = file.read_bytes()
    lines = text.splitlines(keepends=True)
    chosen = rng.randrange(len(lines))
    how = rng.choice(["cut", "twice", "text", "bytes", "zeros", "indent", "unknown", "gone"])
    if how == "cut":
        text = text[: rng.randrange(len(text) - 1)]
    elif how == "zeros":
        at = rng.randrange(len(text))
        text = text[:at] + b"\0" * min(BLOCK, len(text) - at) + text[at + BLOCK :]
    elif how == "bytes":
        at = rng.randrange(len(text))
        text = text[:at] + b"\xff" + text[at:]
    elif how == "gone":
        file.unlink()
    else:
        changed = {
            "twice": lines[chosen] * 2,
            "text": rng.choice([b"]\n", b"- a\n", b"a: b: c\n", b"!!python/object:os.system x\n"]),
            "indent": b"   " + lines[chosen],
            "unknown": lines[chosen] + b"unknown_key: 3\n",
        }[how]
        text = b"".join([*lines[:chosen], changed, *lines[chosen + 1 :]])
    if how != "gone":
        file.write_bytes(text)
    return resumed(place, experiment, f"config.yaml, line {chosen + 1}: {how}")


def stored_result(rng: random.Random, place: Place) -> Verdict:
    """Damages a stored evaluation, which is then read."""
    experiment = rng.choice(NO_WORKERS)
    arguments = ["evaluate.py", RUN, *EVALUATING[experiment]]
    read = [*arguments, "--stored"]
    reference = evaluated(place, experiment, arguments)
    expected = place.run(*read, cwd=reference)
    shutil.copytree(reference, place.folder, dirs_exist_ok=True)
    (file,) = (place.folder / RUN / "eval").glob("*.json")
    if rng.random() < 0.6:
        content, done = damaged_json(file.read_bytes(), rng)
        file.write_bytes(content)
    else:
        done = spoil(file, rng)
    return same_words(
        place.run(*read, patience=0.5), expected, f"stored evaluation of {experiment}: {done}"
    )


NOT_TOLD = "predates checksums: whether it is damaged cannot be told"
"""Note about checkpoints of format 1, in which a changed number cannot be detected."""


# -- how they end ---------------------------------------------------------------------------------


def interrupted(rng: random.Random, place: Place) -> tuple[str, Path]:
    """Copies a run without its last checkpoint here; returns its experiment and newest
    checkpoint."""
    experiment = rng.choice(NO_WORKERS)
    place.copy_of(experiment)
    run = place.folder / RUN
    names = checkpoint_names(run)
    shutil.rmtree(run / "checkpoints" / names[-1])
    return experiment, run / "checkpoints" / names[-2]


def resumed(place: Place, experiment: str, attack: str, *, lines: bool = False) -> Verdict:
    """Resumes the damaged run.

    Args:
        lines: lines of the log may be lost, if that is reported.
    """
    attack = f"{experiment}, {attack}"
    ended = place.run("train.py", "--resume", RUN, patience=0.5)
    expected = place.reference(experiment).trained
    if ended.hung and "Traceback" not in ended.err and ended.out.count("\n") > 4:
        return Verdict("accepted", attack, f"trains beyond its budget: {ended.out[-200:]}")
    if verdict := ended.fault(attack) or ended.refused(attack):
        return verdict
    try:
        difference = expected.tensors_differ(Trained.read(place.folder / RUN, at=expected.steps))
        difference = difference or lost_lines(
            place.folder / RUN, expected, allowed=lines, ended=ended
        )
    except (OSError, ValueError) as error:
        difference = str(error)
    if difference and NOT_TOLD not in ended.err:
        return Verdict("accepted", attack, f"resumed without a word: {difference}")
    return Verdict("survived", attack, ended.err.strip().partition("\n")[0])


def lost_lines(run: Path, expected: Trained, *, allowed: bool, ended: Ended) -> str:
    """Fault of the log: lines missing without a note, or no lines at all; otherwise ""."""
    found = metrics(run)
    missing = [line["iteration"] for line in expected.metrics if line not in found]
    if missing and not (allowed and ended.err.strip()):
        return f"iterations {missing} are missing in metrics.jsonl"
    return ""


def evaluated(place: Place, experiment: str, arguments: list[str]) -> Path:
    """Folder with the undisturbed run and its evaluation, made once."""
    folder = place.base / "references" / f"{experiment}-evaluated"
    if not folder.exists():
        shutil.copytree(place.reference(experiment).folder, folder)
        ended = place.run(*arguments, cwd=folder)
        if ended.code != 0:
            raise RuntimeError(f"{experiment} cannot be evaluated: {ended.err[-500:]}")
    return folder


def same_scores(place: Place, experiment: str, arguments: list[str], attack: str) -> Verdict:
    """Evaluates, and compares every score with those of the undisturbed run."""
    reference = evaluated(place, experiment, arguments)
    ended = place.run(*arguments, patience=0.5)
    if verdict := ended.fault(attack) or ended.refused(attack):
        return verdict
    scores = []
    for folder in (reference, place.folder):
        (file,) = (folder / RUN / "eval").glob("*.json")
        scores.append(json.loads(file.read_text(encoding="utf-8"))["per_task"])
    same = scores[0] == scores[1]
    return Verdict("survived" if same else "accepted", attack, "" if same else "other scores")


def recording(rng: random.Random, place: Place) -> Verdict:
    """Damages recorded episodes, which are then shown."""
    arguments = ["evaluate.py", RUN, *EVALUATING[RECORDED], "--replay"]
    reference = evaluated(place, RECORDED, arguments)
    expected = place.run(*arguments, "--stored", cwd=reference)
    shutil.copytree(reference, place.folder, dirs_exist_ok=True)
    (file,) = (place.folder / RUN / "eval").glob("*.npz")
    if rng.random() < 0.5:
        done = spoil(file, rng)
    else:
        with np.load(file) as stored:
            arrays = dict(stored)
        done = change_arrays(arrays, rng)
        np.savez(file, allow_pickle=True, **arrays)
    attack = f"recording: {done}"
    (page,) = (reference / RUN / "report").rglob("replay.html")
    again = place.folder / page.relative_to(reference)
    again.unlink()
    verdict = same_words(place.run(*arguments, "--stored", patience=0.5), expected, attack)
    if verdict.kind != "survived":
        return verdict
    if again.exists() and again.read_bytes() == page.read_bytes():
        return verdict
    return Verdict("accepted", attack, "shows something else")


def same_words(ended: Ended, expected: Ended, attack: str) -> Verdict:
    """Compares the output with that for the undamaged file."""
    if verdict := ended.fault(attack) or ended.refused(attack):
        return verdict
    if ended.out == expected.out:
        return Verdict("survived", attack)
    lines = zip(expected.out.splitlines(), ended.out.splitlines(), strict=False)
    changed = next((f"{a.strip()} → {b.strip()}" for a, b in lines if a != b), "fewer lines")
    return Verdict("accepted", attack, f"says something else: {changed}")


# -- damage ---------------------------------------------------------------------------------------


def put_in_place(kind: str, path: Path) -> None:
    """Replaces a file or a folder by one of `THINGS`."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    make: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a file": lambda: path.write_bytes(b"x"),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a dangling link": lambda: path.symlink_to("nowhere/at/all"),
        "a link to /dev/zero": lambda: path.symlink_to("/dev/zero"),
    }
    make[kind]()


def spoil(file: Path, rng: random.Random) -> str:
    """Damages a file regardless of its content; returns the damage in words."""
    content = bytearray(file.read_bytes())
    size = max(1, len(content))
    at = rng.randrange(size)
    how = rng.choice(["bit", "bit", "bit", "cut", "zeros", "more", "empty", "block twice", "byte"])
    if not content or how == "more":
        content += bytes(rng.randrange(256) for _ in range(rng.choice([1, 8, 1000])))
    elif how == "bit":
        content[at] ^= 1 << rng.randrange(8)
    elif how == "byte":
        content[at] = (content[at] + rng.randrange(1, 256)) % 256
    elif how == "cut":
        del content[at:]
    elif how == "zeros":
        if not any(content[at : at + BLOCK]):
            at = 0
        content[at : at + BLOCK] = bytes(len(content[at : at + BLOCK]))
    elif how == "empty":
        content.clear()
    else:
        content[at:at] = content[at : at + BLOCK]
    file.write_bytes(content)
    return f"{how} at {at} of {size}"


def change_tensors(checkpoint: Path, rng: random.Random) -> str:
    """Rewrites the tensors with one of them changed; returns the change in words."""
    tensors = load_file(checkpoint / TENSORS)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name].copy()
    floats = np.issubdtype(tensor.dtype, np.floating)
    how = rng.choice(["NaN", "infinity", "dtype", "shape", "name", "gone", "more", "empty", "huge"])
    if how in ("NaN", "infinity", "huge") and floats and tensor.size:
        value = {"NaN": np.nan, "infinity": np.inf, "huge": 1e300}[how]
        with np.errstate(over="ignore"):
            tensor.flat[rng.randrange(tensor.size)] = np.float64(value).astype(tensor.dtype)
        tensors[name] = tensor
    elif how == "dtype" or how in ("NaN", "infinity", "huge"):
        other = rng.choice([np.float64, np.float16, np.int64, np.int8, np.bool_])
        if tensor.dtype == other:
            other = np.uint8
        tensors[name] = tensor.astype(other)
        how = f"{tensor.dtype} as {np.dtype(other)}"
    elif how == "shape":
        tensors[name] = np.zeros(
            rng.choice([(), (0,), (1, *tensor.shape), (*tensor.shape, 2)]), tensor.dtype
        )
        how = f"shape {tensors[name].shape} in place of {tensor.shape}"
    elif how == "name":
        tensors[rng.choice(["", "optimizer.0.x", f"{name}.x", "\x1b[2J", "a" * 5000])] = (
            tensors.pop(name)
        )
    elif how == "gone":
        del tensors[name]
    elif how == "more":
        tensors[rng.choice(["extra", "optimizer.999.exp_avg", "optimizer/0", "²"])] = tensor
    else:
        tensors = {}
    save_file(tensors, checkpoint / TENSORS)
    aged = as_of_before(checkpoint) if rng.random() < 0.7 else ""
    return f"tensor {name}: {how}{aged}"


def change_arrays(arrays: dict[str, Any], rng: random.Random) -> str:
    """Changes one of the arrays of a recording; returns the change in words."""
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    how = rng.choice(["gone", "dtype", "shape", "NaN", "objects", "more", "value", "short"])
    if how == "gone":
        del arrays[name]
    elif how == "dtype":
        arrays[name] = array.astype("U9")
    elif how == "shape":
        arrays[name] = array[None]
    elif how == "NaN" and array.dtype.kind == "f":
        arrays[name] = array * np.nan
    elif how == "objects":
        arrays[name] = np.array([{"a": print}], object)
    elif how == "more":
        arrays[rng.choice(["9/task", "x", "../y"])] = array
        how = "another one like it"
    elif how == "short" and array.ndim:
        arrays[name] = array[:-1]
    else:
        values = ["\x1b[31m<script>", -1, 10**9] if array.ndim == 0 else [[], [[]], [-1]]
        arrays[name] = np.array(rng.choice(values))
        how = f"{str(arrays[name])[:20]!r}"
    return f"array {name}: {how}"


def change_meta(checkpoint: Path, rng: random.Random) -> str:
    """Rewrites meta.json with an invalid value; returns the change in words."""
    aged = as_of_before(checkpoint) if rng.random() < 0.5 else ""
    file = checkpoint / META
    meta = json.loads(file.read_bytes())
    unit = "tasks" if "tasks" in meta else "env_steps"
    how = rng.choice(["value", "value", "gone", "more", "text", "counter"])
    key = rng.choice(sorted(meta))
    if how == "text":
        text = rng.choice(TEXTS)
        file.write_bytes(text)
        return f"meta.json: {text[:20]!r}{aged}"
    if how == "gone":
        del meta[key]
        done = f"without {key}"
    elif how == "more":
        meta[rng.choice(["published", "more", "²"])] = rng.choice(VALUES)
        done = "with a key more"
    elif how == "counter":
        meta[unit] += rng.choice([-1, 1, -meta[unit], 10**6, -(10**9)])
        done = f"{unit} {meta[unit]}"
    else:
        value = rng.choice([value for value in VALUES if value != meta[key]])
        # Only a checksum can detect another number of skipped or finished iterations.
        if aged and key in ("skipped", "iteration") and type(value) is int and value >= 0:
            value = -1
        meta[key] = value
        done = f"{key} {str(value)[:20]!r}"
    file.write_text(json.dumps(meta), encoding="utf-8")
    return f"meta.json: {done}{aged}"


def as_of_before(checkpoint: Path) -> str:
    """Converts a checkpoint to format 1, without checksums; returns the change in words."""
    meta = json.loads((checkpoint / META).read_bytes())
    kept = {"format": 1} | {name: meta[name] for name in OLD_META if name in meta}
    (checkpoint / META).write_text(json.dumps(kept), encoding="utf-8")
    save_file(load_file(checkpoint / TENSORS), checkpoint / TENSORS)  # without metadata
    for path in checkpoint.iterdir():
        if path.name not in (TENSORS, META):
            path.unlink()
    return ", without checksum"


def damaged_json(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """JSON with one inner value changed, removed or added, and the change in words."""
    if rng.random() < 0.2:
        text = rng.choice(TEXTS)
        return text, f"{text[:20]!r} in its place"
    document = json.loads(content)
    here, path = document, ""
    while True:
        keys: list[Any] = sorted(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return b"{}", "{} in its place"
        key = rng.choice(keys)
        path += f".{key}"
        deeper = isinstance(here[key], dict | list) and here[key]
        if not deeper or rng.random() < 0.3:
            break
        here = here[key]
    how = rng.choice(["value", "value", "value", "gone", "more"])
    if how == "gone":
        del here[key]
        return json.dumps(document).encode(), f"{path} left out"
    if how == "more" and isinstance(here, list):
        here.append(here[key])
        return json.dumps(document).encode(), f"{path} twice"
    value = rng.choice([v for v in VALUES if v != here[key]])
    here[key] = value
    return json.dumps(document).encode(), f"{path}: {str(value)[:20]!r}"
