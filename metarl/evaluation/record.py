"""Stored evaluation of an agent: every score of every task, and the setting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import torch
from pydantic import BaseModel, Field, FiniteFloat, ValidationError, create_model, model_validator

from metarl.config import Fraction, Size
from metarl.errors import UserError, printable
from metarl.evaluation.setting import Setting
from metarl.evaluation.statistics import (
    Estimate,
    Summary,
    said_of_intervals,
    success_after,
    summarize,
)
from metarl.learning.belief import BeliefCurve
from metarl.system.files import check_shape, first_problem, parse_json, read_text, written_whole
from metarl.types import AdaptationCurve, EvaluationProtocol

E = TypeVar("E")  # an evaluation
P = TypeVar("P", bound=BaseModel)  # the stored data per task
T = TypeVar("T")
Count = Annotated[int, Field(ge=0)]
CHECKSUM = "sha256"
"""Key of the checksum in a file of results; the checksum covers all other content."""

METAWORLD = EvaluationProtocol(name="metaworld", adaptation_episodes=10, test_episodes=3, goals=40)
"""Meta-World's documented protocol."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluation of one agent on a set of tasks: the data of tables, pictures and reports."""

    experiment: str
    agent: str
    """The kind of agent, e.g. `rl2`."""
    seed: Count
    env_steps: Count
    """Env steps that the agent had been trained for."""
    distribution: str
    split: str
    split_hash: str
    horizon: Size
    """Steps of an episode."""
    slots_per_task: Size
    """Episodes played side by side; a score is the mean over them."""
    options: dict[str, Any]
    """Options of `evaluate.py` that the result depends on."""
    parameters: list[list[float]]
    """Parameters of each task."""
    goals: list[list[float]] | None
    """Goal of each task, a position or a speed; None for tasks without such a goal."""
    curve: AdaptationCurve
    environment: dict[str, Any]
    """Versions, machine and command."""
    reward_version: str | None = None
    """Version of the rewards; None if rewards have no versions or it was not stored."""
    belief: BeliefCurve | None = None
    """What the agent believed about its tasks; None if it has no belief."""

    @property
    def total_episodes(self) -> int:
        """Number of episodes played on each task."""
        return len(self.curve.experience) * self.slots_per_task

    @property
    def setting(self) -> Setting:
        """Properties that must be equal for a comparison."""
        return Setting(
            experiment=self.experiment,
            seed=self.seed,
            distribution=self.distribution,
            split_hash=self.split_hash,
            horizon=self.horizon,
            reward_version=self.reward_version,
            total_episodes=self.total_episodes,
            slots_per_task=self.slots_per_task,
        )

    @cached_property
    def summary(self) -> tuple[Summary, dict[str, Summary]]:
        """Summary of all tasks, and of each class."""
        return summarize(self.curve, threshold=self.options["threshold"], seed=self.options["seed"])

    def test_success(self) -> tuple[Estimate, dict[str, Estimate]] | None:
        """Success in the test episodes of Meta-World's protocol, of all tasks and of each class;
        None for other protocols."""
        if self.options["protocol"] != "metaworld":
            return None
        return success_after(self.curve, adaptation_episodes=METAWORLD.adaptation_episodes)

    def intervals(self) -> str:
        """Kind of the intervals and what they are over, in words."""
        names = self.curve.env_names
        said = said_of_intervals(names, len(names), bounded="success")
        return f"{said}; 1 seed: runs are not resampled"

    def protocol(self) -> str:
        """The protocol of the evaluation, in a sentence."""
        played = f"{count(self.total_episodes, 'episode')} of {count(self.horizon, 'step')} each"
        if self.slots_per_task > 1:
            played += f", {self.slots_per_task} side by side"
        names = self.curve.env_names
        return (
            f"{count(len(names), 'task')} of the {self.split} split of "
            f"{self.distribution} ({count(len(set(names)), 'class')}, "
            f"split {self.split_hash[:12]}), {played}, 1 agent (seed {self.seed}) after "
            f"{self.env_steps:,} env steps, "
            f"{'greedy' if self.options['greedy'] else 'sampled'} actions; "
            f"{self.intervals()}"
        )

    def write(self, path: Path) -> None:
        """Stores the evaluation as JSON, with its summary."""
        overall, by_class = self.summary
        stored = {name: getattr(self, name) for name in STORED}
        stored["belief"] = self.belief and asdict(self.belief)
        stored["protocol"] = self.protocol()
        stored["overall"] = asdict(overall)
        stored["by_class"] = {name: asdict(summary) for name, summary in by_class.items()}
        stored["per_task"] = {
            "env_name": self.curve.env_names,
            "parameters": self.parameters,
            "goal": self.goals,
            "experience": self.curve.experience,
            "scores": {m: scores.tolist() for m, scores in self.curve.scores.items()},
        }
        if success := self.test_success():
            stored["metaworld"] = {
                "success": asdict(success[0]),
                "by_class": {name: asdict(estimate) for name, estimate in success[1].items()},
            }
        write_stored(path, stored)

    @staticmethod
    def read(path: Path) -> Evaluation:
        """The evaluation that `write` stored.

        Raises:
            UserError: there is none, or it is of another version or damaged.
        """

        def parse(facts: dict[str, Any], tasks: _PerTask) -> Evaluation:
            at_once = facts["slots_per_task"]
            if tasks.experience != [at_once * column for column in range(len(tasks.experience))]:
                raise ValueError(f"experience is {tasks.experience}, {at_once} episodes at once")
            _Options.model_validate(facts["options"], strict=True)
            return Evaluation(
                **facts,
                parameters=tasks.parameters,
                goals=tasks.goal,
                curve=AdaptationCurve(
                    env_names=tasks.env_name,
                    experience=tasks.experience,
                    scores={
                        m: torch.tensor(v, dtype=torch.float64) for m, v in tasks.scores.items()
                    },
                ),
            )

        return read_stored(path, parse, facts=plain_fields(Evaluation, STORED), per_task=_PerTask)


