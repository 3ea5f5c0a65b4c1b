"""Few-shot evaluations for people: on the terminal, as a picture and as a page."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table as TerminalTable

from metarl.errors import MESSAGE_LIMIT, printable
from metarl.evaluation.few_shot_record import FewShotEvaluation
from metarl.evaluation.record import count
from metarl.evaluation.statistics import Estimate
from metarl.report.adaptation import circumstances
from metarl.report.blocks import Block, Cell, Curves, Line, Report, Section, Table, legend
from metarl.report.figures import save_panels
from metarl.report.terminal import with_interval

FORMS = {"accuracy": ".1%", "loss": ".4g"}
PIXELS = "nearest neighbour in pixel space"
BATCH_NORM = {
    "transductive": "transductive: support and query are each normalised by their own statistics, "
    "so all queries of a task are seen together before the first is labelled; a query alone could "
    "be labelled differently",
    "support": "support (non-transductive): support and query are normalised by the statistics of "
    "the support, and each query is labelled by itself",
    "none": "none: nothing is normalised, and each query is labelled by itself",
}


def few_shot_report(evaluation: FewShotEvaluation) -> Report:
    """Report on one few-shot evaluation."""
    sections = [
        Section(
            title="Results by number of shots",
            text="The mean over tasks with its 95 % interval, by the number of shots"
            + ("" if evaluation.num_ways is None else ": labelled examples of each class")
            + ("." if not takes_steps(evaluation) else ", after all gradient steps."),
            blocks=[*over_shots(evaluation), shots_table(evaluation)],
        )
    ]
    if takes_steps(evaluation):
        sections.insert(0, Section(
            title="How fast it adapts",
            text="The mean over tasks with its 95 % interval, after each number of gradient steps "
            "on the support of a new task.",
            blocks=[*over_steps(evaluation), steps_table(evaluation)],
        ))  # fmt: skip
    split = "held-out" if evaluation.split == "test" else "training"
    return Report(
        title=f"{evaluation.experiment}, seed {evaluation.seed}: learning {split} tasks of "
        f"{evaluation.distribution} from a few examples",
        headlines=headlines(evaluation),
        sections=sections,
        protocol=protocol(evaluation),
    )


def takes_steps(evaluation: FewShotEvaluation) -> bool:
    """True if the learner adapts by gradient steps."""
    return len(evaluation.steps) > 1


def measure_name(evaluation: FewShotEvaluation, measure: str) -> str:
    """Name of a measure of the query."""
    if measure == "accuracy":
        return "accuracy"
    return "mean squared error" if evaluation.num_ways is None else "loss (cross-entropy, nats)"


def shots_name(shots: int) -> str:
    """Number of shots with its noun: `1 shot`, `5 shots`."""
    return count(shots, "shot")


def over_steps(evaluation: FewShotEvaluation) -> list[Block]:
    """Each measure against gradient steps, one line per number of shots."""
    return [
        Curves(
            name=f"steps_{measure}",
            title=measure_name(evaluation, measure),
            x_label="gradient steps",
            y_label="",
            percent=measure == "accuracy",
            log_y=evaluation.num_ways is None,
            lines=[
                line(shots_name(shots), evaluation.steps, summary[measure], color=color)
                for color, (shots, summary) in enumerate(
                    zip(evaluation.shots, evaluation.by_steps, strict=True)
                )
            ],
        )
        for measure in evaluation.measures
    ]


def over_shots(evaluation: FewShotEvaluation) -> list[Block]:
    """Each measure against shots, with baselines of the accuracy."""
    return [
        Curves(
            name=f"shots_{measure}",
            title=measure_name(evaluation, measure),
            x_label="shots",
            y_label="",
            percent=measure == "accuracy",
            log_y=evaluation.num_ways is None,
            lines=[
                line(evaluation.agent, evaluation.shots, evaluation.by_shots[measure]),
                *(rivals(evaluation) if measure == "accuracy" else []),
            ],
        )
        for measure in evaluation.measures
    ]


def rivals(evaluation: FewShotEvaluation) -> list[Line]:
    """Accuracies of baselines that learn nothing: nearest neighbour and chance."""
    lines = []
    if evaluation.nearest_neighbour is not None:
        pixels = evaluation.nearest_neighbour
        lines.append(line(PIXELS, evaluation.shots, pixels, color=1, dashed=True))
    if evaluation.num_ways is not None:
        ends = [float(evaluation.shots[0]), float(evaluation.shots[-1])]
        chance = [1 / evaluation.num_ways] * 2
        lines.append(Line(label="chance", x=ends, y=chance, style="dashed", color=6))
    return lines


def line(
    label: str, x: list[int], estimate: Estimate, *, color: int = 0, dashed: bool = False
) -> Line:
    """A line with its intervals, without points at which gradient steps diverged."""
    columns = [k for k, value in enumerate(estimate.value) if math.isfinite(value)]
    return Line(
        label=label,
        x=[float(x[k]) for k in columns],
        y=[estimate.value[k] for k in columns],
        low=[estimate.low[k] for k in columns],
        high=[estimate.high[k] for k in columns],
        style="dashed" if dashed else "main",
        color=color,
    )


def steps_table(evaluation: FewShotEvaluation) -> Table:
    """Table with one row per number of shots and of gradient steps."""
    body: list[list[Cell]] = []
    for shots, summary in zip(evaluation.shots, evaluation.by_steps, strict=True):
        for column, steps in enumerate(evaluation.steps):
            shown = [with_interval(summary[m], column, FORMS[m]) for m in evaluation.measures]
            body.append([shots, steps, *shown])
    names = [measure_name(evaluation, measure) for measure in evaluation.measures]
    return Table(name="steps", title="", header=["shots", "gradient steps", *names], body=body)


def shots_table(evaluation: FewShotEvaluation) -> Table:
    """Table with one row per number of shots, with the nearest neighbour if inputs are images."""
    pixels, above = evaluation.nearest_neighbour, evaluation.above_pixels
    names = [measure_name(evaluation, measure) for measure in evaluation.measures]
    if pixels is not None:
        names += [PIXELS, "above it, paired by task"]
    body: list[list[Cell]] = []
    for column, shots in enumerate(evaluation.shots):
        cells: list[Cell] = [shots]
        for measure in evaluation.measures:
            cells.append(with_interval(evaluation.by_shots[measure], column, FORMS[measure]))
        if pixels is not None and above is not None:
            cells.append(with_interval(pixels, column, ".1%"))
            cells.append(with_interval(above, column, "+.1%"))
        body.append(cells)
    return Table(name="shots", title="", header=["shots", *names], body=body)


def headlines(evaluation: FewShotEvaluation) -> dict[str, str]:
    """The first measure before and after gradient steps, for each number of shots."""
    measure = evaluation.measures[0]
    form, name = FORMS[measure], "mean squared error" if measure == "loss" else measure
    ways = "" if evaluation.num_ways is None else f"{evaluation.num_ways} classes, "
    shown = {}
    for k, (shots, summary) in enumerate(zip(evaluation.shots, evaluation.by_steps, strict=True)):
        after = with_interval(summary[measure], -1, form)
        if takes_steps(evaluation):
            before = f"{summary[measure].value[0]:{form}}"
            steps = count(evaluation.steps[-1], "step")
            shown[f"{name}, {ways}{shots_name(shots)}, before → after {steps}"] = (
                f"{before} → {after}"
            )
        else:
            shown[f"{name}, {ways}{shots_name(shots)}"] = after
        if evaluation.nearest_neighbour is not None:
            shown[f"{PIXELS}, {shots_name(shots)}"] = with_interval(
                evaluation.nearest_neighbour, k, form
            )
    return shown


def protocol(evaluation: FewShotEvaluation) -> dict[str, str]:
    """Everything needed to repeat the measurement."""
    kinds = "" if evaluation.num_ways is None else f" of each of {evaluation.num_ways} classes"
    shown = {
        "tasks": f"{count(evaluation.num_tasks, 'task')} for each number of shots, of the "
        f"{evaluation.split} split of {evaluation.distribution}; each of them counts",
        "split hash": evaluation.split_hash,
        "examples": f"support: {', '.join(str(shots) for shots in evaluation.shots)}{kinds}; "
        f"query: {evaluation.num_queries} a task, never in the support",
        "learner": f"{evaluation.agent}, seed {evaluation.seed}, after {evaluation.tasks:,} tasks; "
        + (
            f"up to {count(evaluation.steps[-1], 'gradient step')} on the support"
            if takes_steps(evaluation)
            else "takes no gradient steps on a task"
        ),
        "BatchNorm": BATCH_NORM.get(evaluation.batch_norm, evaluation.batch_norm),
        "intervals": f"{evaluation.intervals()}, so they say nothing about other seeds",
        "loss": f"{measure_name(evaluation, 'loss')}, the mean over the query of a task",
    }
    if evaluation.num_ways is not None:
        shown["accuracy"] = "the share of a task's query whose largest output is its class's"
    if evaluation.pixels is not None:
        shown["nearest neighbour"] = (
            "the class of the support image that is nearest in Euclidean distance between pixels, "
            "on the same tasks"
        )
    return shown | circumstances(evaluation.environment)


def print_few_shot(evaluation: FewShotEvaluation, console: Console) -> None:
    """Prints all results and the protocol."""
    tables = [shots_table(evaluation)]
    if takes_steps(evaluation):
        tables.insert(0, steps_table(evaluation))
    for block in tables:
        shown = TerminalTable(box=None, pad_edge=False, header_style="bold")
        for name in block.header:
            shown.add_column(name, justify="right")
        for row in block.body:
            shown.add_row(*map(printable, row))
        console.print(shown)
        console.print()
    for sign, meaning in legend(cell for table in tables for cell in table.cells()).items():
        console.print(f"{sign}: {meaning}\n")
    console.print(printable(evaluation.protocol(), limit=MESSAGE_LIMIT), style="dim")


def plot_few_shot(evaluation: FewShotEvaluation, path: Path) -> None:
    """Writes the curves of the report side by side, as a PNG."""
    steps = over_steps(evaluation) if takes_steps(evaluation) else []
    curves = [block for block in [*steps, *over_shots(evaluation)] if isinstance(block, Curves)]
    save_panels(
        curves, path, title=f"{evaluation.experiment}: few-shot", caption=evaluation.protocol()
    )
