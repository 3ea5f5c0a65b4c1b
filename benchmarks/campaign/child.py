"""Forked processes that behave like `python train.py …`, and the traps set in them."""

from __future__ import annotations

import atexit
import errno
import faulthandler
import io
import os
import resource
import shutil
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "shutil.rmtree")
"""Audit events of Python that are file operations."""


@dataclass(frozen=True)
class Trap:
    """Event right before the n-th file operation of a command in a folder.

    `do` is the name of a signal; or "no space" or "read-only", the error of this and all later
    writing; or "remove", which removes the folder.
    """

    folder: Path
    at: int = 0
    do: str = ""
    log: Path | None = None
    """File to which every operation is logged."""


def exec_script(
    script: Path,
    arguments: list[str],
    *,
    cwd: Path,
    files: tuple[Path, Path],
    limits: tuple[int, int | None],
    environment: dict[str, str],
    trap: Trap | None,
) -> NoReturn:
    """Replaces this process by a new Python that runs a script."""
    assert trap is None, "no trap can be laid in a new Python"
    os.environ.update(environment)
    _settle(cwd, files, limits)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execv(sys.executable, [sys.executable, str(script), *arguments])


def run_script(
    script: Path,
    arguments: list[str],
    *,
    cwd: Path,
    files: tuple[Path, Path],
    limits: tuple[int, int | None],
    environment: dict[str, str],
    trap: Trap | None,
) -> NoReturn:
    """Runs a script in this process, as if the process were new."""
    os.environ.update(environment)
    code = compile(script.read_bytes(), str(script), "exec")
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(script), __spec__=None, __builtins__=__builtins__)
    sys.modules["__main__"] = main
    sys.argv = [str(script), *arguments]
    if sys.path[0] != str(script.parent):
        sys.path.insert(0, str(script.parent))
    _settle(cwd, files, limits)
    sys.stdin = sys.__stdin__ = stream(0)
    sys.stdout = sys.__stdout__ = stream(1)
    sys.stderr = sys.__stderr__ = stream(2)
    faulthandler.register(signal.SIGUSR1, file=2)
    if trap is not None:
        _lay(trap)
    status = 0
    try:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            exec(code, main.__dict__)
        finally:
            _end_threads()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        atexit._run_exitfuncs()
        for output in (sys.stdout, sys.stderr):
            if not output.closed:
                output.flush()
    except BaseException:
        traceback.print_exc()
    os._exit(status & 0xFF)


def stream(number: int) -> io.TextIOWrapper:
    """Standard input, output or error, as Python opens them without a terminal."""
    file = io.FileIO(number, "wb" if number else "rb", closefd=False)
    buffer = io.BufferedWriter(file) if number else io.BufferedReader(file)
    errors = "backslashreplace" if number == 2 else "strict"
    return io.TextIOWrapper(buffer, "utf-8", errors, line_buffering=number == 2)


def _end_threads() -> None:
    """Waits for non-daemon threads, as Python does at exit."""
    threading._shutdown()  # type: ignore[attr-defined]


def _settle(cwd: Path, files: tuple[Path, Path], limits: tuple[int, int | None]) -> None:
    """Sets folder, files, limits and signals as for a process started by hand."""
    os.chdir(cwd)
    for target, path in enumerate((Path(os.devnull), *files)):
        flags = os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(path, flags, 0o644)
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.closerange(3, 1024)
    memory, file_size = limits
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _lay(trap: Trap) -> None:
    folder = str(trap.folder)
    log = None
    if trap.log is not None:
        log = os.open(trap.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    count = 0
    inside = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, inside
        if event not in EVENTS or inside or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.path.abspath(os.fspath(arguments[0]))
        if not isinstance(path, str) or not path.startswith(folder):
            return
        count += 1
        if log is not None:
            os.write(log, f"{event} {os.path.relpath(path, folder)}\n".encode())
        if not trap.do or count < trap.at:
            return
        inside = True
        try:
            _spring(trap, event, arguments, first=count == trap.at)
        finally:
            inside = False

    sys.addaudithook(hook)


def _spring(trap: Trap, event: str, arguments: tuple[Any, ...], *, first: bool) -> None:
    if trap.do in ("no space", "read-only"):
        reads = event == "os.listdir" or (
            event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR))
        )
        if not reads and not (event == "os.remove" and trap.do == "no space"):
            number = errno.ENOSPC if trap.do == "no space" else errno.EROFS
            raise OSError(number, os.strerror(number), os.fspath(arguments[0]))
    elif first and trap.do == "remove":
        shutil.rmtree(trap.folder, ignore_errors=True)
    elif first:
        os.kill(os.getpid(), signal.Signals[trap.do])
