"""Stopping a command from outside: Ctrl-C, a queue's SIGTERM, the SIGHUP of a terminal that closes.

What a command that calls `install` promises:

- The first signal stops it. `KeyboardInterrupt` is raised once, at once, wherever the command may
  be interrupted; in what is `deferred` it waits until an `interruptible` part, or `check`, asks.
- Further signals wait for what the first one has begun, so that saving and closing are never torn.
  The third within a second ends the process on the spot; files that are written whole stay whole.
- Before `running`, while modules are imported, there is nothing to save: a signal ends the process
  with one line. After it, while Python shuts down, signals wait.
- Foreign code may swallow the exception. The signal is not forgotten: the next `check` stops, and
  there is one at both ends of what is `interruptible`.

A signal that the command was started to ignore (`nohup`, a job in the background) stays ignored.
Where nothing is installed, as in a notebook, Python's own Ctrl-C is as it was.

Only the standard library is imported here, so that this can come before all that takes seconds.
"""

import atexit
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from types import TracebackType

EXIT_CODE = 130
"""Of a command that was stopped, by whatever signal, as a shell has it for Ctrl-C."""
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
FORCE = 3, 1.0
"""So many signals within so many seconds do not wait for anything."""


class Phase(Enum):
    """What a signal does."""

    IMPORTING = "ends the process with a line"
    INTERRUPTIBLE = "raises KeyboardInterrupt, the first time"
    DEFERRED = "waits"
    ENDING = "waits until nothing is left to do"


class _Signals:
    """What has come so far. There is one, as a process has one handler of a signal."""

    def __init__(self) -> None:
        self.program = ""
        self.phase = Phase.DEFERRED
        self.requested = False
        self.times: list[float] = []

    def handle(self, number: int, frame: object) -> None:
        """What Python calls in the main thread when a signal has come."""
        del number, frame
        self.times = [*self.times, time.monotonic()][-FORCE[0] :]
        if self.phase is Phase.IMPORTING:
            self.end("stopped")
        if len(self.times) == FORCE[0] and self.times[-1] - self.times[0] < FORCE[1]:
            self.end("" if self.phase is Phase.ENDING else "stopped by force")
        first, self.requested = not self.requested, True
        if first and self.phase is Phase.INTERRUPTIBLE:
            raise KeyboardInterrupt

    def uncaught(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """What Python calls with an exception that nobody caught."""
        if issubclass(kind, KeyboardInterrupt):  # in the instant before `running`, or after it
            self.end("stopped")
        sys.__excepthook__(kind, error, trace)

    def end(self, how: str) -> None:
        """Ends the process without any clean-up; whoever holds the output's lock is not asked.

        Args:
            how: what to say of it; '' where that was said.
        """
        try:
            if how:
                os.write(2, f"{self.program}: {how}\n".encode())
        finally:
            os._exit(EXIT_CODE)


_signals = _Signals()


def install(program: str) -> None:
    """Lets signals stop this process; `program` is named in the line that says so."""
    _signals.program, _signals.phase = program, Phase.IMPORTING
    sys.excepthook = _signals.uncaught
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _signals.handle)
            # Python itself gives signals back their own meaning, to kill, before it is quite done.
            atexit.register(signal.signal, number, signal.SIG_IGN)


def running() -> AbstractContextManager[None]:
    """The part of a command in which it can be interrupted; imports come before it."""
    return _in(Phase.INTERRUPTIBLE, then=Phase.ENDING)


def deferred() -> AbstractContextManager[None]:
    """A part in which signals wait, but in what is `interruptible` in it."""
    return _in(Phase.DEFERRED)


@contextmanager
def interruptible() -> Iterator[None]:
    """A part of what is `deferred` that a signal interrupts, also one that came before it, or was
    swallowed in it."""
    with _in(Phase.INTERRUPTIBLE):
        check()
        yield
        check()


@contextmanager
def _in(phase: Phase, *, then: Phase | None = None) -> Iterator[None]:
    before = _signals.phase
    try:
        _signals.phase = phase
        yield
    finally:
        _signals.phase = then or before


def requested() -> bool:
    """Whether a signal to stop has come."""
    return _signals.requested


def check() -> None:
    """Stops if a signal has come and its exception did not get through.

    Raises:
        KeyboardInterrupt: one has come.
    """
    if _signals.requested:
        raise KeyboardInterrupt
