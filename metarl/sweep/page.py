"""What came of a sweep: a table in the terminal and as Markdown, and a page with curves."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rich.table
from rich.console import Console

from metarl.errors import UserError
from metarl.evaluation.record import count
from metarl.evaluation.statistics import Estimate
from metarl.report.blocks import Block, Cell, Curves, Line, Report, Scatter, Section, Table
from metarl.report.page import cell, write_report
from metarl.sweep.objective import Objective, part_of
from metarl.sweep.plan import Plan, PlannedRun, Trial
from metarl.sweep.search import Search
from metarl.sweep.settings import Choice, Numbers, said_value
from metarl.system.files import written_whole
from metarl.system.started import typed
from metarl.training.folder import read_lines, steps_of
from metarl.training.provenance import environment

POINTS = 25
"""Points of a learning curve."""
COLOURED = 6
"""Trials whose learning curves have a colour, the best ones."""

BEST_FIRST = (
    " The best first; to be the best of several is partly luck, and with new seeds the same values "
    "tend to score worse."
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is known of a trial."""

    trial: Trial
    number: int
    """Its number in its search, or in the grid."""
    state: str
    """finished, pruned, failed, or how much is done."""
    scores: dict[PlannedRun, float]
    """The objective of each finished run."""
    found: Estimate | None
    """The mean over seeds with its interval; None unless all runs have finished."""


def results_of(
    plan: Plan, objective: Objective, search: Search | None, failed: Mapping[str, str]
) -> list[Result]:
    """All trials, the best first, then those that are not finished.

    Args:
        failed: runs that failed, by their labels.
    """
    results = []
    if search is None:
        for number, point in enumerate(plan.grid):
            trial = plan.trial(point)
            scores = scores_of(trial, objective)
            state = f"{len(scores)} of {count(len(trial.runs), 'run')}"
            if len(scores) == len(trial.runs):
                state = "finished"
            elif any(run.label in failed for run in trial.runs):
                state = "failed" if len(trial.runs) == 1 else f"failed, {state}"
            results.append(result(trial, number, state, scores, objective))
    for known in search.known() if search else ():
        try:
            trial = plan.trial(known.values, number=known.number)
        except UserError:  # these values are not allowed together
            trial = Trial(name=f"trial{known.number:04}", values=known.values, runs=[])
        scores = scores_of(trial, objective) if known.state == "finished" else {}
        one = result(trial, known.number, known.state, scores, objective)
        if known.value is not None and one.found is None:  # its runs are on another machine
            one = replace(one, found=Estimate(value=[known.value], low=[None], high=[None]))
        results.append(one)
    sign = 1 if objective.minimize else -1
    return sorted(results, key=lambda one: sign * one.found.value[0] if one.found else np.inf)


def result(
    trial: Trial, number: int, state: str, scores: dict[PlannedRun, float], objective: Objective
) -> Result:
    """The result of a trial from the scores of its runs."""
    whole = len(scores) == len(trial.runs) > 0
    found = objective.over_seeds(scores) if whole else None
    return Result(trial=trial, number=number, state=state, scores=scores, found=found)


def scores_of(trial: Trial, objective: Objective) -> dict[PlannedRun, float]:
    """The objective of each run of a trial that has finished."""
    scores = {}
    for run in trial.runs:
        try:
            if run.is_trained():
                scores[run] = objective.score(run)
        except (UserError, FileNotFoundError):  # told when it happened
            continue
    return scores


# -- tables ----------------------------------------------------------------------------------------


def trial_table(plan: Plan, objective: Objective, results: Sequence[Result]) -> Table:
    """One row per trial."""
    named = bool(plan.ranges) or not plan.varied
    keys = [plan.short(key) for key in plan.varied]
    body: list[list[Cell]] = []
    for one in results:
        values: list[Cell] = [said_value(one.trial.values[key]) for key in plan.varied]
        found = [objective.said(one.found, seeds=len({run.seed for run in one.scores}))]
        row = [one.trial.name, *found, *values] if named else [*values, *found]
        body.append([*row, one.state])
    header = ["trial", objective.name, *keys] if named else [*keys, objective.name]
    return Table(name="trials", title="", header=[*header, "state"], body=body)


