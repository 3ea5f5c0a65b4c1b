"""Evaluation of few-shot learners on held-out tasks, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from metarl.errors import NotFiniteError, UserError
from metarl.evaluation.statistics import REAL, SHARE, Estimate, estimate
from metarl.learning.few_shot import scores, task_accuracies
from metarl.protocols import EpisodeSampler, FewShotLearner
from metarl.system.finite import check_weights, is_finite
from metarl.system.seeding import derive_seed
from metarl.types import FewShotBatch, FewShotCurve, FewShotShape

BOUNDS = {"accuracy": SHARE, "gain": (-1.0, 1.0), "loss": (0.0, math.inf)}
"""Lowest and highest value of each measure; a gain is a difference of accuracies."""
TASKS_AT_ONCE = 8
"""Tasks evaluated together. It also affects which tasks are drawn, so it is not an option."""


def few_shot_curve(
    learner: FewShotLearner,
    sampler: EpisodeSampler,
    *,
    axis: Literal["gradient steps", "shots"],
    num_tasks: int = 600,
    steps: Sequence[int] | None = None,
    shots: Sequence[int],
    seed: int = 0,
) -> FewShotCurve:
    """Scores of a learner on tasks of a split.

    Args:
        learner: the learner; it is not changed.
        sampler: draws the tasks, the same ones for every learner with the same `seed` and `shots`.
        axis: `gradient steps`: one column per number in `steps`, with the last of `shots`.
            `shots`: one column per number in `shots`, after the last of `steps`.
        num_tasks: number of tasks.
        steps: numbers of gradient steps, rising; by default `milestones` up to the learner's own.
        shots: numbers of support examples per class, or per function.
        seed: seed of the tasks and their examples.

    Raises:
        NotFiniteError: a prediction of the learner is NaN or infinite.
    """
    steps = milestones(learner.default_steps) if steps is None else list(steps)
    by_steps = axis == "gradient steps"
    after = steps if by_steps else steps[-1:]
    rows: list[dict[str, Tensor]] = []
    for first in range(0, num_tasks, TASKS_AT_ONCE):
        count = min(TASKS_AT_ONCE, num_tasks - first)
        by_column: list[dict[str, Tensor]] = []
        for shot in shots[-1:] if by_steps else shots:
            batch = draw(sampler, count, shot, seed=seed, first=first).to(learner.device)
            outputs = learner.predict(batch.support_x, batch.support_y, batch.query_x, after=after)
            if not is_finite(outputs):
                check_weights(learner)
                raise NotFiniteError("what the learner predicts")
            by_column += [scores(output, batch.query_y) for output in outputs]
        rows.append({m: torch.stack([c[m] for c in by_column], 1) for m in by_column[0]})
    return FewShotCurve(
        axis=axis,
        experience=steps if by_steps else list(shots),
        scores={m: torch.cat([row[m] for row in rows]).double().cpu() for m in rows[0]},
    )


def milestones(last: int) -> list[int]:
    """0, 1, … 5, 10, 20, 50, 100, … below `last`, and `last`."""
    steps = [*range(6), *(unit * 10**power for power in range(1, 6) for unit in (1, 2, 5))]
    return [*(n for n in steps if n < last), last]


def summarize_few_shot(curve: FewShotCurve) -> dict[str, Estimate]:
    """Mean of each column over tasks with its 95 % interval, by measure."""
    return {
        measure: estimate(scores.numpy(), bounds=BOUNDS.get(measure, REAL))
        for measure, scores in curve.scores.items()
    }


def nearest_neighbour(batch: FewShotBatch, num_ways: int) -> Float[Tensor, "N Q W"]:
    """The label of the nearest support example in input space, as one-hot outputs.

    A learner that does not beat it has learned nothing about its inputs.
    """
    distance = torch.cdist(batch.query_x.flatten(2), batch.support_x.flatten(2))
    label = batch.support_y.gather(1, distance.argmin(2))
    return F.one_hot(label, num_ways).to(distance.dtype)


def nearest_neighbour_curve(
    sampler: EpisodeSampler,
    num_ways: int,
    *,
    shots: Sequence[int],
    num_tasks: int = 600,
    seed: int = 0,
) -> FewShotCurve:
    """Accuracy of the nearest neighbour on the tasks that `few_shot_curve` draws."""
    rows = []
    for first in range(0, num_tasks, TASKS_AT_ONCE):
        count = min(TASKS_AT_ONCE, num_tasks - first)
        batches = [draw(sampler, count, shot, seed=seed, first=first) for shot in shots]
        rows.append(
            torch.stack(
                [task_accuracies(nearest_neighbour(b, num_ways), b.query_y) for b in batches], 1
            )
        )
    accuracy = torch.cat(rows).double()
    return FewShotCurve(axis="shots", experience=list(shots), scores={"accuracy": accuracy})


def draw(
    sampler: EpisodeSampler, num_tasks: int, shots: int, *, seed: int, first: int
) -> FewShotBatch:
    """The `num_tasks` tasks of an evaluation from number `first` on."""
    rng = np.random.default_rng(derive_seed(seed, "episodes", shots, first))
    return sampler.sample(num_tasks, rng, shots=shots)


SHOTS, SHOTS_OF_FUNCTIONS = (1, 5), (5, 10)  # one point says little about a function


class Judged(NamedTuple):
    """Scores of a learner; all numbers of shots use the same tasks."""

    shots: list[int]
    steps: list[int]
    num_queries: int
    scores: dict[str, Float[Tensor, "N shots steps"]]
    """Scores by measure; a diverged loss is infinite."""
    pixels: Float[Tensor, "N shots"] | None
    """Accuracy of the nearest neighbour in pixel space on the same tasks; None without images."""


def judge(
    learner: FewShotLearner,
    sampler: EpisodeSampler,
    shape: FewShotShape,
    *,
    shots: Sequence[int],
    num_tasks: int,
    seed: int,
) -> Judged:
    """Evaluates a learner on `num_tasks` tasks, for all its numbers of gradient steps.

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
            learner, sampler, axis="gradient steps", shots=[number], num_tasks=num_tasks, seed=seed
        )
        for number in shots
    ]
    pixels = None
    if shape.classification and len(shape.input_shape) == 3:  # images
        curve = nearest_neighbour_curve(
            sampler, shape.num_outputs, shots=shots, num_tasks=num_tasks, seed=seed
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
