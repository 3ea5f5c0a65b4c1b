"""Few-shot learning, whatever learns: what an iteration of training is, and how well a learner does
on tasks that it never saw, with honest intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from metarl.errors import NotFiniteError
from metarl.evaluation import REAL, SHARE, Estimate, estimate
from metarl.finite import check_weights, is_finite
from metarl.protocols import EpisodeSampler, FewShotLearner
from metarl.seeding import derive_seed, torch_generator
from metarl.types import FewShotBatch, FewShotCurve

MEASURES = ("loss", "accuracy")
"""Of the query; what else a learner measures is about its update."""
BOUNDS = {"accuracy": SHARE, "gain": (-1.0, 1.0), "loss": (0.0, math.inf)}
"""Between what measures lie; a gain is a difference of accuracies."""
TASKS_AT_ONCE = 8
"""Tasks that are judged together; decides which tasks are drawn too, so it is no option."""


def task_losses(
    output: Float[Tensor, "N B W"], target: Shaped[Tensor, "N B *W"]
) -> Float[Tensor, " N"]:
    """Of each task, the mean over its examples: cross-entropy where targets are labels (in nats),
    else squared error (the mean over what is regressed)."""
    if target.is_floating_point():
        return (output - target).square().mean((1, 2))
    return F.cross_entropy(output.transpose(1, 2), target, reduction="none").mean(1)


def task_accuracies(
    output: Float[Tensor, "N B W"], target: Int[Tensor, "N B"]
) -> Float[Tensor, " N"]:
    """Of each task, the share of examples whose largest output is their label's."""
    return (output.argmax(-1) == target).to(output.dtype).mean(1)


def scores(
    output: Float[Tensor, "N B W"], target: Shaped[Tensor, "N B *W"]
) -> dict[str, Float[Tensor, " N"]]:
    """`loss`, and `accuracy` where targets are labels, of each task."""
    measured = {"loss": task_losses(output, target)}
    if not target.is_floating_point():
        measured["accuracy"] = task_accuracies(output, target)
    return measured


def learn_from_tasks(
    learner: FewShotLearner,
    sampler: EpisodeSampler,
    *,
    num_tasks: int,
    updates: int,
    seed: int,
    iteration: int,
) -> dict[str, float]:
    """One iteration of training: meta-updates on `num_tasks` tasks each, and the means of what to
    log of them. All randomness follows from (seed, iteration)."""
    started, drawing = time.perf_counter(), 0.0
    rng = np.random.default_rng(derive_seed(seed, "tasks", iteration))
    generator = torch_generator(derive_seed(seed, "agent", iteration), learner.device)
    learned: list[dict[str, float]] = []
    for _ in range(updates):
        before = time.perf_counter()
        batch = sampler.sample(num_tasks, rng).to(learner.device)
        drawing += time.perf_counter() - before
        learned.append(learner.meta_update(batch, generator=generator))
    metrics = {name: sum(each[name] for each in learned) / updates for name in learned[0]}
    return {
        **{
            f"{'train' if name in MEASURES else 'update'}/{name}": value
            for name, value in metrics.items()
        },
        "timing/draw_s": drawing,
        "timing/update_s": time.perf_counter() - started - drawing,
    }


def few_shot_curve(
    learner: FewShotLearner,
    sampler: EpisodeSampler,
    *,
    axis: Literal["gradient steps", "shots"],
    episodes: int = 600,
    steps: Sequence[int] | None = None,
    shots: Sequence[int],
    seed: int = 0,
) -> FewShotCurve:
    """How a learner does on tasks of a split.

    Args:
        learner: is not changed.
        sampler: draws the tasks; the same ones for every learner with the same `seed` and `shots`.
        axis: `gradient steps`: a column for each number in `steps`, with the last of `shots`.
            `shots`: a column for each number in `shots`, after the last of `steps`.
        episodes: tasks.
        steps: numbers of gradient steps, rising; where not given, those up to the learner's own.
        shots: support examples of a class, or of a function.
        seed: of the tasks and their examples.

    Raises:
        NotFiniteError: what it predicts is NaN or infinite.
    """
    steps = milestones(learner.default_steps) if steps is None else list(steps)
    by_steps = axis == "gradient steps"
    after = steps if by_steps else steps[-1:]
    rows: list[dict[str, Tensor]] = []
    for first in range(0, episodes, TASKS_AT_ONCE):
        count = min(TASKS_AT_ONCE, episodes - first)
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
    """By measure, the mean over tasks of each column with its 95 % interval."""
    return {
        measure: estimate(scores.numpy(), bounds=BOUNDS.get(measure, REAL))
        for measure, scores in curve.scores.items()
    }


def nearest_neighbour(batch: FewShotBatch, num_ways: int) -> Float[Tensor, "N Q W"]:
    """The label of the support example that is nearest in input space, as one-hot outputs: what a
    learner has to beat to have learned anything of its inputs."""
    distance = torch.cdist(batch.query_x.flatten(2), batch.support_x.flatten(2))
    label = batch.support_y.gather(1, distance.argmin(2))
    return F.one_hot(label, num_ways).to(distance.dtype)


def nearest_neighbour_curve(
    sampler: EpisodeSampler,
    num_ways: int,
    *,
    shots: Sequence[int],
    episodes: int = 600,
    seed: int = 0,
) -> FewShotCurve:
    """The nearest neighbour on the episodes that `few_shot_curve` judges a learner by."""
    rows = []
    for first in range(0, episodes, TASKS_AT_ONCE):
        count = min(TASKS_AT_ONCE, episodes - first)
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
    """Tasks number `first` and on of an evaluation."""
    rng = np.random.default_rng(derive_seed(seed, "episodes", shots, first))
    return sampler.sample(num_tasks, rng, shots=shots)
