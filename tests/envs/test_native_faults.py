"""Faults around the native engine: interrupts, a damaged or shared cache."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numba import types

from envs.engine.batch import Snapshot
from envs.engine.compiled import compile_callback
from envs.metaworld import native, snapshots
from envs.metaworld.official import MetaWorldTask, make_official_env
from envs.metaworld.tasks import TASK_CLASSES
from metarl.system.cache import read_arrays
from tests.envs.parity import official_tasks

ROOT = Path(__file__).parents[2]
NAME = "reach-v3"


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    try:
        _, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0, errors


# Interrupts come every few milliseconds, each after the last one was handled. `elapsed` counts
# the steps taken, so that play continues at the right step.
INTERRUPTED = """
import os, signal, threading, time
import numpy as np
from envs.metaworld.native import NativeEnv
from tests.envs.parity import native_simulation, official_tasks, physics

STEPS, NAMES = 400, ["reach-v3", "door-open-v3", "push-v3"] * 3
tasks = [official_tasks(name, seed=k, count=1)[0] for k, name in enumerate(NAMES)]
actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, len(tasks), 4)).astype(np.float32)
sent = seen = 0
armed = False

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

def send():
    global sent
    while armed:
        time.sleep(0.005)
        sent += 1
        os.kill(os.getpid(), signal.SIGINT)
        while armed and seen < sent:
            time.sleep(0.001)

def play(env):
    while (step := int(env._batch.elapsed[0])) < STEPS:
        env.step(actions[step])

def outcome(env):
    kept = [np.concatenate(env._batch.obs), env._batch.outcome.ravel()]
    for slot, held in enumerate(env._batch._slots):
        kept.append(physics(held.scene.model, native_simulation(env, slot)))
    return np.concatenate(kept)

undisturbed, disturbed = (NativeEnv(tasks, num_threads=2) for _ in range(2))
undisturbed.reset()
play(undisturbed)
signal.signal(signal.SIGINT, interrupt)
disturbed.reset()
armed = True
sender = threading.Thread(target=send)
sender.start()
while armed:
    try:
        play(disturbed)
        armed = False
    except KeyboardInterrupt:
        seen += 1
