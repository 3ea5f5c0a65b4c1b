"""How success grows with learning: the curve of each task, and what is read off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from metarl.errors import UserError

Measure = Literal["success_any", "success_last"]
ROUNDING = 1e-9
"""A mean of successes that falls short of a level by no more reaches it."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """How policies do on each of N tasks after C amounts of learning.

    A cell is the mean over whole episodes.
    """

    env_steps: list[int]
    """Env steps of learning before each column, those of evaluations not counted; first 0."""
    scores: dict[str, Float[np.ndarray, "N C"]]
    """By measure: `return`, the undiscounted sum of rewards of an episode; `success_any` and
    `success_last`, 1 where any step of the episode was a success, and where its last one was."""

    @staticmethod
    def of_tasks(curves: Sequence[LearningCurve]) -> LearningCurve:
        """Curves of several tasks as one.

        Raises:
            UserError: none, or not after the same env steps.
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

    Those of the first point of the curve that does, so as fine as its points are spaced; None where
    the budget was too small.

    Raises:
        UserError: the level is not a share.
    """
    if not 0 <= success <= 1:
        raise UserError(f"success is a share from 0 to 1, not {success}")
    means = curve.scores[measure].mean(axis=0)
    reached = np.flatnonzero(means >= success - ROUNDING)
    return curve.env_steps[reached[0]] if len(reached) else None
