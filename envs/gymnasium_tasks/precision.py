"""Whether single precision, in which agents see everything, shows what an environment says."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

STEPS = 100
"""What varies by fewer steps of single precision than this is hardly seen."""
NOTHING = 1e-6
"""What varies by less than this does not vary: it is rounding of the environment's own."""


class Seen:
    """How far numbers went, in the environment's own precision."""

    def __init__(self) -> None:
        self._low: Float[np.ndarray, " F"] | None = None
        self._high: Float[np.ndarray, " F"] | None = None

    def add(self, rows: Float[np.ndarray, "N F"]) -> None:
        """Takes in N rows of numbers that belong together."""
        low, high = rows.min(0), rows.max(0)
        if self._low is not None and self._high is not None:
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        self._low, self._high = low, high

    def blurred(self, what: str) -> str | None:
        """In words, which of them an agent hardly sees change; None where it sees all."""
        if self._low is None or self._high is None:
            return None
        largest = np.maximum(np.abs(self._low), np.abs(self._high))
        with np.errstate(all="ignore"):  # what is not finite is an error elsewhere
            step = np.spacing(largest.astype(np.float32)).astype(float)
            spread = self._high - self._low
            lost = np.flatnonzero((spread > NOTHING) & (spread < STEPS * step))
        if not lost.size:
            return None
        worst = lost[np.argmax(step[lost] / spread[lost])]
        which = f"{what}[{worst}]" if largest.size > 1 else what
        others = f" (and {lost.size - 1} more)" if lost.size > 1 else ""
        return (
            f"{which}{others} varies by {spread[worst]:.3g} around {largest[worst]:.6g}, where "
            f"single precision, in which agents see it, has steps of {step[worst]:.2g}; subtract a "
            "constant in the environment or in a wrapper, here and wherever agents are adapted"
        )
