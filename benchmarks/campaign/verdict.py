"""What came of an attack, and how a command's end is judged."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "survived", "refused", "traceback", "hang", "differs", "accepted", "other", "skipped"
]

KINDS: dict[str, str] = {
    "survived": "survived (same bits)",
    "refused": "one-line errors",
    "traceback": "tracebacks",
    "hang": "hangs",
    "differs": "differing bits",
    "accepted": "silent acceptances",
    "other": "other faults",
    "skipped": "skipped",
}
"""What a verdict is called in tables."""
GOOD: tuple[Kind, ...] = ("survived", "refused", "skipped")
TRACES = ("Traceback (most recent call last)", "Exception ignored in", "Fatal Python error")
LONGEST_LINE = 4_000
"""Characters of a line on stderr; what a file or an environment says has to be cut."""
LARGEST_OUTPUT = 300_000
SAID = 600
"""Characters of an output that a verdict keeps: its end."""


@dataclass(frozen=True)
class Verdict:
    """How an attack ended."""

    kind: Kind
    attack: str
    """What was done, in a few words."""
    said: str = ""
    """What is wrong, where something is, or the one line that refused."""

    @property
    def good(self) -> bool:
        """Whether it ended as it has to."""
        return self.kind in GOOD

    @property
    def group(self) -> str:
        """The same for failures that look alike: no numbers, no places."""
        text = re.sub(r"0x[0-9a-f]+|\d+", "N", self.said.splitlines()[0] if self.said else "")
        return f"{KINDS[self.kind]}: {re.sub(r'/[^ :,]*/', '/', text)[:160]}"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    """Negative where a signal ended it."""
    out: str
    err: str
    hung: bool = False
    left: tuple[str, ...] = ()
    """Processes that it left behind."""

    @property
    def errors(self) -> list[str]:
        """Lines on stderr, without notes of what stops nothing."""
        lines = self.err.splitlines()
        return [line for line in lines if line.strip() and not line.startswith("note: ")]

    def fault(self, attack: str, *, codes: tuple[int, ...] = (0, 2)) -> Verdict | None:
        """What is wrong with how it ended, whatever it was to do; None where nothing is.

        Args:
            attack: what was done to it.
            codes: exit codes that are in order. With 2 there is to be one line that says why.
        """

        def verdict(kind: Kind, said: str) -> Verdict:
            return Verdict(kind, attack, f"{said}\n{self.out[-SAID:]}{self.err[-2 * SAID :]}")

        if self.hung:
            return verdict("hang", f"no end: {self._innermost()}")
        # Workers that a killed process was just starting say so; nobody is left to hear it.
        killed = self.code == -signal.SIGKILL
        if not killed and any(trace in self.out + self.err for trace in TRACES):
            return verdict("traceback", self._last_line())
        if self.left:
            return verdict("other", f"left running: {', '.join(self.left)}")
        if self.code not in codes:
            return verdict("other", f"exit code {self.code}: {self._last_line()}")
        if self.code == 2 and len(self.errors) != 1:
            return verdict("other", f"{len(self.errors)} lines for one error: {self._last_line()}")
        if self.code == 130 and len(self.errors) > 1:
            return verdict("other", f"{len(self.errors)} lines when stopped: {self._last_line()}")
        unprintable = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", self.out + self.err)
        if unprintable:
            return verdict("other", f"control character {unprintable[0]!r} in what is printed")
        longest = max((len(line) for line in self.err.splitlines()), default=0)
        # What code of the user prints on stdout is its own.
        if longest > LONGEST_LINE or len(self.err) > LARGEST_OUTPUT:
            return verdict("other", f"too long: a line of {longest:,} characters")
        return None

    def refused(self, attack: str) -> Verdict | None:
        """The one line that refused, where one did."""
        return Verdict("refused", attack, self.errors[0]) if self.code == 2 else None

    def _innermost(self) -> str:
        """Where it hung, as far as it could be asked."""
        _, _, stack = self.err.rpartition("(most recent call first):")
        return next((line for line in stack.splitlines() if line.strip()), self._last_line())

    def _last_line(self) -> str:
        lines = self.errors or [line for line in self.out.splitlines() if line.strip()] or [""]
        return lines[-1].strip()[:SAID]
