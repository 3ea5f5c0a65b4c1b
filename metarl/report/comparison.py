"""The report on several agents, or several seeds of some, on the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from metarl.comparison import (
    check_alike,
    interval,
    mean_difference,
    performance_profile,
    probability_of_improvement,
)
from metarl.evaluation import iqm
from metarl.report.adaptation import EXPERIENCE, MEASURES, protocol
from metarl.report.blocks import Cell, Curves, Line, Report, Section, Table
from metarl.result import Evaluation, count

Scores = Float[np.ndarray, "_ N"]
LEVELS = 101


@dataclass(frozen=True)
class Group:
    """The evaluated seeds of one experiment."""

    name: str
    runs: list[Evaluation]

    def scores(self, measure: str, column: int = -1) -> Scores:
        """Of each seed on each task, after the experience of a column."""
        return np.stack([run.curve.scores[measure][:, column].numpy() for run in self.runs])

    @property
    def classes(self) -> list[str]:
        """Of the tasks."""
        return self.runs[0].curve.env_names


def comparison_report(evaluations: Sequence[Evaluation], more: Sequence[Section] = ()) -> Report:
    """The report on these evaluations, with further sections behind its own.

    Raises:
        UserError: they cannot be compared, or one run is there twice.
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
            + ("" if len(lasts) == 1 else "; they are not after equally much experience")
            + ". IQM: the mean of the middle half of all scores.",
            blocks=[final_table(groups)],
        ),
    ]
    if len(groups) > 1:
        sections.append(
            Section(
                title="Differences",
                text="Each pair on the same tasks, which are resampled together. The probability "
                "of improvement is that of a higher score on a task drawn at random; ties count "
                "half.",
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
    several = any(len(group.runs) > 1 for group in groups)
    shared = protocol(first)
    return Report(
        title=f"{' and '.join(group.name for group in groups)} on "
        f"{'held-out' if first.split == 'test' else 'training'} tasks of {first.distribution}",
        headlines={
            f"{g.name}, success at any step": with_interval(g, "success_any") for g in groups
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
            "intervals": "95 %, percentile bootstrap, 2,000 times: tasks within their class"
            + (
                ", and whole seeds of agents that have several"
                if several
                else "; there is one seed of each agent, so they say nothing of other seeds"
            ),
            "success": shared["success"],
            "versions": shared["versions"],
            "machine": shared["machine"],
            "command": shared["command"],
            "when": shared["when"],
        },
    )


def group(evaluations: Sequence[Evaluation]) -> list[Group]:
    """Evaluations by experiment, in order of appearance.

    Raises:
        UserError: they cannot be compared, or one run is there twice.
    """
    check_alike([evaluation.setting for evaluation in evaluations])
    by_name: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        by_name.setdefault(evaluation.experiment, []).append(evaluation)
    return [Group(name, runs) for name, runs in by_name.items()]


def curves(groups: Sequence[Group], measure: str) -> Curves:
    """Mean over seeds and tasks of every group, with its interval."""
    lines = []
    for color, one in enumerate(groups):
        columns = range(len(one.runs[0].curve.experience))
        estimates = [estimate(one, measure, column) for column in columns]
        value, low, high = (list(numbers) for numbers in zip(*estimates, strict=True))
        x = [float(k) for k in one.runs[0].curve.experience]
        lines.append(Line(label=one.name, x=x, y=value, low=low, high=high, color=color))
    return Curves(
        name=f"curve_{measure}",
        title=MEASURES[measure],
        x_label=EXPERIENCE,
        y_label="",
        percent=measure != "return",
        lines=lines,
    )


def estimate(group: Group, measure: str, column: int = -1) -> tuple[float, float, float]:
    """Mean over seeds and tasks, and its interval."""
    scores = group.scores(measure, column)
    low, high = interval(
        lambda drawn: drawn.mean((-2, -1)),
        scores,
        classes=group.classes,
        rng=np.random.default_rng(0),
        over="both",
    )
    return float(scores.mean()), float(low), float(high)


def form(measure: str, value: float, low: float, high: float, *, sign: str = "") -> str:
    """A number with its interval."""
    style = f"{sign},.1f" if measure == "return" else f"{sign}.0%"
    return f"{value:{style}} [{low:{style}}, {high:{style}}]"


def with_interval(group: Group, measure: str) -> str:
    """The mean after adaptation with its interval."""
    return form(measure, *estimate(group, measure))


def final_table(groups: Sequence[Group]) -> Table:
    """Means and IQMs of every group after adaptation."""
    body: list[list[Cell]] = []
    for measure, label in MEASURES.items():
        for one in groups:
            middle = float(iqm(one.scores(measure).reshape(-1, 1))[0])
            body.append([
                label, one.name, len(one.runs), one.runs[0].curve.experience[-1],
                with_interval(one, measure),
                f"{middle:,.1f}" if measure == "return" else f"{middle:.0%}",
            ])  # fmt: skip
    header = ["", "agent", "seeds", EXPERIENCE, "mean", "IQM"]
    return Table(name="final", title="", header=header, body=body)


def difference_table(groups: Sequence[Group]) -> Table:
    """Paired differences of every two groups, and the probability of improvement."""
    body: list[list[Cell]] = []
    for one, other in combinations(groups, 2):
        for measure, label in MEASURES.items():
            pair = one.scores(measure), other.scores(measure)
            estimates = []
            for statistic in (mean_difference, probability_of_improvement):
                low, high = interval(
                    statistic,
                    *pair,
                    classes=one.classes,
                    rng=np.random.default_rng(0),
                    over="both",
                )
                estimates.append((float(statistic(*pair)), float(low), float(high)))
            difference, improvement = estimates
            body.append([
                f"{one.name} − {other.name}", label,
                form(measure, *difference, sign="+"), form("success_any", *improvement),
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
        scores = one.scores(measure)
        below, above = interval(
            lambda drawn: performance_profile(drawn, levels),
            scores,
            classes=one.classes,
            rng=np.random.default_rng(0),
            over="both",
        )
        share = performance_profile(scores, levels)
        lines.append(
            Line(label=one.name, x=levels.tolist(), y=share.tolist(), low=below.tolist(),
                 high=above.tolist(), style="steps", color=color)
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
            style = ",.1f" if measure == "return" else ".0%"
            row.append(f"{before:{style}} → {after:{style}}")
        body.append(row)
    header = ["run", "env steps", *(f"{label}, first → last" for label in MEASURES.values())]
    return Table(name="runs", title="", header=header, body=body)
