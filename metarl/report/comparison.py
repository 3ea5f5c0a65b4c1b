"""Report on several agents, or several seeds of an agent, on the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from metarl.evaluation.paired import (
    mean_difference,
    mean_over_runs,
    performance_profile,
    probability_of_improvement,
)
from metarl.evaluation.record import Evaluation, count
from metarl.evaluation.setting import check_alike
from metarl.evaluation.statistics import Estimate, bounds_of, iqm, said_of_intervals
from metarl.report.adaptation import EXPERIENCE, MEASURES, protocol
from metarl.report.blocks import Cell, Curves, Line, Report, Section, Table
from metarl.report.terminal import with_interval

Scores = Float[np.ndarray, "_ N"]
LEVELS = 101


@dataclass(frozen=True)
class Group:
    """The evaluated seeds of one experiment."""

    name: str
    runs: list[Evaluation]

    def scores(self, measure: str) -> Scores:
        """Scores of each seed on each task, after adaptation."""
        return np.stack([run.curve.scores[measure][:, -1].numpy() for run in self.runs])

    def means(self, measure: str) -> Estimate:
        """Means over seeds and tasks, one column per amount of experience."""
        scores = np.stack([run.curve.scores[measure].numpy() for run in self.runs])
        return mean_over_runs(scores, self.classes, bounds=bounds_of(measure))

    @property
    def classes(self) -> list[str]:
        """Class of each task."""
        return self.runs[0].curve.env_names


def comparison_report(evaluations: Sequence[Evaluation], more: Sequence[Section] = ()) -> Report:
    """Report on these evaluations, with the sections `more` after its own.

    Raises:
        UserError: they cannot be compared, or a run is given twice.
    """
    groups = group(evaluations)
    first = evaluations[0]
    lasts = {run.curve.experience[-1] for run in evaluations}
    sections = [
        Section(
            title="How fast they adapt",
            text="Means over tasks and seeds with 95 % intervals. An agent that plays episodes "
            "side by side has a point only where it adapts.",
            blocks=[curves(groups, measure) for measure in MEASURES],
        ),
        Section(
            title="After adaptation",
            text="The last column of each curve"
            + ("" if len(lasts) == 1 else "; the amounts of experience differ")
            + ". IQM: the mean of the middle half of all scores.",
            blocks=[final_table(groups)],
        ),
    ]
    if len(groups) > 1:
        sections.append(
            Section(
                title="Differences",
                text="Each pair of agents, paired task by task. The probability of improvement is "
                "that of a higher score on a random task; ties count half.",
                blocks=[difference_table(groups)],
            )
        )
    sections.append(
        Section(
            title="Performance profiles",
            text="The share of tasks and seeds whose score after adaptation is higher than a "
            "level: the further to the upper right, the better.",
            blocks=[profiles(groups, measure) for measure in ("return", "success_any")],
        )
    )
    sections.append(Section(title="Every run", blocks=[run_table(evaluations)]))
    shared = protocol(first)
    return Report(
        title=f"{' and '.join(group.name for group in groups)} on "
        f"{'held-out' if first.split == 'test' else 'training'} tasks of {first.distribution}",
        headlines={
            f"{g.name}, success at any step": after_adaptation(g, "success_any") for g in groups
        },
        sections=[*sections, *more],
        protocol={
            "tasks": shared["tasks"],
            "split hash": first.split_hash,
            "episodes": f"{count(first.horizon, 'step')} each",
            "agents": "; ".join(
                f"{g.name}: {g.runs[0].agent}, {count(len(g.runs), 'seed')} "
                f"({', '.join(str(run.seed) for run in g.runs)}), after "
                f"{', '.join(sorted({f'{run.env_steps:,}' for run in g.runs}))} env steps, "
                f"{g.runs[0].total_episodes} episodes a task"
                for g in groups
            ),
            "intervals": "; ".join(
                [
                    said_of_tasks(groups[0].classes),
                    *(f"{g.name}: {said_of_runs(len(g.runs))}" for g in groups),
                ]
            ),
            "success": shared["success"],
            "versions": shared["versions"],
            "machine": shared["machine"],
            "command": shared["command"],
            "when": shared["when"],
        },
    )


def group(evaluations: Sequence[Evaluation]) -> list[Group]:
    """Evaluations grouped by experiment, in order of appearance.

    Raises:
        UserError: they cannot be compared, or a run is given twice.
    """
    check_alike([evaluation.setting for evaluation in evaluations])
    by_name: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        by_name.setdefault(evaluation.experiment, []).append(evaluation)
    return [Group(name, runs) for name, runs in by_name.items()]


def said_of_tasks(classes: Sequence[str]) -> str:
    """Kind of the intervals and what they are over, in words."""
    if len(classes) > 1:
        return said_of_intervals(classes, len(classes), bounded="shares")
    return "95 % intervals, Wilson's of shares, else Student's t; 1 task: tasks are not resampled"


def said_of_runs(seeds: int) -> str:
    """Role of the seeds in the intervals, in words."""
    if seeds == 1:
        return "1 seed: runs are not resampled, so nothing is said of other seeds"
    return f"over its {seeds} seeds too"


def curves(groups: Sequence[Group], measure: str) -> Curves:
    """Mean over seeds and tasks of every group with its interval, against experience."""
    lines = []
    for color, one in enumerate(groups):
        means = one.means(measure)
        x = [float(k) for k in one.runs[0].curve.experience]
        lines.append(
            Line(label=one.name, x=x, y=means.value, low=means.low, high=means.high, color=color)
        )
    return Curves(
        name=f"curve_{measure}",
        title=MEASURES[measure],
        x_label=EXPERIENCE,
        y_label="",
        percent=measure != "return",
        lines=lines,
    )


def form(measure: str) -> str:
    """Format of the numbers of a measure."""
    return ",.1f" if measure == "return" else ".0%"


def after_adaptation(group: Group, measure: str) -> str:
    """The mean after adaptation as text, with its interval."""
    return with_interval(group.means(measure), -1, form(measure))


def final_table(groups: Sequence[Group]) -> Table:
    """Means and IQMs of every group after adaptation."""
    body: list[list[Cell]] = []
    for measure, label in MEASURES.items():
        for one in groups:
            middle = float(iqm(one.scores(measure).reshape(-1, 1))[0])
            body.append([
                label, one.name, len(one.runs), one.runs[0].curve.experience[-1],
                after_adaptation(one, measure), f"{middle:{form(measure)}}",
            ])  # fmt: skip
    header = ["", "agent", "seeds", EXPERIENCE, "mean", "IQM"]
    return Table(name="final", title="", header=header, body=body)


def difference_table(groups: Sequence[Group]) -> Table:
    """Paired differences and probabilities of improvement of every two groups."""
    body: list[list[Cell]] = []
    for one, other in combinations(groups, 2):
        for measure, label in MEASURES.items():
            pair = one.scores(measure), other.scores(measure)
            difference = mean_difference(*pair, one.classes, bounds=bounds_of(measure))
            improvement = probability_of_improvement(*pair, one.classes)
            body.append([
                f"{one.name} − {other.name}", label,
                with_interval(difference, 0, f"+{form(measure)}"),
                with_interval(improvement, 0, ".0%"),
            ])  # fmt: skip
    header = ["", "", "difference", "probability of improvement"]
    return Table(name="differences", title="", header=header, body=body)


def profiles(groups: Sequence[Group], measure: str) -> Curves:
    """The performance profile of every group after adaptation."""
    everything = np.concatenate([one.scores(measure).ravel() for one in groups])
    high = 1.0 if measure != "return" else float(everything.max())
    low = 0.0 if measure != "return" else float(everything.min())
    levels = np.linspace(low, high, LEVELS)
    lines = []
    for color, one in enumerate(groups):
        share = performance_profile(one.scores(measure), levels, one.classes)
        lines.append(
            Line(label=one.name, x=levels.tolist(), y=share.value, low=share.low,
                 high=share.high, style="steps", color=color)
        )  # fmt: skip
    return Curves(
        name=f"profile_{measure}",
        title=MEASURES[measure],
        x_label=f"level of the {MEASURES[measure]}",
        y_label="share of tasks and seeds above",
        percent=True,
        lines=lines,
    )


def run_table(evaluations: Sequence[Evaluation]) -> Table:
    """First and last columns of every run."""
    body: list[list[Cell]] = []
    for run in evaluations:
        row: list[Cell] = [f"{run.experiment}, seed {run.seed}", run.env_steps]
        for measure in MEASURES:
            before, after = (
                float(run.curve.scores[measure][:, column].mean()) for column in (0, -1)
            )
            row.append(f"{before:{form(measure)}} → {after:{form(measure)}}")
        body.append(row)
    header = ["run", "env steps", *(f"{label}, first → last" for label in MEASURES.values())]
    return Table(name="runs", title="", header=header, body=body)
