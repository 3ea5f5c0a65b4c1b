"""The one exception for mistakes that a user can mend, and how it reaches them."""

import difflib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

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
    """Turns a `UserError`, and what the system refuses, into one line on stderr and exit code 2,
    Ctrl-C into exit code 130, and a reader of the output who has seen enough (`| head`) into exit
    code 141, as a shell does.

    Output may go anywhere: what its encoding lacks is written as `?`.
    """
    _take_any_output()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except UserError as error:
        _complain(program, error)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if error.filename is not None or _output_is_writable():  # It was something else.
            if isinstance(error, BrokenPipeError):
                raise
            _complain(program, error)
            raise SystemExit(2) from None
        # What is still unwritten would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from None
        if isinstance(error.__context__, UserError):
            _complain(program, error.__context__)
        _complain(program, f"cannot write the output: {error}")
        raise SystemExit(2) from None
    except UnicodeError as error:
        _complain(program, f"a name or a text is not UTF-8; write it as UTF-8 ({error})")
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        _complain(program, f"not enough memory; choose smaller sizes ({error})")
        raise SystemExit(2) from None


def _take_any_output() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # It is closed. Otherwise the next file would get its number.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _complain(program: str, message: object) -> None:
    with suppress(OSError):  # where there is nobody to tell
        print(f"{program}: {printable(message, limit=MESSAGE_LIMIT)}", file=sys.stderr)


def _output_is_writable() -> bool:
    """Whether what is printed gets anywhere; writes an empty line to find out."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _is_lack_of_memory(error: Exception) -> bool:
    """Whether something could not be allocated; torch has no class of its own for it."""
    said = str(error)[:1000]
    return isinstance(error, MemoryError) or any(sign in said for sign in TORCH_HAS_NO_ROOM)