def run_table(objective: Objective, results: Sequence[Result]) -> Table:
    """One row per finished run."""
    body: list[list[Cell]] = [
        [run.label, f"{score:{objective.form(score)}}"]
        for one in results
        for run, score in one.scores.items()
    ]
    return Table(name="runs", title="", header=["run", objective.name], body=body)


def tell(plan: Plan, objective: Objective, results: Sequence[Result], console: Console) -> None:
    """Prints the table of trials."""
    table = trial_table(plan, objective, results)
    shown = rich.table.Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(table.header):
        shown.add_column(name, justify="left" if number == 0 or name == "state" else "right")
    for row in table.body:
        shown.add_row(*map(cell, row))
    console.print(shown)


def markdown(table: Table) -> str:
    """A table as Markdown."""
    rows = [[str(cell(value)).replace("|", r"\|") for value in row] for row in table.rows()]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


# -- the page --------------------------------------------------------------------------------------


def write_pages(plan: Plan, objective: Objective, results: Sequence[Result]) -> Path:
    """Writes the page and the table; returns the path of the page."""
    with written_whole(plan.folder / "sweep.md") as partial:
        partial.write_text(markdown(trial_table(plan, objective, results)), encoding="utf-8")
    return write_report(plan.folder, report_of(plan, objective, results), name="sweep")


def report_of(plan: Plan, objective: Objective, results: Sequence[Result]) -> Report:
    """The page."""
    better = "lower" if objective.minimize else "higher"
    judged = (
        "success in the test episodes of Meta-World's protocol on the training classes that a "
        f"fold left out, mean over {objective.folds} folds; no test class was played"
        if objective.folds
        else f"{objective.metric} in training, mean over the last tenth of a run; {better} is "
        "better"
    )
    sections = [
        Section(
            title="Trials",
            text=f"{said_of_seeds(plan)}.{BEST_FIRST if len(results) > 1 else ''}",
            blocks=[trial_table(plan, objective, results)],
        )
    ]
    curves = curves_of(plan, objective, results)
    if curves.lines:
        said = []
        if len(results[0].trial.runs) > 1:
            said.append("means over runs, with the lowest and the highest")
        if len(curves.lines) > COLOURED:
            said.append(f"the {COLOURED} best in colour, the others in grey")
        sections.append(
            Section(
                title="Learning curves",
                text=f"Of each trial{': ' if said else ''}{'; '.join(said)}.",
                blocks=[curves],
            )
        )
    if plan.ranges and (found := [one for one in results if one.found]):
        sections.append(
            Section(
                title="The objective by each value that was searched",
                text="One point per finished trial; later trials are brighter.",
                blocks=[scatter_of(plan, objective, found, key) for key in plan.ranges],
            )
        )
    if any(len(one.scores) > 1 for one in results):
        sections.append(Section(title="Every run", blocks=[run_table(objective, results)]))
    states = Counter(one.state.partition(",")[0] for one in results)
    headlines = {}
    if results and results[0].found:
        best = results[0]
        values = [f"{plan.short(k)} {said_value(v)}" for k, v in best.trial.values.items()]
        seeds = len({run.seed for run in best.scores})
        headlines["best trial"] = ", ".join(values) or best.trial.name
        if plan.ranges:
            headlines["best trial"] = f"{best.trial.name}: {headlines['best trial']}"
        headlines[f"its {objective.name}"] = objective.said(best.found, seeds=seeds)
    headlines["trials"] = ", ".join(f"{n} {state}" for state, n in states.items()) or "none yet"
    here = environment()
    return Report(
        title=f"Sweep of {plan.settings.name}: "
        + (", ".join(map(plan.short, plan.varied)) or count(len(plan.seeds), "seed")),
        headlines=headlines,
        sections=sections,
        protocol={
            "objective": judged,
            "tried": said_of_values(plan, varied=True) or "the values of the config",
            "set for all": said_of_values(plan, varied=False) or "nothing",
            "seeds": ", ".join(map(str, plan.seeds)),
            **said_of_search(plan),
            "intervals": said_of_seeds(plan),
            "versions": ", ".join(f"{name} {v}" for name, v in here["versions"].items()),
            "machine": f"{here['cpu']}, {here['platform']}",
            "command": here["command"].replace("__main__.py", typed("python -m metarl.sweep"), 1),
            "when": here["time"],
        },
    )  # fmt: skip


