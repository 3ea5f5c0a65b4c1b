"""The one exception for mistakes that a user can mend, and how it reaches them."""

import difflib
import sys
from collections.abc import Iterable
from contextlib import suppress

MESSAGE_LIMIT = 2_000
"""Characters of an error message; what an environment or a file says can be of any length."""


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


def note(text: str) -> None:
    """Says something on stderr that a user should know and that stops nothing."""
    say(f"note: {text}")


def say(text: str) -> None:
    """Prints a line on stderr, where that can be written to."""
    with suppress(OSError, ValueError):
        print(printable(text, limit=MESSAGE_LIMIT), file=sys.stderr, flush=True)
