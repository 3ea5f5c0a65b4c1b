"""Command lines: output in any encoding, and errors as one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

from metarl.errors import UserError, say
from metarl.system import stopping

TORCH_HAS_NO_ROOM = ("DefaultCPUAllocator", "out of memory", "Storage size calculation overflowed")


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turns exceptions into one line on stderr and an exit code, as a shell has them.

    A `UserError` or an error of the operating system gives exit code 2, a signal to stop 130, and
    a reader that closes the output early (`| head`) 141. Characters that the output's encoding
    lacks are written as `?`.
    """
    take_any_output()
    try:
        try:
            with stopping.running():
                yield
        finally:
            _flush_output(program)
    except UserError as error:
        _end(f"{program}: {error}", code=2)
    except KeyboardInterrupt:
        _end(f"{program}: stopped", code=stopping.EXIT_CODE)
    except BrokenPipeError:
        if _is_read(sys.stdout):
            raise  # Another pipe broke.
        _drop_output()
        raise SystemExit(141) from None
    except Exception as error:
        if stopping.requested():  # Interrupted code fails in many ways.
            _end(f"{program}: stopped", code=stopping.EXIT_CODE)
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            _end(f"{program}: {error}", code=2)
        if sys.stdout.closed:  # by the user's code
            _end(f"{program}: the output was closed, perhaps by an environment", code=2)
        if isinstance(error, UnicodeError):
            _end(f"{program}: a name or a text is not UTF-8; write it as UTF-8 ({error})", code=2)
        if _is_lack_of_memory(error):
            _end(f"{program}: not enough memory; choose smaller sizes ({error})", code=2)
        raise


def _end(line: str, *, code: int) -> NoReturn:
    say(line)
    try:
        sys.stdout.flush()
    except OSError:  # on a full disk, or a terminal that is gone
        _drop_output()
    except ValueError:  # closed
        pass
    raise SystemExit(code) from None


def _flush_output(program: str) -> None:
    """Flushes the output.

    Raises:
        UserError: the output cannot be written; an earlier `UserError` is printed first.
    """
    if sys.stdout.closed:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        if isinstance(error.__context__, UserError):
            say(f"{program}: {error.__context__}")
        raise UserError(f"cannot write the output: {error}") from None


def _drop_output() -> None:
    """Discards unwritten output, which would fail once more when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def take_any_output() -> None:
    """Makes printing safe: output to a closed stream is dropped, and characters that the encoding
    lacks are written as `?`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Otherwise the next file that is opened might get the stream's file descriptor.
        if stream is None or stream.closed:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors != "replace":
            stream.reconfigure(errors="replace")


def _is_read(output: TextIO) -> bool:
    """True if the output still has a reader; writes an empty line to find out."""
    try:
        print(file=output, flush=True)
    except BrokenPipeError:
        return False
    return True


def _is_lack_of_memory(error: Exception) -> bool:
    """True if memory could not be allocated; torch has no exception class for this on the CPU."""
    said = str(error)[:1000]
    return isinstance(error, MemoryError) or any(sign in said for sign in TORCH_HAS_NO_ROOM)
