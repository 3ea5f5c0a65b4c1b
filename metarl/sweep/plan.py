"""What a sweep runs: trials, and the runs of each.

<sweep>/sweep.yaml                 the settings
<sweep>/base.yaml                  the config that all trials start from
<sweep>/<trial>/seed<k>/           a run, as `python train.py` makes it
<sweep>/<trial>/fold<f>_seed<k>/   the same with cross-validation
<sweep>/<trial>/seed<k>.log        what it printed
<sweep>/optuna.db                  the trials of a search
<sweep>/sweep.html, sweep.md       what came of it; its numbers lie beside it as JSON and CSV
<sweep>/.locks/                    held by the processes that train
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from metarl.config import override, read_yaml, validate, write_yaml
from metarl.errors import UserError, printable
from metarl.sweep.settings import (
    Range,
    SweepSettings,
    as_argument,
    check_apart,
    range_of,
    seeds_of,
    values_of,
)
from metarl.system.files import read_text
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import (
    Experiment,
    FewShotExperiment,
    files_named,
    load,
    told_in_a_line,
    training_shape,
)
from metarl.training.run import CHECKPOINTS, CONFIG, METRICS, checkpoint_of
from metarl.training.settings import NAME_LENGTH, FewShotTrainConfig
from metarl.training.trust import check_trusted, code_of

SETTINGS, BASE = "sweep.yaml", "base.yaml"
LOCKS = ".locks"
MOST_TRIALS = 1000
"""Most trials of a grid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedRun:
    """A run of a trial, finished or not."""

    folder: Path
    seed: int
    experiment: Experiment | FewShotExperiment
    options: dict[str, Any]
    """What differs from the base config, by dotted keys."""

    @property
    def label(self) -> str:
        """The run as messages name it."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def log(self) -> Path:
        """File of what the run prints."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def metrics(self) -> Path:
        """File of its metrics."""
        return self.folder / METRICS

    @property
    def budget(self) -> int:
        """Env steps, or tasks of few-shot learning, that it trains for."""
        plan = self.experiment.train
        return plan.tasks if isinstance(plan, FewShotTrainConfig) else plan.env_steps

    def trained_for(self) -> int | None:
        """Env steps or tasks of the newest checkpoint; None if there is no run yet.

        Raises:
            UserError: the folder holds a run with other values.
        """
        if not self.folder.exists():
            return None
        if load(self.folder / CONFIG) != self.experiment:
            raise UserError(f"{self.folder} was trained with other values; move it away")
        saved = checkpoints(self.folder / CHECKPOINTS)
        return int(saved[-1].name) if saved else 0

    def is_trained(self) -> bool:
        """True if the run has reached its budget."""
        return (self.trained_for() or 0) >= self.budget


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Some values of the varied keys, with a run for every seed (and fold)."""

    name: str
    values: dict[str, Any]
    runs: list[PlannedRun]


@dataclass(frozen=True)
class Plan:
    """All that a sweep runs.

    Args:
        folder: folder of the sweep.
        settings: its settings.
        base: the config that all trials start from.
    """

    folder: Path
    settings: SweepSettings
    base: Path

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds of every trial."""
        return seeds_of(self.settings.seeds)

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        """The values that are set."""
        return {
            key: values_of(text, source=f"--set {key}") for key, text in self.settings.set.items()
        }

    @cached_property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the values that are set; the last key changes fastest.

        Raises:
            UserError: the values cannot be read, or the combinations are too many.
        """
        count = math.prod(map(len, self.values.values()))
        if count > MOST_TRIALS:
            raise UserError(f"{count:,} trials are more than {MOST_TRIALS:,}; set fewer values")
        combined = product(*self.values.values())
        return [dict(zip(self.values, each, strict=True)) for each in combined]

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """The ranges that are searched."""
        return {
            key: range_of(text, source=f"--search {key}")
            for key, text in self.settings.search.items()
        }

    @cached_property
    def varied(self) -> list[str]:
        """The keys that differ between trials."""
        return [
            *(key for key, values in self.values.items() if len(values) > 1),
            *self.settings.search,
        ]

    def short(self, key: str) -> str:
        """A varied key as names and tables show it: its last part, if that is unique."""
        last = key.rpartition(".")[2]
        return last if [k.rpartition(".")[2] for k in self.varied].count(last) < 2 else key

    def trial(self, values: Mapping[str, Any], *, number: int | None = None) -> Trial:
        """The trial of these values.

        Args:
            values: all values that are set or searched.
            number: number of the trial in its search.

        Raises:
            UserError: the base config does not allow them.
        """
        name = self.point_name(values)
        if number is not None:
            several = len(self.grid) > 1
            name = f"{name}_trial{number:04}" if several else f"trial{number:04}"
        folds = range(1, self.settings.folds + 1) if self.settings.folds else [None]
        runs = []
        for seed, fold in product(self.seeds, folds):
            options = {**values, "name": name, "seed": seed}
            if fold is not None:
                options |= {"env.fold": fold, "env.folds": self.settings.folds}
            place = f"seed{seed}" if fold is None else f"fold{fold}_seed{seed}"
            runs.append(
                PlannedRun(
                    folder=self.folder / name / place,
                    seed=seed,
                    experiment=load(self.base, options),
                    options=options,
                )
            )
        return Trial(name=name, values={key: values[key] for key in self.varied}, runs=runs)

    def point_name(self, values: Mapping[str, Any]) -> str:
        """Name of a point of the grid, fit for a folder; of a grid of one point, the config's."""
        varied = [key for key in self.varied if key in self.values]
        said = ",".join(f"{self.short(key)}={as_argument(values[key])}" for key in varied)
        name = re.sub(r"[^\w.,=+-]+", "-", re.sub(r"[][{}\"' ]", "", said)) or self.settings.name
        if len(name.encode()) > NAME_LENGTH - len("_trial0000") or name != name.strip(".-"):
            name = f"{name[:40].strip('.-')}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
        return name

    def check(self) -> None:
        """Checks every trial of a grid, and of a search all ends of its ranges, one at a time.

        Raises:
            UserError: a value is wrong, or the tasks or the agent do not allow it.
        """
        check_apart([*self.settings.set, *self.settings.search])
        if self.settings.folds is not None and "fold" not in type(self._first.env).model_fields:
            raise UserError(f"--folds: {self._first.env.kind} has no classes to divide into folds")
        names = list(map(self.point_name, self.grid))
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"two trials would be named {twice[0]}; leave one of them out")
        checked: set[str] = set()
        for values in self.corners():
            runs = self.trial(values, number=0 if self.ranges else None).runs
            for run in runs if self.settings.folds else runs[:1]:  # seeds change no check
                what = run.experiment.model_dump_json(exclude={"name"})
                if what not in checked:
                    checked.add(what)
                    check_can_train(run.experiment)

    def corners(self) -> list[dict[str, Any]]:
        """Every trial of a grid; of a search every end of its ranges, one at a time."""
        lowest = {key: each.ends()[0] for key, each in self.ranges.items()}
        return [
            {**point, **lowest, **end}
            for point in self.grid
            for end in [{key: e} for key, each in self.ranges.items() for e in each.ends()] or [{}]
        ]

    @cached_property
    def _first(self) -> Experiment | FewShotExperiment:
        """The experiment of the first values, without folds."""
        return load(self.base, self.corners()[0])

    @property
    def few_shot(self) -> bool:
        """True if the trials are of few-shot learning."""
        return isinstance(self._first, FewShotExperiment)


