"""Attacked commands: starting, watching, and ending them with all their child processes.

A Python that has imported torch and the project forks for each command, which takes 20 ms in place
of seconds. With `fresh`, the command is a new `python train.py`, as a user starts it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.campaign.child import Trap, exec_script, run_script
from benchmarks.campaign.verdict import Ended

MEMORY = 6 * 2**30
"""Address space of each process (bytes)."""
PR_SET_CHILD_SUBREAPER = 36
STORMS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def adopt_orphans() -> None:
    """Makes this process the parent of processes that a command leaves behind, to detect them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Command:
    """A program of the project with its arguments, folder and conditions."""

    arguments: Sequence[str]
    """Arguments, beginning with the program, such as `train.py`."""
    cwd: Path
    project: Path
    fresh: bool = False
    trap: Trap | None = None
    """Event at a file operation; not possible with `fresh`."""
    file_size: int | None = None
    """Largest size of a file that it may write (bytes)."""
    environment: Mapping[str, str] = field(default_factory=dict)
    patience: float = 60.0
    """Time limit (s), doubled for a new Python. Its child processes may outlive it by a sixth of
    the limit."""

    def run(self) -> Ended:
        """Starts the command and waits for its end."""
        return self.start().end()

    def start(self) -> Running:
        """Starts the command as the leader of its own session."""
        # Outside the folder, whose disk may be full.
        out, err = (self.cwd.parent / f".{name}" for name in ("stdout", "stderr"))
        for path in (out, err):
            path.write_bytes(b"")
        # Signals wait until the child is set up.
        signal.pthread_sigmask(signal.SIG_BLOCK, STORMS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STORMS)
        else:
            try:
                os.setsid()
                (exec_script if self.fresh else run_script)(
                    self.project / self.arguments[0],
                    list(self.arguments[1:]),
                    cwd=self.cwd,
                    files=(out, err),
                    limits=(MEMORY, self.file_size),
                    environment=dict(self.environment),
                    trap=self.trap,
                )
            finally:  # must never return to the loop of attacks
                os._exit(70)
        return Running(pid, out, err, patience=self.patience, slow=2 if self.fresh else 1)


class Running:
    """A started command."""

    def __init__(self, pid: int, out: Path, err: Path, *, patience: float, slow: float) -> None:
        self.pid = pid
        self._files = out, err
        self._patience, self._slow = patience, slow
        self._status: int | None = None
        self._descriptor = os.pidfd_open(pid)

    def ended_within(self, seconds: float) -> bool:
        """Waits at most `seconds`; True if the command ended."""
        if self._status is None:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            if poll.poll(max(0.0, seconds) * 1000):
                _, self._status = os.waitpid(self.pid, 0)
        return self._status is not None

    def send(self, number: int) -> None:
        """Sends a signal to the command alone, unless it has ended."""
        if self._status is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def has_loaded(self, name: str) -> bool:
        """Waits until the command has mapped a file with `name` in its path; False if it ends
        before."""
        maps = Path(f"/proc/{self.pid}/maps")
        while not self.ended_within(0.01):
            with suppress(OSError):
                if name in maps.read_text(encoding="utf-8", errors="replace"):
                    return True
        return False

    def end(self) -> Ended:
        """Waits until the command and its child processes end; kills them if that takes too
        long."""
        hung = not self.ended_within(self._patience * self._slow)
        if hung:
            # A forked command prints its stacks; a fresh one ends.
            self.send(signal.SIGUSR1)
            self.ended_within(1.0)
            _kill_all()
            _, self._status = (0, 9) if self._status is not None else os.waitpid(self.pid, 0)
        left = _left(self._patience / 6)
        os.close(self._descriptor)
        assert self._status is not None
        out, err = (_text(path) for path in self._files)
        code = os.waitstatus_to_exitcode(self._status)
        return Ended(code, out, err, hung=hung, left=() if hung else left)


def _left(grace: float) -> tuple[str, ...]:
    """Kills processes that do not end by themselves; returns their commands."""
    until = time.monotonic() + grace
    while _reaped_some():
        if time.monotonic() > until:
            left = tuple(_command_line(pid) for pid in _children())
            _kill_all()
            while _reaped_some():
                _kill_all()
                time.sleep(0.01)
            return left
        time.sleep(0.002)
    return ()


def _reaped_some() -> bool:
    """Reaps ended children; True if others are still running."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in path.read_text(encoding="utf-8").split()]


def _kill_all() -> None:
    """Kills all children and the sessions that they lead."""
    for pid in _children():
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)


def _command_line(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words[:4]).decode(errors="replace")[:80]
    return "a process"


def _text(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(20_000_000).decode(errors="replace")
    path.unlink()
    return text
