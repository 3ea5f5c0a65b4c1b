"""Shows where a run stands, from what is stored in its folder alone.

metarl show runs/rl2_bandit/seed3

It plays and learns nothing and imports no torch, so it answers at once, also while the run trains.
"""

from __future__ import annotations

from metarl.system import stopping

if __name__ == "__main__":
    stopping.install("metarl show")  # before the imports, which take time

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from metarl import renames
from metarl.config import read_yaml
from metarl.errors import UserError, printable
from metarl.system.command_line import one_line_errors
from metarl.system.files import first_problem, read_json
from metarl.system.started import typed
from metarl.training.folder import (
    CHECKPOINTS,
    CONFIG,
    META,
    METRICS,
    checkpoints,
    is_in_training,
    read_lines,
    steps_of,
)

T = TypeVar("T")
WIDTH, HEIGHT = 64, 10
"""Columns and lines of the learning curve, without its labels."""
LARGEST = 1e100
"""Numbers beyond it, infinity too, are not shown."""
MOST_CHECKPOINTS = 6
"""Most checkpoints that are named one by one."""
MEASURES = {
    "return": ("return", ".1f"),
    "success_any": ("success at any step", ".0%"),
    "success_last": ("at the last step", ".0%"),
    "accuracy": ("accuracy", ".1%"),
    "loss": ("loss", ".3f"),
}
"""Names and formats of the measures of stored evaluations."""


class _Kind(BaseModel):
    kind: str


class _Length(BaseModel):
    env_steps: int = Field(default=0, ge=1)
    tasks: int = Field(default=0, ge=1)


class _Config(BaseModel):
    """What is read of a run's config; the rest is not looked at, nor is code of a user loaded."""

    name: str
    seed: int
    env: _Kind
    agent: _Kind
    train: _Length

    @property
    def unit(self) -> str:
        """What the run counts."""
        return "env steps" if self.train.env_steps else "tasks"

    @property
    def budget(self) -> int:
        """How many of these it trains for."""
        return self.train.env_steps or self.train.tasks


class _Estimate(BaseModel):
    value: list[float | None] = Field(min_length=1)


class _Summary(BaseModel):
    experience: list[int] = Field(min_length=1)
    mean: dict[str, _Estimate]


class _Evaluation(BaseModel):
    """What is read of a stored evaluation, of either way of learning."""

    overall: _Summary | None = None
    shots: list[int] = []
    by_shots: dict[str, _Estimate] = {}


