"""Exceptions for mistakes that a user can correct, and messages on stderr."""

import difflib
import sys
from collections.abc import Iterable
from contextlib import suppress

MESSAGE_LIMIT = 2_000
"""Maximum length of an error message; text from environments and files can be of any length."""


class UserError(Exception):
    """A mistake in the input; the message is one line that says how to correct it."""


class NotFiniteError(UserError):
    """A NaN or an infinity that makes it impossible to continue.

    Args:
        what: name of the tensor, e.g. "the inner gradient".
        task: index of its task in the meta-batch, if it belongs to one.
        env_name: class of that task, if known.
    """

    def __init__(self, what: str, *, task: int | None = None, env_name: str = "") -> None:
        where = "" if task is None else f" (task {task}{', ' if env_name else ''}{env_name})"
        super().__init__(f"{what} is not finite{where}")


class EnvironmentFailedError(UserError):
    """An environment raised an exception, hung or died; names the slot, the step and the task."""


class TrialLostError(EnvironmentFailedError):
    """A failure that costs only this trial: the next `reset` restarts the environment."""


def nearest(word: str, known: Iterable[str], *, count: int = 3) -> str:
    """' Did you mean …?' with the names closest to `word`; '' when none is close."""
    close = difflib.get_close_matches(word[:100], list(known), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def printable(text: object, *, limit: int = 500) -> str:
    """Text from outside as one line that is safe to print: white space becomes single spaces,
    control characters and characters that UTF-8 cannot encode become escapes such as `\\x1b`, and
    longer text is cut to `limit` characters."""
    whole = str(text)
    line = " ".join(whole[: 4 * limit].split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    cut = len(line) > limit or len(whole) > 4 * limit
    return f"{line[:limit]} …" if cut else line


def note(text: str) -> None:
    """Prints a note on stderr that the user should know; nothing stops."""
    say(f"note: {text}")


def say(text: str) -> None:
    """Prints a line on stderr; does nothing where stderr cannot be written to."""
    with suppress(OSError, ValueError):
        print(printable(text, limit=MESSAGE_LIMIT), file=sys.stderr, flush=True)