class _Options(BaseModel):
    """The required options; others may be present too."""

    protocol: Literal["curve", "metaworld"]
    episodes: Size | None = None
    greedy: bool
    threshold: Fraction
    seed: Count


class _PerTask(BaseModel):
    """The part of a stored evaluation that has a row for each task."""

    env_name: Annotated[list[str], Field(min_length=1)]
    parameters: list[list[float]]
    goal: list[list[float]] | None
    experience: Annotated[list[Count], Field(min_length=1)]
    scores: dict[str, list[list[FiniteFloat]]]

    @model_validator(mode="after")
    def _is_rectangular(self) -> _PerTask:
        rows, columns = len(self.env_name), len(self.experience)
        if len(self.parameters) != rows or len(self.goal or self.parameters) != rows:
            raise ValueError(f"parameters and goals should be those of {count(rows, 'task')}")
        if missing := {"return", "success_any", "success_last"} - self.scores.keys():
            raise ValueError(f"there should be scores of {min(missing)}")
        for measure, scores in self.scores.items():
            check_shape(scores, (rows, columns), name=measure)
            if measure.startswith("success") and not all(0 <= s <= 1 for r in scores for s in r):
                raise ValueError(f"{measure} should be shares from 0 to 1")
        return self


def said_of_published(evaluation: Evaluation, path: Path) -> str:
    """Sentence on whether an evaluation equals the published one of the same run.

    Args:
        path: path of the published evaluation, if there is one.
    """
    if not path.exists():
        return f"Not stored: the run is published, and {path.name} is not a part of that"
    published = Evaluation.read(path)
    if evaluation.split_hash != published.split_hash:
        return f"Published in {path} on other tasks: nothing to compare"
    ours, theirs = evaluation.curve.scores, published.curve.scores
    differing = {
        measure: int((ours[measure] != theirs[measure]).any(1).sum())
        for measure in ours
        if not torch.equal(ours[measure], theirs[measure])
    }
    if not differing:
        return f"Every score of every task is as published in {path}"
    tasks = len(evaluation.curve.env_names)
    return f"Not as published in {path}: " + "; ".join(
        f"{measure} differs in {count} of {tasks} tasks (mean {float(theirs[measure].mean()):.4g} "
        f"there, {float(ours[measure].mean()):.4g} here)"
        for measure, count in differing.items()
    )


STORED = tuple(
    field.name for field in fields(Evaluation) if field.name not in ("parameters", "goals", "curve")
)


def stored_file(folder: Path, split: str, options: Mapping[str, Any], *, trained_for: int) -> Path:
    """Path of the stored evaluation of a run.

    Args:
        options: given options that change the result; the file is named after them.
        trained_for: env steps, or tasks, of the checkpoint.
    """
    parts = [split, str(trained_for)]
    for key, value in options.items():
        if key not in ("split", "checkpoint"):
            values = value if isinstance(value, list) else [value]
            text = "-".join(str(one).removesuffix(".yaml").replace("/", "-") for one in values)
            parts.append(f"{key}-{text}")
    return folder / "eval" / f"{'_'.join(parts)}.json"


def plain_fields(kind: type, names: Collection[str]) -> dict[str, Any]:
    """Types and defaults of some fields of a dataclass, in the form of pydantic's
    `create_model`."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: (hints[field.name], ... if field.default is MISSING else field.default)
        for field in fields(kind)
        if field.name in names
    }


def write_stored(path: Path, stored: Mapping[str, Any]) -> None:
    """Writes results as JSON with their checksum, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_text(
            json.dumps({**stored, CHECKSUM: _checksum(stored)}, indent=1), encoding="utf-8"
        )


def read_stored(
    path: Path,
    parse: Callable[[dict[str, Any], P], E],
    *,
    facts: dict[str, Any],
    per_task: type[P],
) -> E:
    """Reads an evaluation from JSON.

    Args:
        parse: makes the evaluation from its facts and its data per task; a ValueError it raises
            becomes part of the message.
        facts: types and defaults of the facts; see `plain_fields`.
        per_task: pydantic model of the data per task.

    Raises:
        UserError: there is none, or it is of another version or damaged.
    """
    model = create_model("Stored", per_task=(per_task, ...), **facts)
    try:
        stored = dict(read_checked(path, model))
        return parse(stored, stored.pop("per_task"))
    except FileNotFoundError:
        raise UserError(f"no stored evaluation {path}; leave --stored out to play it") from None
    except (UserError, ValueError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else printable(error)
        reason = reason.removeprefix(f"cannot read {path}: ")
        raise UserError(f"{path} cannot be read ({reason}); leave --stored out") from None


def read_checked(path: Path, kind: type[T]) -> T:
    """The values that `write_stored` wrote, as a pydantic model or a dataclass.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is damaged or holds something else.
    """
    text = read_text(path)
    values = parse_json(text, kind, source=str(path))
    # Files from before there were checksums have none.
    stored = json.loads(text)
    if stored.pop(CHECKSUM, None) not in (None, _checksum(stored)):
        raise UserError(f"{path} was changed since it was written: its checksum is another")
    return values


def _checksum(stored: Mapping[str, Any]) -> str:
    """SHA-256 of values, independent of their layout in a file."""
    as_read = json.loads(json.dumps(stored))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 task`, `2,000 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