def config_of(folder: Path) -> _Config:
    """The config of a run.

    Raises:
        UserError: there is no run, or its config is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        runs = sorted(str(each.parent) for each in folder.glob(f"*/{CONFIG}"))
        near = f"; it holds {', '.join(runs[:5])}" if runs else ""
        raise UserError(f"{folder} is no run: it has no {CONFIG}{near}")
    try:
        config = _Config.model_validate(renames.renamed(read_yaml(path), renames.EXPERIMENT))
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}") from None
    if not config.budget:
        raise UserError(f"{path}: 'train.env_steps' is missing; put it back")
    return config


def told(folder: Path) -> Iterator[str]:
    """What is known of a run, line by line; what cannot be read is a line too.

    Raises:
        UserError: there is no run, or its config is damaged.
    """
    config = config_of(folder)
    problems: list[str] = []
    saved = _or_noted(checkpoints, folder / CHECKPOINTS, otherwise=[], problems=problems)
    trains = _or_noted(is_in_training, folder, otherwise=False, problems=problems)
    lines = _or_noted(read_lines, folder / METRICS, otherwise=[], problems=problems)
    published = bool(saved) and _or_noted(
        _is_published, saved[-1], otherwise=False, problems=problems
    )
    newest = int(saved[-1].name) if saved else 0
    # Without the lock, only what is saved counts: the rest is trained again.
    done = steps_of(lines[-1]) if trains and lines else newest
    finished = newest >= config.budget
    state = "being trained now" if trains else "finished" if finished else "stopped"
    share = min(100 * done // config.budget, 100)
    title = f"{config.name}, seed {config.seed}: {config.agent.kind} on {config.env.kind}"
    yield printable(title)
    yield f"{state} at {done:,} of {config.budget:,} {config.unit} ({share} %)"
    yield ""
    if lines:
        yield from newest_metrics(lines[-1], config.unit)
        yield from learning_curve(lines, config.unit)
    else:
        yield "nothing logged yet"
    yield ""
    yield _said_of_checkpoints(saved)
    yield from stored_evaluations(folder)
    yield from problems
    yield ""
    yield "Go on with:"
    if trains:
        yield f"  tensorboard --logdir {folder}"
    elif not finished and not published:
        yield typed(f"  python train.py --resume {folder}")
    if saved:
        yield typed(f"  python evaluate.py {folder}")


def _or_noted(look: Callable[[Path], T], path: Path, *, otherwise: T, problems: list[str]) -> T:
    """What lies at a path; if it cannot be read, `otherwise`, and the problem is noted."""
    try:
        return look(path)
    except (OSError, UserError) as error:
        problems.append(printable(error))
        return otherwise


def _said_of_checkpoints(saved: Sequence[Path]) -> str:
    if not saved:
        return "no checkpoint yet"
    names = [f"{int(each.name):,}" for each in saved]
    if len(names) > MOST_CHECKPOINTS:
        names = [*names[:2], "…", *names[-(MOST_CHECKPOINTS - 2) :]]
    return f"checkpoints  {len(saved)}: {', '.join(names)}"


def _is_published(checkpoint: Path) -> bool:
    """True if a checkpoint lacks what training needs."""
    return bool(read_json(checkpoint / META, dict[str, Any]).get("published"))


# -- metrics ---------------------------------------------------------------------------------------


def number(line: Mapping[str, object], name: str) -> float | None:
    """A metric; None if the line has no number of that name that can be drawn."""
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and abs(value) < LARGEST else None


def newest_metrics(line: Mapping[str, object], unit: str) -> Iterator[str]:
    """Iteration, speed, and return and success (or loss and accuracy) of the newest iteration."""
    said = [f"iteration {number(line, 'iteration') or 0:,.0f}"]
    if (speed := number(line, "timing/env_steps_per_s")) is not None:
        said.append(f"{speed:,.0f} {unit} per second")
    yield f"newest       {', '.join(said)}"
    for name, form in (("return", ".1f"), ("success", ".0%"), ("loss", ".3f"), ("accuracy", ".1%")):
        first, last, mean = (
            number(line, key)
            for key in (f"{name}/first_episode", f"{name}/last_episode", f"train/{name}")
        )
        if first is not None and last is not None:
            yield f"{name:11}  {first:{form}} → {last:{form}}, first → last episode of a trial"
        elif mean is not None:
            yield f"{name:11}  {mean:{form}}"


def learning_curve(lines: Sequence[Mapping[str, Any]], unit: str) -> Iterator[str]:
    """The curve of success in the last episode of a trial where there is any, else of return, or
    of the loss of few-shot learning."""
    for name, form in (
        ("success/last_episode", ".0%"),
        ("return/last_episode", ".4g"),
        ("train/accuracy", ".0%"),
        ("train/loss", ".3g"),
    ):
        points = [(steps_of(line), value) for line in lines
                  if (value := number(line, name)) is not None]  # fmt: skip
        if points and (name[:7] != "success" or any(value for _, value in points)):
            yield ""
            yield f"{name} by {unit}"
            yield from drawn(points, form=form)
            return


def drawn(points: Sequence[tuple[int, float]], *, form: str) -> Iterator[str]:
    """A curve as plain characters; a column shows the mean of the points that fall into it.

    Args:
        points: steps, which rise, and values.
        form: format of the values.
    """
    first, last = points[0][0], points[-1][0]
    columns: dict[int, list[float]] = {}
    for steps, value in points:
        column = (steps - first) * (WIDTH - 1) // max(last - first, 1)
        columns.setdefault(min(max(column, 0), WIDTH - 1), []).append(value)
    means = {column: math.fsum(values) / len(values) for column, values in columns.items()}
    low, high = min(means.values()), max(means.values())
    height = {
        column: round((mean - low) / ((high - low) or 1) * (HEIGHT - 1))
        for column, mean in means.items()
    }
    labels = {HEIGHT - 1: f"{high:{form}}", 0: f"{low:{form}}"}
    for row in reversed(range(HEIGHT)):
        marks = "".join("*" if height.get(column) == row else " " for column in range(WIDTH))
        yield f"{labels.get(row, ''):>10} |{marks}".rstrip()
    yield f"{'':10} +{'-' * WIDTH}"
    yield f"{'':12}{first:<{WIDTH // 2},}{last:>{WIDTH // 2},}"


# -- evaluations -----------------------------------------------------------------------------------


def stored_evaluations(folder: Path) -> Iterator[str]:
    """A line for each stored evaluation."""
    files = sorted((folder / "eval").glob("*.json"))
    if not files:
        yield "not evaluated yet"
    for path in files:
        yield f"evaluation   {printable(path.relative_to(folder))}"
        try:
            yield from (f"  {line}" for line in headline(read_json(path, _Evaluation)))
        except (OSError, UserError) as error:
            yield f"  {printable(error)}"


def headline(evaluation: _Evaluation) -> Iterator[str]:
    """The result of an evaluation in two lines."""
    if evaluation.overall is not None:
        means, counts = evaluation.overall.mean, evaluation.overall.experience
        over = "episodes of experience"
    elif evaluation.by_shots and evaluation.shots:
        means, counts, over = evaluation.by_shots, evaluation.shots, "shots"
    else:
        yield "no summary in it"
        return
    said = []
    for measure, (name, form) in MEASURES.items():
        if measure in means:
            ends = (means[measure].value[0], means[measure].value[-1])
            said.append(f"{name} {' → '.join('–' if v is None else format(v, form) for v in ends)}")
    yield ", ".join(said)
    yield f"after {counts[0]} → {counts[-1]} {over}"


def main(arguments: Sequence[str]) -> None:
    """Runs the command line."""
    if list(arguments) in (["-h"], ["--help"]):
        print(__doc__)
        return
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("name one run: metarl show runs/EXPERIMENT/SEED")
    for line in told(Path(arguments[0])):
        print(line)


if __name__ == "__main__":
    with one_line_errors("metarl show"):
        main(sys.argv[1:])