sender.join()
assert seen >= 5, seen
assert np.array_equal(outcome(disturbed), outcome(undisturbed))
assert not np.array_equal(disturbed.reset()[0], undisturbed._batch.obs)
assert np.array_equal(disturbed._batch.obs, undisturbed.reset()[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself")
def test_an_interrupt_in_the_middle_of_a_step_changes_no_bit() -> None:
    finish(run_python(INTERRUPTED))


# On a busy machine a thread may wake only after its batch is gone and the memory is reused.
LATE = """
import gc, threading, time
import numpy as np
from envs.metaworld.native import NativeEnv
from tests.envs.parity import official_tasks

env = NativeEnv(official_tasks("reach-v3", seed=0, count=3), num_threads=3)
env.reset()
env.step(np.zeros((3, 4), np.float32))
wake = env._batch._wake
assert threading.active_count() == 3
del env
gc.collect()
overwritten = [np.zeros(size, dtype=np.int64) for size in range(1, 3000)]
wake.put(True)
wake.put(True)
for _ in range(200):
    time.sleep(0.01)
    if threading.active_count() == 1:
        break
assert threading.active_count() == 1  # and none is left behind
"""


def test_a_thread_that_wakes_late_finds_its_memory() -> None:
    finish(run_python(LATE))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An empty cache folder, and a function that clears the memory; both are restored at the
    end."""
    monkeypatch.setenv("METARL_CACHE", str(tmp_path))
    snapshots.official.cache_clear()
    yield snapshots.official.cache_clear
    snapshots.official.cache_clear()


def some_tasks(count: int) -> list[MetaWorldTask]:
    return official_tasks(NAME, seed=0, count=count)


def same(ours: list[Snapshot], theirs: list[Snapshot]) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
        for a, b in zip(ours, theirs, strict=True)
        for name in snapshots.FIELDS
    )


def the_file(folder: Path) -> Path:
    (path,) = (folder / "snapshots").iterdir()
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGE: list[Callable[[Path], object]] = [
    truncate,
    flip,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"not an archive"),
    lambda path: np.savez(path, goals=np.zeros((1, 3))),
    Path.unlink,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_ignored_and_written_again(
    damage: Callable[[Path], object], fresh: Callable[[], None], tmp_path: Path
) -> None:
    tasks = some_tasks(3)
    first = snapshots.snapshots(tasks)
    path = the_file(tmp_path)
    damage(path)
    fresh()
    assert same(snapshots.snapshots(tasks), first)
    assert the_file(tmp_path) == path
    kept = read_arrays(path)
    assert kept is not None and len(kept["goals"]) == 3
    fresh()
    assert same(snapshots.snapshots(tasks), first)


def test_the_cache_gives_back_what_was_taken(fresh: Callable[[], None], tmp_path: Path) -> None:
    tasks = some_tasks(2)
    first = snapshots.snapshots(tasks)
    written = the_file(tmp_path).stat().st_mtime_ns
    fresh()
    assert same(snapshots.snapshots(tasks), first)
    assert the_file(tmp_path).stat().st_mtime_ns == written


def test_a_cache_that_cannot_be_written_stops_nobody(
    fresh: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del fresh
    blocked = tmp_path / "file"
    blocked.write_text("where the folder should be")
    monkeypatch.setenv("METARL_CACHE", str(blocked))
    assert len(snapshots.snapshots(some_tasks(1))) == 1
    assert compile_nothing().address


SHARED = """
import sys
from metarl.system.cache import cache_folder
from envs.metaworld import snapshots
from tests.envs.parity import official_tasks

seed = int(sys.argv[1])
snapshots.snapshots(official_tasks("reach-v3", seed=seed, count=2))
(path,) = (p for p in (cache_folder() / "snapshots").iterdir() if p.suffix == ".npz")
known = snapshots.official("reach-v3").known
for _ in range(200):
    snapshots._write(path, known)
    assert len(snapshots._read(path)) >= 2
"""


def test_processes_share_the_cache(fresh: Callable[[], None], tmp_path: Path) -> None:
    """Processes write and read the same file at once; every read sees a complete file."""
    for process in [run_python(SHARED, str(seed)) for seed in range(2)]:
        finish(process)
    path = the_file(tmp_path)  # the only file
    assert len(snapshots._read(path)) >= 2
    kept = snapshots.snapshots(some_tasks(2))
    path.unlink()
    fresh()
    assert same(snapshots.snapshots(some_tasks(2)), kept)


def compile_nothing():
    signature = types.void(*[types.int64] * 4)
    return compile_callback(native._act, signature, name="nothing", sources=[native.__file__])


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_bytes(b"")])
def test_damaged_machine_code_is_compiled_again(
    damage: Callable[[Path], object], suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METARL_CACHE", str(tmp_path))
    assert compile_nothing().cache_hits == 0
    assert compile_nothing().cache_hits == 1
    (path,) = tmp_path.rglob(f"*.{suffix}")
    damage(path)
    again = compile_nothing()
    assert again.address and again.cache_hits == 0
    compile_nothing()
    assert compile_nothing().cache_hits == 1


def test_a_constant_that_no_reset_fixes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would make the reward NaN."""
    env = make_official_env(NAME)
    env.never_fixed = None
    monkeypatch.setitem(
        TASK_CLASSES, NAME, dataclasses.replace(TASK_CLASSES[NAME], constants=("never_fixed",))
    )
    with pytest.raises(ValueError, match=r"never_fixed is None"):
        snapshots.take_snapshot(env, snapshots.official(NAME).scene, some_tasks(1)[0])
