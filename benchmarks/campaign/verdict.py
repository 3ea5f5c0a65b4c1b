"""Verdicts of attacks, and the judgement of a command's end."""

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
"""Names of verdicts in tables."""
GOOD: tuple[Kind, ...] = ("survived", "refused", "skipped")
TRACES = ("Traceback (most recent call last)", "Exception ignored in", "Fatal Python error")
LONGEST_LINE = 4_000
"""Longest line on stderr (characters); texts from files or environments must be shortened."""
LARGEST_OUTPUT = 300_000
SAID = 600
"""Characters at the end of an output that a verdict keeps."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on an attack."""

    kind: Kind
    attack: str
    """The attack, in a few words."""
    said: str = ""
    """The fault, if there is one, or the line that refused."""

    @property
    def good(self) -> bool:
        """True if the command ended as it must."""
        return self.kind in GOOD

    @property
    def group(self) -> str:
        """Key that is equal for similar failures: the text without numbers and paths."""
        text = re.sub(r"0x[0-9a-f]+|\d+", "N", self.said.splitlines()[0] if self.said else "")
        return f"{KINDS[self.kind]}: {re.sub(r'/[^ :,]*/', '/', text)[:160]}"


@dataclass(frozen=True)
class Ended:
    """End of a command, with its output."""

    code: int
    """Exit code; negative if a signal ended the command."""
    out: str
    err: str
    hung: bool = False
    left: tuple[str, ...] = ()
    """Processes that the command left behind."""

    @property
    def errors(self) -> list[str]:
        """Lines on stderr, without notes that stop nothing."""
        lines = self.err.splitlines()
        return [line for line in lines if line.strip() and not line.startswith("note: ")]

    def fault(self, attack: str, *, codes: tuple[int, ...] = (0, 2)) -> Verdict | None:
        """Verdict on a wrong end of any command; None if nothing is wrong.

        Args:
            attack: the attack in words.
            codes: allowed exit codes. With 2, there must be one line that gives the reason.
        """

        def verdict(kind: Kind, said: str) -> Verdict:
            return Verdict(kind, attack, f"{said}\n{self.out[-SAID:]}{self.err[-2 * SAID :]}")

        if self.hung:
            return verdict("hang", f"no end: {self._innermost()}")
        # Workers that a killed process was just starting print errors, which nobody reads.
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
        # The user's code may print anything on stdout.
        if longest > LONGEST_LINE or len(self.err) > LARGEST_OUTPUT:
            return verdict("other", f"too long: a line of {longest:,} characters")
        return None

    def refused(self, attack: str) -> Verdict | None:
        """Verdict with the line that refused; None if the command was not refused."""
        return Verdict("refused", attack, self.errors[0]) if self.code == 2 else None

    def _innermost(self) -> str:
        """Innermost stack frame at which the command hung, if it is known."""
        _, _, stack = self.err.rpartition("(most recent call first):")
        return next((line for line in stack.splitlines() if line.strip()), self._last_line())

    def _last_line(self) -> str:
        lines = self.errors or [line for line in self.out.splitlines() if line.strip()] or [""]
        return lines[-1].strip()[:SAID]