def said_of_values(plan: Plan, *, varied: bool) -> str:
    """The values that were given, of the keys that vary or of the others."""
    given = {**plan.settings.set, **plan.settings.search}
    return "; ".join(
        f"{key}: {text}" for key, text in given.items() if (key in plan.varied) == varied
    )


def said_of_seeds(plan: Plan) -> str:
    """What the numbers are means over, and their intervals."""
    if len(plan.seeds) == 1:
        return "One seed, so nothing is said of other seeds"
    return f"Means over {count(len(plan.seeds), 'seed')}, with 95 % intervals (Student's t)"


def said_of_search(plan: Plan) -> dict[str, str]:
    """How the search was done, if there was one."""
    if not plan.ranges:
        return {}
    pruned = "trials worse than the median end early" if plan.settings.prune else "none is pruned"
    return {"search": f"Optuna's TPE, {count(plan.settings.trials or 0, 'trial')}; {pruned}"}


def curves_of(plan: Plan, objective: Objective, results: Sequence[Result]) -> Curves:
    """The learning curve of every trial whose runs are here."""
    lines = []
    for number, one in enumerate(results):
        x, runs = curve_of(one.trial, objective)
        several = len(one.trial.runs) > 1 and len(runs) > 1 and number < COLOURED
        lines.append(
            Line(
                label=one.trial.name,
                x=x,
                y=mean_of(runs),
                low=[min(point) for point in zip(*runs, strict=True)] if several else None,
                high=[max(point) for point in zip(*runs, strict=True)] if several else None,
                style="main" if number < COLOURED else "quiet",
                color=number,
            )
        )
    return Curves(
        name="learning_curves",
        title=objective.metric,
        x_label="tasks" if plan.few_shot else "env steps",
        y_label="",
        lines=[line for line in lines if line.y],
        percent=objective.is_share,
    )


def mean_of(runs: Sequence[Sequence[float]]) -> list[float]:
    """Means over runs, point by point."""
    return [float(np.mean(point)) for point in zip(*runs, strict=True)]


def curve_of(trial: Trial, objective: Objective) -> tuple[list[float], list[list[float]]]:
    """Steps, and the metric of each run of a trial that has begun, in as many points as all of
    these runs have."""
    curves = []
    for run in trial.runs:
        points: dict[int, list[tuple[float, float]]] = {}
        for line in read_lines(run.metrics):
            if objective.metric in line:
                point = steps_of(line), line[objective.metric]
                points.setdefault(part_of(line, run, POINTS), []).append(point)
        if points:
            curves.append({part: np.mean(each, axis=0) for part, each in points.items()})
    common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    x = [float(np.mean([curve[part][0] for curve in curves])) for part in common]
    return x, [[float(curve[part][1]) for part in common] for curve in curves]


def scatter_of(plan: Plan, objective: Objective, results: Sequence[Result], key: str) -> Block:
    """The objective of each finished trial by one value that was searched."""
    of = plan.ranges[key]
    names = [said_value(value) for value in of.values] if isinstance(of, Choice) else None
    values = [one.trial.values[key] for one in results]
    x = [of.values.index(v) for v in values] if isinstance(of, Choice) else values
    numbers = [float(one.number) for one in results]
    return Scatter(
        name="by_" + re.sub(r"\W+", "_", plan.short(key)),
        title=f"{objective.name} by {plan.short(key)}",
        x_label=key,
        y_label="",
        value_label="number of the trial",
        x=[float(value) for value in x],
        y=[one.found.value[0] for one in results if one.found],
        value=numbers,
        limits=(0.0, max(numbers) or 1.0),
        log_x=isinstance(of, Numbers) and of.scale == "log",
        x_names=names,
    )
