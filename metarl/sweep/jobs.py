"""Processes of a sweep: each run is one, on processors of its own, and stopped with the sweep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from metarl.errors import UserError, printable
from metarl.system import stopping
from metarl.system.hardware import processors
from metarl.system.started import SCRIPTS

Processors = tuple[int, ...]
PAUSE = 0.1
"""Seconds between looks at the processes."""
DONE = object()
Work = Generator[None, None, None]
"""What one lane does; it yields whenever it waits for a process."""


def lanes_of(jobs: int) -> list[Processors]:
    """The processors of each job: an even share, or one that several jobs share."""
    free = processors()
    if jobs > len(free):
        return [(free[job % len(free)],) for job in range(jobs)]
    return [tuple(part.tolist()) for part in np.array_split(free, jobs)]


def side_by_side(lanes: Sequence[Work], children: Children) -> None:
    """Works in all lanes until each has nothing left to do.

    Raises:
        KeyboardInterrupt: a signal has come; the processes got it too and have ended.
    """
    waiting = list(lanes)
    try:
        with stopping.deferred():
            while waiting:
                waiting = [lane for lane in waiting if next(lane, DONE) is not DONE]
                stopping.check()
                if waiting:
                    with stopping.interruptible():
                        time.sleep(PAUSE)
    finally:
        with stopping.deferred():
            children.stop()
            for lane in waiting:
                lane.close()


class Children:
    """The processes that run now."""

    def __init__(self) -> None:
        self._alive: list[subprocess.Popen[bytes]] = []
        self._signalled: set[int] = set()

    def run(
        self, script: str, arguments: Sequence[str], *, log: Path, on: Processors
    ) -> Generator[None, None, int]:
        """Runs `train.py` or `evaluate.py`; yields while it goes on. If it is closed, the process
        is stopped by a signal, and saves.

        Args:
            script: the name of the script.
            arguments: its arguments.
            log: file that its output is added to.
            on: processors that it runs on.

        Returns:
            The exit code.
        """
        threads = os.environ.get("OMP_NUM_THREADS", str(len(on)))
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, str(SCRIPTS / script), *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C reaches it once, through `stop`
            )  # fmt: skip
        self._alive.append(process)
        try:
            if sys.platform == "linux":
                with suppress(OSError):  # it may have ended
                    os.sched_setaffinity(process.pid, on)
            while (code := process.poll()) is None:
                yield
            return code
        finally:
            self._signal(process)
            process.wait()
            self._alive.remove(process)

    def stop(self) -> None:
        """Sends the signal to stop to all processes."""
        for process in self._alive:
            self._signal(process)

    def _signal(self, process: subprocess.Popen[bytes]) -> None:
        """Signals once: a third signal would end the process before it has saved."""
        if process.poll() is None and process.pid not in self._signalled:
            self._signalled.add(process.pid)
            process.terminate()


def last_line(log: Path) -> str:
    """The last line that a process printed, which says what was wrong with it."""
    try:
        lines = log.read_bytes()[-4096:].decode("utf-8", errors="replace").split("\n")
    except OSError as error:
        return printable(error)
    return printable(next((line for line in reversed(lines) if line.strip()), "it said nothing"))


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Holds a lock file if no other process does; yields whether it is ours. The system releases it
    when the process ends, in any way.

    Raises:
        UserError: it cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise UserError(f"cannot lock {path}: {printable(error)}") from None
    try:
        yield True
    finally:
        lock.release()
