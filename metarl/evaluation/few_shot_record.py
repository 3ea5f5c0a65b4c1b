"""Stored evaluation of a few-shot learner: every score of every task, and the setting."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, FiniteFloat
from torch import Tensor

from metarl import renames
from metarl.config import Size
from metarl.evaluation.few_shot import summarize_few_shot
from metarl.evaluation.record import (
    Count,
    count,
    plain_fields,
    read_stored,
    write_stored,
)
from metarl.evaluation.statistics import Estimate, said_of_intervals
from metarl.system.files import check_shape
from metarl.types import FewShotCurve


@dataclass(frozen=True, kw_only=True)
class FewShotEvaluation:
    """Evaluation of one learner: the data of tables, pictures and reports."""

    experiment: str
    agent: str
    """The kind of learner, e.g. `maml`."""
    seed: Count
    tasks: Count
    """Tasks that the learner had been trained on."""
    distribution: str
    split: str
    split_hash: str
    num_ways: Size | None
    """Classes of a task; None for regression of functions."""
    num_queries: Size
    """Query examples of a task."""
    batch_norm: str
    """Source of the statistics of batch normalisation; see `metarl.nn.encoders`."""
    shots: list[int]
    """Support examples per class, or per function; rising."""
    steps: list[int]
    """Gradient steps on a task, rising; only 0 for a learner that takes none."""
    options: dict[str, Any]
    """Options of `evaluate.py` that the result depends on."""
    scores: dict[str, Float[Tensor, "N shots steps"]]
    """Scores by measure: `loss`, infinite if gradient steps diverged, and `accuracy` of classes."""
    pixels: Float[Tensor, "N shots"] | None
    """Accuracy of the nearest neighbour in pixel space on the same tasks; None without images."""
    environment: dict[str, Any]
    """Versions, machine and command."""

    @property
    def num_tasks(self) -> int:
        """Number of evaluated tasks."""
        return len(self.scores["loss"])

    @property
    def measures(self) -> list[str]:
        """Names of the measures, accuracy first."""
        return [measure for measure in ("accuracy", "loss") if measure in self.scores]

    @cached_property
    def by_steps(self) -> list[dict[str, Estimate]]:
        """For each number of shots, estimates by measure, one column per number of gradient
        steps."""
        return [
            self._summary({m: s[:, k] for m, s in self.scores.items()}, "gradient steps")
            for k in range(len(self.shots))
        ]

    @cached_property
    def by_shots(self) -> dict[str, Estimate]:
        """Estimates by measure after all gradient steps, one column per number of shots."""
        return self._summary({m: s[:, :, -1] for m, s in self.scores.items()}, "shots")

    @cached_property
    def nearest_neighbour(self) -> Estimate | None:
        """Accuracy of the nearest neighbour, one column per number of shots."""
        if self.pixels is None:
            return None
        return self._summary({"accuracy": self.pixels}, "shots")["accuracy"]

    @cached_property
    def above_pixels(self) -> Estimate | None:
        """Accuracy minus that of the nearest neighbour, paired by task."""
        if self.pixels is None:
            return None
        gain = self.scores["accuracy"][:, :, -1] - self.pixels
        return self._summary({"gain": gain}, "shots")["gain"]

    def _summary(self, scores: dict[str, Tensor], axis: str) -> dict[str, Estimate]:
        by_steps = axis == "gradient steps"
        curve = FewShotCurve(
            axis="gradient steps" if by_steps else "shots",
            experience=self.steps if by_steps else self.shots,
            scores=scores,
        )
        return summarize_few_shot(curve)

    def intervals(self) -> str:
        """Kind of the intervals and what they are over, in words."""
        bounded = "accuracy" if "accuracy" in self.scores else None
        said = said_of_intervals(None, self.num_tasks, bounded=bounded)
        return f"{said}; 1 seed: runs are not resampled"

    def protocol(self) -> str:
        """The protocol of the evaluation, in a sentence."""
        *fewer, most = (str(number) for number in self.shots)
        examples = f"{', '.join(fewer)} and {most}" if fewer else most
        kinds = "" if self.num_ways is None else f" of each of {self.num_ways} classes"
        return (
            f"{count(self.num_tasks, 'task')} of the {self.split} split of {self.distribution} "
            f"(split {self.split_hash[:12]}) with {examples} shots{kinds}, "
            f"{count(self.num_queries, 'query example')} a task, BatchNorm: {self.batch_norm}, "
            f"1 learner (seed {self.seed}) after {self.tasks:,} tasks; "
            f"{self.intervals()}"
        )

    def write(self, path: Path) -> None:
        """Stores the evaluation as JSON, with its summary."""
        stored = {name: getattr(self, name) for name in STORED}
        stored["protocol"] = self.protocol()
        stored["by_shots"] = {m: asdict(estimate) for m, estimate in self.by_shots.items()}
        stored["by_steps"] = [
            {"shots": shots} | {m: asdict(estimate) for m, estimate in summary.items()}
            for shots, summary in zip(self.shots, self.by_steps, strict=True)
        ]
        if self.nearest_neighbour is not None and self.above_pixels is not None:
            stored["nearest_neighbour"] = asdict(self.nearest_neighbour)
            stored["above_nearest_neighbour"] = asdict(self.above_pixels)
        stored["per_task"] = {
            "scores": {measure: scores.tolist() for measure, scores in self.scores.items()},
            "nearest_neighbour": None if self.pixels is None else self.pixels.tolist(),
        }
        write_stored(path, infinite_as_null(stored))

    @staticmethod
    def read(path: Path) -> FewShotEvaluation:
        """The evaluation that `write` stored.

        Raises:
            UserError: there is no such file, or it is of another version or damaged.
        """

        def parse(facts: dict[str, Any], tasks: _PerTask) -> FewShotEvaluation:
            facts = renames.renamed(facts, renames.FEW_SHOT_OPTIONS)
            shots, steps, ways = facts["shots"], facts["steps"], facts["num_ways"]
            rows = len(tasks.scores.get("loss", []))
            if not rows or tasks.scores.keys() != {"loss", *(["accuracy"] if ways else [])}:
                raise ValueError(f"it has scores of {', '.join(tasks.scores)}")
            for measure, scores in tasks.scores.items():
                check_shape(scores, (rows, len(shots), len(steps)), name=measure)
            if tasks.nearest_neighbour is not None:
                check_shape(tasks.nearest_neighbour, (rows, len(shots)), name="nearest_neighbour")
            for name, least, numbers in (("shots", 1, shots), ("steps", 0, steps)):
                if not numbers or numbers[0] < least or numbers != sorted(set(numbers)):
                    raise ValueError(f"{name} {numbers} should be rising")
            _Options.model_validate(facts["options"], strict=True)
            pixels = tasks.nearest_neighbour
            return FewShotEvaluation(
                **facts,
                scores={
                    measure: torch.tensor(
                        [[diverged_as_infinite(row) for row in rows] for rows in scores],
                        dtype=torch.float64,
                    )
                    for measure, scores in tasks.scores.items()
                },
                pixels=None if pixels is None else torch.tensor(pixels, dtype=torch.float64),
            )

        facts = plain_fields(FewShotEvaluation, STORED)
        return read_stored(path, parse, facts=facts, per_task=_PerTask)


class _Options(BaseModel):
    """The required option; others may be present too."""

    seed: Count


class _PerTask(BaseModel):
    """The part of a stored evaluation that has a row for each task."""

    scores: dict[str, list[list[list[float | None]]]]
    nearest_neighbour: list[list[FiniteFloat]] | None


def diverged_as_infinite(values: list[float | None]) -> list[float]:
    """Numbers of a stored row, with infinity in place of None."""
    return [math.inf if value is None else value for value in values]


def infinite_as_null(stored: Any) -> Any:
    """Values that JSON can hold: None in place of NaN and infinity."""
    if isinstance(stored, dict):
        return {key: infinite_as_null(value) for key, value in stored.items()}
    if isinstance(stored, list):
        return [infinite_as_null(value) for value in stored]
    return None if isinstance(stored, float) and not math.isfinite(stored) else stored


STORED = tuple(
    field.name for field in fields(FewShotEvaluation) if field.name not in ("scores", "pixels")
)