def check_can_train(experiment: Experiment | FewShotExperiment) -> None:
    """Builds the tasks of an experiment, and checks that its agent can learn from them.

    Raises:
        UserError: it cannot; says why.
    """
    with told_in_a_line(experiment.model_dump()):
        if experiment.start_from is not None:
            checkpoint_of(Path(experiment.start_from))
        distribution = experiment.env.build()
        if isinstance(experiment, Experiment):
            training_shape(experiment, distribution)


def open_plan(folder: Path, *, trusted: bool = False) -> Plan:
    """The plan of a sweep that exists. Code from others is executed only if the user allows it.

    Args:
        folder: folder of the sweep.
        trusted: whether the user allows it.

    Raises:
        UserError: there is none, it is damaged, or code would have to be trusted.
    """
    plan = _stored(folder)
    base = read_yaml(plan.base)
    for code in {code for values in plan.corners() for code in files_named(override(base, values))}:
        check_trusted(code, folder, allowed=trusted)
    for code in {code_of(run.experiment.env) for run in plan.trial(plan.corners()[0]).runs}:
        check_trusted(code, folder, allowed=trusted)
    return plan


def _stored(folder: Path) -> Plan:
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder} is no sweep: it has no {SETTINGS}; name another folder")
    settings = validate(SweepSettings, read_yaml(path), source=str(path))
    return Plan(folder, settings, folder / BASE)


def make_plan(plan: Plan) -> Plan:
    """The plan in the folder of a new sweep, or of the same sweep if it was begun before.

    Raises:
        UserError: the folder holds something else, another sweep, or cannot be made.
    """
    folder = plan.folder
    text = read_text(plan.base)
    if not os.path.lexists(folder):
        partial = folder.with_name(f".partial-{folder.name}-{os.getpid()}")
        try:
            partial.mkdir(parents=True)
            write_yaml(plan.settings, partial / SETTINGS)
            (partial / BASE).write_text(text, encoding="utf-8")
            (partial / LOCKS).mkdir()
            partial.rename(folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not (folder / SETTINGS).is_file():  # else another process was faster
                raise UserError(f"cannot make {folder}: {printable(error)}") from None
    there = _stored(folder)
    if difference := there.settings.difference(plan.settings):
        raise UserError(
            f"{folder} holds a sweep with {difference}; go on with --resume {folder}, or name "
            "another --folder"
        )
    if read_text(folder / BASE) != text:
        raise UserError(
            f"{plan.base} is not what it was when {folder} was begun; go on with --resume "
            f"{folder}, or name another --folder"
        )
    settings = plan.settings.model_copy(update={"id": there.settings.id})
    if settings != there.settings:
        write_yaml(settings, folder / SETTINGS)
    return Plan(folder, settings, there.base)
