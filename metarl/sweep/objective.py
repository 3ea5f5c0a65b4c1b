"""What trials are judged by: a metric of training, or success on classes left out of training.

Held-out tasks choose nothing: a setting that was chosen by them could not be judged by them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metarl.errors import UserError, nearest, printable
from metarl.evaluation.options import EvaluationOptions
from metarl.evaluation.record import Evaluation, stored_file
from metarl.evaluation.statistics import REAL, SHARE, Estimate, estimate
from metarl.report.terminal import with_interval
from metarl.sweep.plan import Plan, PlannedRun
from metarl.training.folder import read_lines, steps_of

DEFAULT, FEW_SHOT_DEFAULT = "return/last_episode", "train/loss"
PARTS = 10
"""Parts of a run; the objective is the mean over the last one."""
HELD_OUT = re.compile(r"(?:^|[\W_])(?:test|eval|held|hold.?out|valid)", re.IGNORECASE)
GROUPS = ("train", "return", "success", "classes", "belief", "timing", "update")
"""First parts of the names of metrics; see docs/metrics.md."""
SOMETIMES = ("classes", "belief")
"""Groups that some iterations lack."""
VALIDATION = "success on left-out classes"
Line = Mapping[str, float | int]


class UnknownMetricError(UserError):
    """No run of the sweep will ever log the objective."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The number that trials are judged by."""

    metric: str
    """Key of `metrics.jsonl`; with folds it is only shown, as the learning curve."""
    minimize: bool
    folds: int | None

    @property
    def name(self) -> str:
        """The objective in words."""
        return VALIDATION if self.folds else self.metric

    @property
    def is_share(self) -> bool:
        """True if it lies between 0 and 1."""
        return bool(self.folds) or "success" in self.metric or self.metric.endswith("accuracy")

    def evaluation(self, run: PlannedRun) -> tuple[list[str], Path] | None:
        """The arguments of `evaluate.py` that judge a run, and the file that they write; None if
        its own metrics judge it."""
        if not self.folds:
            return None
        options = EvaluationOptions(protocol="metaworld")
        stored = options.result_options(few_shot=False, exclude_defaults=True)
        path = stored_file(
            run.folder, options.split, stored, trained_for=run.trained_for() or run.budget
        )
        return [str(run.folder), "--protocol", options.protocol], path

    def score(self, run: PlannedRun) -> float:
        """The objective of a finished run.

        Raises:
            UserError: its log or its evaluation cannot be read, or lacks the metric.
        """
        if judged := self.evaluation(run):
            success = Evaluation.read(judged[1]).test_success()
            assert success is not None
            return success[0].value[0]
        last = self.parts(read_lines(run.metrics), run).get(PARTS)
        if last is None:
            raise UserError(f"{run.metrics} has no {self.metric} in the last tenth of the run")
        return last

    def parts(self, lines: Sequence[Line], run: PlannedRun) -> dict[int, float]:
        """Means over the parts of a run that are over, by their numbers from 1 to `PARTS`; a part
        without the metric has none."""
        found: dict[int, list[float]] = {}
        for line in lines:
            if self.metric in line:
                found.setdefault(part_of(line, run, PARTS), []).append(line[self.metric])
        now = part_of(lines[-1], run, PARTS) if lines else 0
        over = PARTS if lines and steps_of(lines[-1]) >= run.budget else now - 1
        return {part: float(np.mean(values)) for part, values in found.items() if part <= over}

    def check_logged(self, lines: Iterable[Line]) -> bool:
        """True once a run has logged the metric, False while nothing is known.

        Raises:
            UnknownMetricError: a line has other metrics, but not this one.
        """
        for line in lines:
            if self.metric in line:
                return True
            if "skipped" not in line and not self.metric.startswith(SOMETIMES):
                known = [key for key in line if "/" in key]
                raise UnknownMetricError(
                    f"unknown metric {printable(self.metric)}.{nearest(self.metric, known)} Known: "
                    f"{', '.join(known)}"
                )
        return False

    def over_seeds(self, scores: Mapping[PlannedRun, float]) -> Estimate | None:
        """The mean over seeds of the means over folds, with a 95 % interval over seeds; None
        without scores."""
        if not scores:
            return None
        by_seed: dict[int, list[float]] = {}
        for run, score in scores.items():
            by_seed.setdefault(run.seed, []).append(score)
        seeds = np.array([[np.mean(each)] for each in by_seed.values()])
        found = estimate(seeds, bounds=REAL)
        if not self.is_share or found.low[0] is None or found.high[0] is None:
            return found
        low, high = max(found.low[0], SHARE[0]), min(found.high[0], SHARE[1])
        return Estimate(value=found.value, low=[low], high=[high])

    def said(self, found: Estimate | None, *, seeds: int) -> str:
        """An estimate as tables show it; the interval only where there are several seeds."""
        if found is None:
            return "–"
        form = self.form(found.value[0])
        return with_interval(found, 0, form) if seeds > 1 else f"{found.value[0]:{form}}"

    def form(self, value: float) -> str:
        """Format of a number: four digits, or a percentage."""
        if self.is_share:
            return ".1%"
        digits = 3 - int(np.floor(np.log10(max(abs(value), 1e-4))))
        return f",.{min(max(digits, 1), 6)}f"


def objective_of(plan: Plan) -> Objective:
    """The objective of a sweep.

    Raises:
        UserError: it looks at held-out tasks, is no metric of training, or does not go with folds.
    """
    settings = plan.settings
    metric = settings.objective
    if metric is not None and HELD_OUT.search(metric):
        raise UserError(
            f"--objective {printable(metric)}: held-out tasks choose nothing, or they could not "
            "judge what was chosen; name a training metric, or --folds"
        )
    if settings.folds:
        if metric is not None or settings.minimize:
            raise UserError(f"--folds judges by {VALIDATION}; leave out --objective and --minimize")
        return Objective(metric="success/last_episode", minimize=False, folds=settings.folds)
    if metric is None and plan.few_shot:
        return Objective(metric=FEW_SHOT_DEFAULT, minimize=True, folds=None)
    metric = metric or DEFAULT
    group = metric.partition("/")[0]
    if group not in GROUPS or "/" not in metric:
        raise UserError(
            f"unknown metric {printable(metric)}.{nearest(group, GROUPS)} Names begin with "
            f"{', '.join(f'{each}/' for each in GROUPS)}"
        )
    return Objective(metric=metric, minimize=settings.minimize, folds=None)


def part_of(line: Line, run: PlannedRun, parts: int) -> int:
    """Number of the part of a run that a line belongs to, from 1 to `parts`."""
    return min(max(-(-steps_of(line) * parts // run.budget), 1), parts)
