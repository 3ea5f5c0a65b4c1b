"""Judges a few-shot learner on tasks of a split, for each number of shots and gradient steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.errors import UserError
from metarl.few_shot import draw, few_shot_curve, nearest_neighbour_curve
from metarl.protocols import EpisodeSampler, FewShotLearner
from metarl.types import FewShotShape

SHOTS, SHOTS_OF_FUNCTIONS = (1, 5), (5, 10)  # one point says next to nothing of a function


class Judged(NamedTuple):
    """What came of it; all numbers of shots are judged on the same tasks."""

    shots: list[int]
    steps: list[int]
    num_queries: int
    scores: dict[str, Float[Tensor, "N shots steps"]]
    """By measure; a loss that diverged is infinite."""
    pixels: Float[Tensor, "N shots"] | None
    """Accuracy of the nearest neighbour in pixel space on the same tasks; None without images."""


def judge(
    learner: FewShotLearner,
    sampler: EpisodeSampler,
    shape: FewShotShape,
    *,
    shots: Sequence[int],
    episodes: int,
    seed: int,
) -> Judged:
    """Shows a learner so many tasks, with all gradient steps that it takes.

    Raises:
        UserError: there are fewer examples than shots.
    """
    shots = sorted(set(shots))
    try:
        one = draw(sampler, 1, shots[-1], seed=seed, first=0)
    except UserError as error:
        raise UserError(f"{error}, or choose --shots for this evaluation") from None
    curves = [
        few_shot_curve(
            learner, sampler, axis="gradient steps", shots=[number], episodes=episodes, seed=seed
        )
        for number in shots
    ]
    pixels = None
    if shape.classification and len(shape.input_shape) == 3:  # images
        curve = nearest_neighbour_curve(
            sampler, shape.num_outputs, shots=shots, episodes=episodes, seed=seed
        )
        pixels = curve.scores["accuracy"]
    scores = {
        measure: torch.stack([curve.scores[measure] for curve in curves], 1)
        for measure in curves[0].scores
    }
    return Judged(
        shots=shots,
        steps=curves[0].experience,
        num_queries=one.query_x.shape[1],
        scores={m: s.nan_to_num(nan=math.inf, posinf=math.inf) for m, s in scores.items()},
        pixels=pixels,
    )
