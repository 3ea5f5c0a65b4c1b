"""Learning curves of each task, and the env steps to a level of success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from metarl.errors import UserError

Measure = Literal["success_any", "success_last"]
ROUNDING = 1e-9
"""Tolerance within which a mean of successes reaches a level."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Scores of policies on N tasks after C amounts of learning.

    A cell is the mean over whole episodes.
    """

    env_steps: list[int]
    """Env steps of learning before each column, without those of evaluations; the first is 0."""
    scores: dict[str, Float[np.ndarray, "N C"]]
    """Scores by measure: `return`, the undiscounted sum of an episode's rewards; `success_any`, 1
    if any of its steps was a success; `success_last`, 1 if its last step was."""

    @staticmethod
    def of_tasks(curves: Sequence[LearningCurve]) -> LearningCurve:
        """Concatenates curves of several tasks.

        Raises:
            UserError: there is no curve, or their env steps differ.
        """
        if not curves:
            raise UserError("no learning curve to join; give at least one")
        if any(curve.env_steps != curves[0].env_steps for curve in curves):
            raise UserError("these learning curves are of different env steps; learn them alike")
        return LearningCurve(
            env_steps=curves[0].env_steps,
            scores={m: np.concatenate([c.scores[m] for c in curves]) for m in curves[0].scores},
        )


def env_steps_to(
    curve: LearningCurve, success: float, *, measure: Measure = "success_any"
) -> int | None:
    """Env steps per task until mean success over tasks first reaches a level.

    They are the steps of the curve's first point at that level, so their resolution is the spacing
    of the points; None if the curve never reaches it.

    Raises:
        UserError: the level is not within 0 and 1.
    """
    if not 0 <= success <= 1:
        raise UserError(f"success is a share from 0 to 1, not {success}")
    means = curve.scores[measure].mean(axis=0)
    reached = np.flatnonzero(means >= success - ROUNDING)
    return curve.env_steps[reached[0]] if len(reached) else None
