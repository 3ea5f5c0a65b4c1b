"""What an evaluation stores: every score of every task, and how it was played."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from metarl.comparison import Setting
from metarl.errors import UserError
from metarl.evaluation import Estimate, Summary, said_of_intervals, success_after, summarize
from metarl.files import written_whole
from metarl.types import AdaptationCurve

E = TypeVar("E")  # an evaluation

METAWORLD_ADAPTATION_EPISODES = 10
"""Before the test episodes of Meta-World's documented protocol."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One agent's trials on a set of tasks: all that tables, pictures and reports are made of."""

    experiment: str
    agent: str
    """The kind of agent, e.g. `rl2`."""
    seed: int
    env_steps: int
    """What the agent had been trained for."""
    distribution: str
    split: str
    split_hash: str
    horizon: int
    """Steps of an episode."""
    slots_per_task: int
    """Episodes that were played side by side; a score is the mean over them."""
    options: dict[str, Any]
    """How it was played, as `evaluate.py` was told."""
    parameters: list[list[float]]
    """Of each task."""
    goals: list[list[float]] | None
    """Where, or how fast, each task wants the agent to be; None where tasks have no such goal."""
    curve: AdaptationCurve
    environment: dict[str, Any]
    """Versions, machine and command."""
    reward_version: str | None = None
    """Of the tasks' rewards, where they have versions; None also where it was not written down."""

    @property
    def total_episodes(self) -> int:
        """Episodes that each task was played for."""
        return len(self.curve.experience) * self.slots_per_task

    @property
    def setting(self) -> Setting:
        """What has to be alike where it is compared."""
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
        """Of all tasks, and of each class."""
        return summarize(self.curve, threshold=self.options["threshold"], seed=self.options["seed"])

    def test_success(self) -> tuple[Estimate, dict[str, Estimate]] | None:
        """Success in the test episodes of Meta-World's protocol, of all tasks and of each class;
        None where it was played by another one."""
        if self.options["protocol"] != "metaworld":
            return None
        return success_after(self.curve, adaptation_episodes=METAWORLD_ADAPTATION_EPISODES)

    def intervals(self) -> str:
        """What they are over, and which, in words."""
        names = self.curve.env_names
        said = said_of_intervals(names, len(names), bounded="success")
        return f"{said}; 1 seed: runs are not resampled"

    def protocol(self) -> str:
        """What was played, in a sentence."""
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
        """Stores it as JSON, with its summary."""
        overall, by_class = self.summary
        stored = {name: getattr(self, name) for name in STORED}
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
        """What `write` stored.

        Raises:
            UserError: there is none, or it is of another version or damaged.
        """

        def parse(stored: dict[str, Any]) -> Evaluation:
            tasks = stored["per_task"]
            scores = {m: torch.tensor(v, dtype=torch.float64) for m, v in tasks["scores"].items()}
            return Evaluation(
                **{name: stored[name] for name in STORED if name in stored},
                parameters=tasks["parameters"],
                goals=tasks["goal"],
                curve=AdaptationCurve(
                    env_names=tasks["env_name"], experience=tasks["experience"], scores=scores
                ),
            )

        return read_stored(path, parse)


def said_of_published(evaluation: Evaluation, path: Path) -> str:
    """Whether an evaluation is what was published of the same run, in a sentence.

    Args:
        path: of the published one, if there is one.
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
    """Where an evaluation of a run is stored.

    Args:
        options: those that were given and change it; it is named after them.
        trained_for: env steps, or tasks, of the checkpoint.
    """
    parts = [split, str(trained_for)]
    for key, value in options.items():
        if key not in ("split", "checkpoint"):
            values = value if isinstance(value, list) else [value]
            text = "-".join(str(one).removesuffix(".yaml").replace("/", "-") for one in values)
            parts.append(f"{key}-{text}")
    return folder / "eval" / f"{'_'.join(parts)}.json"


def write_stored(path: Path, stored: Mapping[str, Any]) -> None:
    """Writes an evaluation as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_text(json.dumps(stored, indent=1), encoding="utf-8")


def read_stored(path: Path, parse: Callable[[dict[str, Any]], E]) -> E:
    """An evaluation from JSON.

    Raises:
        UserError: there is none, or it is of another version or damaged.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"no stored evaluation {path}; leave --stored out to play it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); leave --stored out") from None


def count(number: int, noun: str) -> str:
    """A number and what it counts: `1 task`, `2,000 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
