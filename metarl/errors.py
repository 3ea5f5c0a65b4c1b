"""The one exception for mistakes that a user can mend, and how it reaches them."""

import difflib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

from metarl import stopping

MESSAGE_LIMIT = 2_000
"""Characters of an error message; what an environment or a file says can be of any length."""


TORCH_HAS_NO_ROOM = ("DefaultCPUAllocator", "out of memory", "Storage size calculation overflowed")


class UserError(Exception):
    """A mistake in the input; the message is one line that says what to do about it."""


class NotFiniteError(UserError):
    """A NaN or an infinity where training cannot go on.

    Args:
        what: the tensor, e.g. "the inner gradient".
        task: its number in the meta-batch, where it belongs to one.
        env_name: class of that task, where it is known.
    """

    def __init__(self, what: str, *, task: int | None = None, env_name: str = "") -> None:
        where = "" if task is None else f" (task {task}{', ' if env_name else ''}{env_name})"
        super().__init__(f"{what} is not finite{where}")


class EnvironmentFailedError(UserError):
    """An environment raised, hung or died; names the slot, the step and the task."""


class TrialLostError(EnvironmentFailedError):
    """The same where only this trial is lost: the next `reset` starts the environment anew."""


def nearest(word: str, known: Iterable[str], *, count: int = 3) -> str:
    """' Did you mean …?' with the names closest to `word`, or '' when none is close."""
    close = difflib.get_close_matches(word[:100], list(known), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def printable(text: object, *, limit: int = 500) -> str:
    """Text that comes from outside, as one line that is safe to print: white space becomes single
    spaces, control characters and what UTF-8 cannot hold become escapes such as `\\x1b`, and what
    is longer than `limit` characters is cut."""
    whole = str(text)
    line = " ".join(whole[: 4 * limit].split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    cut = len(line) > limit or len(whole) > 4 * limit
    return f"{line[:limit]} …" if cut else line


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turns a `UserError`, and what the system refuses, into one line on stderr and exit code 2, a
    signal to stop into exit code 130, and a reader of the output who has seen enough (`| head`)
    into exit code 141, as a shell does.

    Output may go anywhere: what its encoding lacks is written as `?`.
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
            raise  # It was another pipe.
        _drop_output()
        raise SystemExit(141) from None
    except Exception as error:
        if stopping.requested():  # What was interrupted fails in many ways.
            _end(f"{program}: stopped", code=stopping.EXIT_CODE)
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            _end(f"{program}: {error}", code=2)
        if sys.stdout.closed:  # by code of the user
            _end(f"{program}: somebody closed the output, perhaps an environment", code=2)
        if isinstance(error, UnicodeError):
            _end(f"{program}: a name or a text is not UTF-8; write it as UTF-8 ({error})", code=2)
        if _is_lack_of_memory(error):
            _end(f"{program}: not enough memory; choose smaller sizes ({error})", code=2)
        raise


def note(text: str) -> None:
    """Says something on stderr that a user should know and that stops nothing."""
    _say(f"note: {text}")


def _say(text: str) -> None:
    """Prints a line on stderr, where that can be written to."""
    with suppress(OSError, ValueError):
        print(printable(text, limit=MESSAGE_LIMIT), file=sys.stderr, flush=True)


def _end(line: str, *, code: int) -> NoReturn:
    _say(line)
    try:
        sys.stdout.flush()
    except OSError:  # on a full disk, or a terminal that is gone
        _drop_output()
    except ValueError:  # closed
        pass
    raise SystemExit(code) from None


def _flush_output(program: str) -> None:
    """Writes what is still unwritten.

    Raises:
        UserError: it cannot be; what was said before is not forgotten.
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
            _say(f"{program}: {error.__context__}")
        raise UserError(f"cannot write the output: {error}") from None


def _drop_output() -> None:
    """What is still unwritten would fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def take_any_output() -> None:
    """What is printed where nobody listens is lost without an error, and what an encoding lacks is
    written as `?`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream.closed:  # Otherwise the next file might get its number.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors != "replace":
            stream.reconfigure(errors="replace")


def _is_read(output: TextIO) -> bool:
    """Whether somebody still reads what is written; writes an empty line to find out."""
    try:
        print(file=output, flush=True)
    except BrokenPipeError:
        return False
    return True


def _is_lack_of_memory(error: Exception) -> bool:
    """Whether something could not be allocated; torch has no class of its own for it."""
    said = str(error)[:1000]
    return isinstance(error, MemoryError) or any(sign in said for sign in TORCH_HAS_NO_ROOM)
