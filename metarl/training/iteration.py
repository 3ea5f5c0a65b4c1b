"""One iteration of training: its random streams, its timings and its metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from metarl.errors import UserError
from metarl.learning.few_shot import MEASURES
from metarl.protocols import AgentConfig
from metarl.rollout.curve import adaptation_curve
from metarl.system import ranks
from metarl.system.seeding import derive_seed
from metarl.tasks import Task
from metarl.types import Rollout, TimeStep, TrialShape

T = TypeVar("T")


class Iteration:
    """Random streams and metrics of an iteration.

    Every stream is derived from (seed, number), so a resumed run equals an uninterrupted one bit
    for bit.

    Args:
        seed: seed of the run.
        number: number of finished iterations.
        device: device of the agent.
    """

    def __init__(self, seed: int, number: int, device: torch.device) -> None:
        self.task_rng = np.random.default_rng(derive_seed(seed, "tasks", number))
        """Draws the tasks."""
        self.env_seed = derive_seed(seed, "env", number)
        """Seeds the environments."""
        self.generator = ranks.OwnRows(device).manual_seed(derive_seed(seed, "agent", number))
        """Draws the agent's actions and everything else that the agent samples."""
        self.metrics: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the duration of its body (s) to the metric `timing/<name>_s`."""
        started = time.perf_counter()
        yield
        metric = f"timing/{name}_s"
        self.metrics[metric] = self.metrics.get(metric, 0.0) + time.perf_counter() - started

    def each_timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time that each takes to come is added to `timing/<name>_s`."""
        found = iter(items)
        while True:
            with self.timed(name):
                item = next(found, None)
            if item is None:
                return
            yield item

    def log(self, metrics: Mapping[str, float], *, group: str | None = None) -> None:
        """Adds metrics; `group` becomes the part of their names before the slash."""
        self.metrics |= {f"{group}/{k}" if group else k: value for k, value in metrics.items()}


def whole(parts: Sequence[list[Rollout]]) -> list[Rollout]:
    """The rollouts of a trial that was played in parts."""
    if len(parts) == 1:
        return parts[0]
    return [Rollout.one_after_another([rollout for part in parts for rollout in part])]


def same_stream(generator: torch.Generator) -> None:
    """Sets a generator to the state that it has on the first rank: what an agent draws by itself
    while it plays depends on its number of slots."""
    if ranks.number() > 1:
        generator.set_state(ranks.from_first(generator.get_state()))


def to_learn_from(trial: list[Rollout], config: AgentConfig) -> list[Rollout]:
    """The rollouts that an agent learns from: those on this rank's tasks, if it sums over ranks
    itself, or those on the tasks of all ranks."""
    if ranks.number() == 1 or getattr(config, "learns_on_ranks", False):
        return trial
    return [_of_all_ranks(rollout) for rollout in trial]


def _of_all_ranks(rollout: Rollout) -> Rollout:
    gathered: dict[str, Any] = {}
    for field in fields(rollout):
        values = getattr(rollout, field.name)
        if isinstance(values, TimeStep):
            gathered[field.name] = values.map(ranks.gathered)
        elif isinstance(values, Tensor):
            gathered[field.name] = ranks.gathered(values)
        elif values is not None:
            raise UserError(
                f"the agent's state is a {type(values).__name__}, which ranks cannot gather; leave "
                "out train.rollout_steps, or make it a tensor with one row a slot"
            )
    return Rollout(**gathered)


def means(learned: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of metrics over several updates."""
    return {name: sum(each[name] for each in learned) / len(learned) for name in learned[0]}


def episode_metrics(
    trial: list[Rollout], tasks: Sequence[Task], shape: TrialShape, *, by_class: bool
) -> dict[str, float]:
    """Mean return and success: over all episodes, over first and over last episodes of the trials.

    The gap between first and last episode is what the agent gained by adapting.

    Args:
        trial: rollouts of the trial, on this rank's tasks.
        tasks: tasks of the meta-batch, of all ranks.
        shape: layout of the episodes.
        by_class: also gives the last episode's means for each class of tasks.
    """
    env_names = [task.env_name for task in tasks]
    own = ranks.share_of(len(tasks)).of(env_names)
    curve = adaptation_curve(trial, own, slots_per_task=shape.slots_per_task)
    measures = {"return": curve.scores["return"], "success": curve.scores["success_any"]}
    measures = {measure: ranks.gathered(scores) for measure, scores in measures.items()}
    metrics = {f"train/{measure}": float(scores.mean()) for measure, scores in measures.items()}
    for measure, scores in measures.items():
        metrics[f"{measure}/first_episode"] = float(scores[:, 0].mean())
        metrics[f"{measure}/last_episode"] = float(scores[:, -1].mean())
        for name in dict.fromkeys(env_names) if by_class else ():
            rows = [row for row, of_row in enumerate(env_names) if of_row == name]
            metrics[f"classes/{measure}/{name}"] = float(scores[rows, -1].mean())
    return metrics


def update_metrics(learned: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the meta-updates of an iteration of few-shot learning.

    Query loss and accuracy become `train/loss` and `train/accuracy`, every other measure of the
    learner becomes `update/...`.
    """
    return {
        f"{'train' if name in MEASURES else 'update'}/{name}": value
        for name, value in means(learned).items()
    }
