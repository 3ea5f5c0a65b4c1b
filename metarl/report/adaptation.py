"""Report on one evaluation: speed of adaptation, and results on every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.evaluation.record import Evaluation, count
from metarl.evaluation.statistics import Estimate, Summary
from metarl.learning.belief import BeliefCurve
from metarl.report.blocks import Block, Cell, Curves, HeatMap, Line, Report, Scatter, Section, Table
from metarl.report.figures import save_panels
from metarl.report.terminal import with_interval

MEASURES = {
    "success_any": "success at any step",
    "success_last": "success at the last step",
    "return": "return of the episode",
}
EXPERIENCE = "episodes of experience"
STEPS = "steps of experience"
SHOWN_DIMENSIONS = 6
"""Most dimensions of a belief that are drawn."""


def adaptation_report(evaluation: Evaluation, more: Sequence[Section] = ()) -> Report:
    """Report on one evaluation, with the sections `more` after its own."""
    overall, by_class = evaluation.summary
    sections = [
        Section(
            title="How fast it adapts",
            text="The mean over tasks with its 95 % interval, and the interquartile mean (IQM), "
            "after each number of episodes of experience with a new task.",
            blocks=[curve_of(measure, overall) for measure in measures(evaluation)],
        ),
        Section(
            title="Speed",
            text="The area under the curve is the mean over all columns above.",
            blocks=[speed_table(evaluation, overall)],
        ),
        Section(
            title="Every task",
            text="Rows are tasks, columns are amounts of experience; the numbers above the columns "
            "count successful episodes. No task is left out."
            + (
                f" A cell is the mean over {evaluation.slots_per_task} episodes side by side."
                if evaluation.slots_per_task > 1
                else ""
            ),
            blocks=[heat_map(evaluation, measure) for measure in ("success_any", "return")],
        ),
    ]
    if evaluation.goals is not None:
        sections.append(goal_section(evaluation))
    if evaluation.belief is not None:
        sections.append(belief_section(evaluation.belief))
    if len(by_class) > 1:
        sections.append(Section(title="Task classes", blocks=[class_table(by_class)]))
    return Report(
        title=f"{evaluation.experiment}, seed {evaluation.seed}: adapting to "
        f"{'held-out' if evaluation.split == 'test' else 'training'} tasks of "
        f"{evaluation.distribution}",
        headlines=headlines(evaluation, overall),
        sections=[*sections, *more],
        protocol=protocol(evaluation),
    )


def measures(evaluation: Evaluation) -> list[str]:
    """Names of the measures, success first."""
    return [measure for measure in MEASURES if measure in evaluation.curve.scores]


def interval(estimate: Estimate, k: int, *, percent: bool) -> str:
    """Column k of an estimate as text, with its interval."""
    return with_interval(estimate, k, ".0%" if percent else ",.1f")


def headlines(evaluation: Evaluation, overall: Summary) -> dict[str, str]:
    """First and last columns of the curves, and the experience before the last."""
    shown = {}
    for measure, label in MEASURES.items():
        estimate, percent = overall.mean[measure], measure != "return"
        first = f"{estimate.value[0]:.0%}" if percent else f"{estimate.value[0]:,.1f}"
        shown[f"{label}, first → last"] = f"{first} → {interval(estimate, -1, percent=percent)}"
    last = overall.experience[-1]
    shown["experience before the last column"] = (
        f"{count(last, 'episode')}, {last * evaluation.horizon:,} env steps"
    )
    return shown


def curve_of(measure: str, overall: Summary) -> Curves:
    """Mean with its interval and IQM of one measure, against experience."""
    mean, iqm = overall.mean[measure], overall.iqm[measure]
    x = [float(k) for k in overall.experience]
    return Curves(
        name=f"curve_{measure}",
        title=MEASURES[measure],
        x_label=EXPERIENCE,
        y_label="",
        percent=measure != "return",
        lines=[
            Line(label="mean", x=x, y=mean.value, low=mean.low, high=mean.high),
            Line(label="IQM", x=x, y=iqm.value, style="dashed"),
        ],
    )


def plot_adaptation(evaluation: Evaluation, path: Path) -> None:
    """Writes the curves of the report side by side, as a PNG."""
    overall, _ = evaluation.summary
    save_panels(
        [curve_of(measure, overall) for measure in measures(evaluation)],
        path,
        title=f"{evaluation.experiment}: adaptation",
        caption=evaluation.protocol(),
    )


def speed_table(evaluation: Evaluation, overall: Summary) -> Table:
    """Episodes and env steps until shares of the final success are reached."""
    shares = list(overall.episodes_to_share["success_any"])

    def episodes(number: int | None) -> str:
        if number is None:
            return "0 in the end"
        return f"{number} ({number * evaluation.horizon:,})"

    return Table(
        name="speed",
        title="Episodes (env steps) until success reaches a share of its value in the end",
        header=["", *shares, "area under the curve", "in the end"],
        body=[
            [
                MEASURES[measure],
                *(episodes(number) for number in reached.values()),
                f"{overall.area_under_curve[measure]:.1%}",
                interval(overall.mean[measure], -1, percent=True),
            ]
            for measure, reached in overall.episodes_to_share.items()
        ],
    )


def heat_map(evaluation: Evaluation, measure: str) -> HeatMap:
    """Scores of tasks (rows) by experience (columns), sorted by class, then worst final score
    first."""
    scores = evaluation.curve.scores[measure].numpy()
    names = evaluation.curve.env_names
    order = sorted(range(len(names)), key=lambda row: (names[row], *scores[row][::-1]))
    if measure == "return":
        counts = [f"{value:.4g}" for value in scores.mean(0)]
    else:
        total = len(names) * evaluation.slots_per_task
        counts = [f"{round(s)}/{total}" for s in scores.sum(0) * evaluation.slots_per_task]
    return HeatMap(
        name=f"tasks_{measure}",
        title=f"{MEASURES[measure]} ({'mean' if measure == 'return' else 'episodes'} above)",
        x_label=EXPERIENCE,
        columns=[str(k) for k in evaluation.curve.experience],
        tasks=[f"{names[row]} {row}" for row in order],
        values=scores[order].tolist(),
        counts=counts,
        percent=measure != "return",
    )


def goal_section(evaluation: Evaluation) -> Section:
    """Scores by position or speed of the goal, before and after adaptation."""
    goals = np.array(evaluation.goals)
    blocks: list[Block] = []
    if goals.shape[1] == 1:
        returns = evaluation.curve.scores["return"].numpy()
        order = np.argsort(goals[:, 0])
        blocks.append(Curves(
            name="goals_return",
            title=MEASURES["return"],
            x_label="goal",
            y_label="",
            lines=[
                Line(label=f"{when} adaptation", x=goals[order, 0].tolist(),
                     y=returns[order, column].tolist(), color=color)
                for color, (when, column) in enumerate((("before", 0), ("after", -1)))
            ],
        ))  # fmt: skip
    else:
        for measure in ("success_any", "return"):
            scores = evaluation.curve.scores[measure].numpy()
            limits = (
                (0.0, 1.0) if measure != "return" else (float(scores.min()), float(scores.max()))
            )
            blocks += [
                Scatter(
                    name=f"goals_{measure}_{when}",
                    title=f"{when} adaptation",
                    x_label="goal, x",
                    y_label="goal, y",
                    value_label=MEASURES[measure],
                    x=goals[:, 0].tolist(),
                    y=goals[:, 1].tolist(),
                    value=scores[:, column].tolist(),
                    limits=limits,
                )
                for when, column in (("before", 0), ("after", -1))
            ]
    return Section(
        title="Where the goals are",
        text="Each point is a task; goals that are not reached are dark or low.",
        blocks=blocks,
    )


def belief_section(belief: BeliefCurve) -> Section:
    """The posterior on one task over a trial, and what all posteriors tell of the goals."""
    steps = [float(step) for step in belief.steps]
    mean, std = np.array(belief.mean), np.array(belief.std)
    blocks: list[Block] = [
        Curves(
            name="belief_one_task",
            title="one task: mean ± standard deviation",
            x_label=STEPS,
            y_label="latent vector",
            lines=[
                Line(
                    label=f"dimension {z + 1}",
                    x=steps,
                    y=mean[:, z].tolist(),
                    low=(mean - std)[:, z].tolist(),
                    high=(mean + std)[:, z].tolist(),
                    color=z,
                )
                for z in range(min(mean.shape[1], SHOWN_DIMENSIONS))
            ],
        ),
        Curves(
            name="belief_all_tasks",
            title="all tasks",
            x_label=STEPS,
            y_label="",
            lines=[
                Line(label="standard deviation", x=steps, y=belief.mean_std),
                *(
                    [Line(label="R² of the goal", x=steps, y=belief.goal_r2, color=1)]
                    if belief.goal_r2 is not None
                    else []
                ),
            ],
        ),
    ]
    return Section(
        title="What it believes",
        text="The posterior over the latent vector of a task, as the trial goes on: on the first "
        "task, and its standard deviation as a mean over all tasks."
        + (
            " R² tells how well a linear map reads the goal from the posterior's mean, on tasks "
            "that it was not fitted to."
            if belief.goal_r2 is not None
            else ""
        ),
        blocks=blocks,
    )


def class_table(by_class: dict[str, Summary]) -> Table:
    """First and last columns of every class."""
    body: list[list[Cell]] = []
    for name, summary in by_class.items():
        cells: list[Cell] = [name, summary.num_tasks]
        for measure in MEASURES:
            estimate, percent = summary.mean[measure], measure != "return"
            first = f"{estimate.value[0]:.0%}" if percent else f"{estimate.value[0]:,.1f}"
            cells.append(f"{first} → {interval(estimate, -1, percent=percent)}")
        body.append(cells)
    header = ["class", "tasks", *(f"{label}, first → last" for label in MEASURES.values())]
    return Table(name="classes", title="", header=header, body=body)


def protocol(evaluation: Evaluation) -> dict[str, str]:
    """Everything needed to repeat the measurement."""
    names = evaluation.curve.env_names
    side_by_side = (
        f", {evaluation.slots_per_task} side by side" if evaluation.slots_per_task > 1 else ""
    )
    return {
        "tasks": f"{count(len(names), 'task')} of the {evaluation.split} split "
        f"of {evaluation.distribution}, {count(len(set(names)), 'class')}"
        + (f", {evaluation.reward_version} rewards" if evaluation.reward_version else ""),
        "split hash": evaluation.split_hash,
        "episodes": f"{evaluation.total_episodes} a task, {evaluation.horizon} steps each"
        f"{side_by_side}; every task plays as many, and each of them counts",
        "agent": f"{evaluation.agent}, seed {evaluation.seed}, after "
        f"{evaluation.env_steps:,} env steps; "
        f"{'greedy' if evaluation.options['greedy'] else 'sampled'} actions",
        "intervals": f"{evaluation.intervals()}, so they say nothing about other seeds",
        "success": "at any step: the task's own flag was up in any step of the episode; at the "
        "last step: it was up then",
        **circumstances(evaluation.environment),
    }


def circumstances(environment: Mapping[str, Any]) -> dict[str, str]:
    """Versions, machine, command and time, from `metarl.training.provenance.environment`."""
    return {
        "versions": ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
        + f", Python {environment['python']}, git {environment['git']}",
        "machine": f"{environment['cpu']}, {environment['cpus']} processors, "
        f"{environment['gpu'] or 'no GPU'}",
        "command": environment["command"],
        "when": environment["time"],
    }
