"""Check for observations and rewards that single precision, which agents use, cannot resolve."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

STEPS = 100
"""Number of single-precision steps below which a variation is hardly visible."""
NOTHING = 1e-6
"""Variation below which a number counts as constant: it is the environment's own rounding."""


class Seen:
    """Range of each number over an episode, in the environment's own precision; slots are kept
    apart, because tasks may lie far from each other."""

    def __init__(self) -> None:
        self._low: Float[np.ndarray, "N F"] | None = None
        self._high: Float[np.ndarray, "N F"] | None = None

    def add(self, numbers: Float[np.ndarray, "N F"]) -> None:
        """Updates the ranges with the numbers of one step."""
        if self._low is None or self._high is None:
            self._low = self._high = numbers
        self._low, self._high = np.minimum(numbers, self._low), np.maximum(numbers, self._high)

    def blurred(self, what: str) -> str | None:
        """Sentence that names the numbers whose changes an agent hardly sees; None without any."""
        if self._low is None or self._high is None:
            return None
        largest = np.maximum(np.abs(self._low), np.abs(self._high))
        with np.errstate(all="ignore"):  # other code reports numbers that are not finite
            step = np.spacing(largest.astype(np.float32)).astype(float)
            spread = self._high - self._low
            share = np.where(spread > NOTHING, step / spread, 0.0)
        lost = np.flatnonzero((share * STEPS > 1).any(0))
        if not lost.size:
            return None
        slot, worst = np.unravel_index(share.argmax(), share.shape)
        which = f"{what}[{worst}]" if share.shape[1] > 1 else what
        others = f" (and {lost.size - 1} more)" if lost.size > 1 else ""
        at = slot, worst
        return (
            f"{which}{others} varies by {spread[at]:.3g} around {largest[at]:.6g}, where "
            f"single precision, in which agents see it, has steps of {step[at]:.2g}; subtract a "
            "constant in the environment or in a wrapper, here and wherever agents are adapted"
        )
