"""Stopping a command from outside: Ctrl-C, a queue's SIGTERM, the SIGHUP of a terminal that closes.

A command that calls `install` reacts to signals as follows:

- The first signal stops it. `KeyboardInterrupt` is raised once: immediately where the command may
  be interrupted; inside `deferred` only when an `interruptible` part or a `check` is reached.
- Further signals wait until the reaction to the first is complete, so that they never interrupt
  saving and closing. The third signal within a second ends the process at once; files that are
  written atomically stay intact.
- Before `running`, while modules are imported, there is nothing to save: a signal ends the process
  with one line. After `running`, while Python shuts down, signals wait.
- Other code may swallow the exception. The signal is remembered: the next `check` stops the
  command, and `interruptible` has a check at its start and at its end.

A signal that is ignored when the command starts (`nohup`, a job in the background) stays ignored.
Where `install` was not called, as in a notebook, Python's own Ctrl-C is unchanged.

Only the standard library is imported here, so that this module can come before slow imports.
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
"""Exit code of a command that any signal stopped; a shell uses it for Ctrl-C."""
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
FORCE = 3, 1.0
"""Number of signals, and the seconds within which they must come, to end the process at once."""


class Phase(Enum):
    """Effect of a signal."""

    IMPORTING = "ends the process with a line"
    INTERRUPTIBLE = "raises KeyboardInterrupt, the first time"
    DEFERRED = "waits"
    ENDING = "waits until nothing is left to do"


class _Signals:
    """Signals received so far. There is one instance, as a process has one handler per signal."""

    def __init__(self) -> None:
        self.program = ""
        self.phase = Phase.DEFERRED
        self.requested = False
        self.checks = 0
        self.times: list[float] = []

    def handle(self, number: int, frame: object) -> None:
        """Handles a signal; Python calls it in the main thread."""
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
        """Handles an uncaught exception; replaces `sys.excepthook`."""
        if issubclass(kind, KeyboardInterrupt):  # in the instant before `running`, or after it
            self.end("stopped")
        sys.__excepthook__(kind, error, trace)

    def end(self, how: str) -> None:
        """Ends the process without any clean-up; does not wait for the lock of the output.

        Args:
            how: the message to print; '' if it was printed already.
        """
        try:
            if how:
                os.write(2, f"{self.program}: {how}\n".encode())
        finally:
            os._exit(EXIT_CODE)


_signals = _Signals()


def install(program: str) -> None:
    """Installs the signal handlers; the message of a stopped command names `program`."""
    _signals.program, _signals.phase = program, Phase.IMPORTING
    sys.excepthook = _signals.uncaught
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _signals.handle)
            # Python restores the default handlers, which kill, before its shutdown is complete.
            atexit.register(signal.signal, number, signal.SIG_IGN)


def running() -> AbstractContextManager[None]:
    """Context in which a command can be interrupted; imports come before it."""
    return _in(Phase.INTERRUPTIBLE, then=Phase.ENDING)


def deferred() -> AbstractContextManager[None]:
    """Context in which signals wait, except in `interruptible` parts inside it."""
    return _in(Phase.DEFERRED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Context inside `deferred` that a signal interrupts, also a signal that came earlier or whose
    exception was swallowed in it."""
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
    """True once a signal to stop has come."""
    return _signals.requested


def check() -> None:
    """Stops the command if a signal has come, also if its exception was swallowed.

    Raises:
        KeyboardInterrupt: a signal has come.
    """
    _signals.checks += 1
    if _signals.requested:
        raise KeyboardInterrupt


def checks() -> int:
    """Number of calls of `check` so far: a command that goes on has more and more."""
    return _signals.checks
