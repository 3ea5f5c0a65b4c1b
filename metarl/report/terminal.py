"""Tables of adaptation curves on the terminal."""

from __future__ import annotations

import re

from rich.console import Console
from rich.table import Table

from metarl.errors import MESSAGE_LIMIT, printable
from metarl.evaluation.record import Evaluation
from metarl.evaluation.statistics import Estimate, Summary
from metarl.learning.belief import BeliefCurve

NO_INTERVAL = "[–]"
WHY_NO_INTERVAL = "no interval: one task alone, or scores that are all the same or infinite"
MORE_DIGITS = 5
"""Most extra digits that make the width of an interval visible."""


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Prints all results and the protocol."""
    overall, by_class = evaluation.summary
    print_curve(overall, console)
    print_classes(by_class, console)
    print_verdict(overall, evaluation.options["threshold"], console)
    if success := evaluation.test_success():
        print_test_success(*success, console)
    if evaluation.belief is not None:
        print_belief(evaluation.belief, console)
    if any(None in estimate.low for estimate in overall.mean.values()):
        console.print(f"\n{NO_INTERVAL}: {WHY_NO_INTERVAL}")
    console.print(f"\n{printable(evaluation.protocol(), limit=MESSAGE_LIMIT)}", style="dim")


def print_belief(belief: BeliefCurve, console: Console) -> None:
    """Prints what the agent believed at the start and at the end of a trial."""
    text = f"belief: standard deviation {belief.mean_std[0]:.2f} → {belief.mean_std[-1]:.2f}"
    if belief.goal_r2 is not None:
        text += (
            "; a linear probe reads the goal with R² "
            f"{belief.goal_r2[0]:.2f} → {belief.goal_r2[-1]:.2f}"
        )
    console.print(f"\n{text} from the first step of a trial to the last")


def print_curve(overall: Summary, console: Console) -> None:
    """Prints one row per column of the curve: the scores after each amount of experience."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("episodes of\nexperience", justify="right")
    table.add_column("return\nmean [95 % interval]", justify="right")
    table.add_column("\nIQM", justify="right")
    table.add_column("success at any step\nmean [95 % interval]", justify="right")
    table.add_column("\nIQM", justify="right")
    table.add_column("success at the last step\nmean [95 % interval]", justify="right")
    table.add_column("\nIQM", justify="right")
    for k in _shown_columns(len(overall.experience)):
        cells = [str(overall.experience[k])]
        for measure, form in (("return", ".1f"), ("success_any", ".0%"), ("success_last", ".0%")):
            cells.append(with_interval(overall.mean[measure], k, form))
            cells.append(f"{overall.iqm[measure].value[k]:{form}}")
        table.add_row(*cells)
    console.print(table)


def _shown_columns(count: int) -> list[int]:
    """All columns of a short curve; columns 0, 1, 2, 5, 10, 20, 50, … and the last of a long
    one."""
    if count <= 20:
        return list(range(count))
    steps = [unit * 10**power for power in range(len(str(count))) for unit in (1, 2, 5)]
    return [0, *(k for k in steps if k < count - 1), count - 1]


def print_classes(by_class: dict[str, Summary], console: Console) -> None:
    """Prints one row per task class: scores before and after adaptation."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("task class")
    table.add_column("tasks", justify="right")
    table.add_column("return\nfirst → last", justify="right")
    table.add_column("success at any step\nfirst → last", justify="right")
    table.add_column("success at the last step\nfirst → last", justify="right")
    for name, summary in by_class.items():
        cells = [printable(name), str(summary.num_tasks)]
        for measure, form in (("return", ".1f"), ("success_any", ".0%"), ("success_last", ".0%")):
            values = summary.mean[measure].value
            cells.append(f"{values[0]:{form}} → {values[-1]:{form}}")
        table.add_row(*cells)
    console.print(table)


def print_verdict(overall: Summary, threshold: float, console: Console) -> None:
    """Prints areas under the curves and the experience until success reached the threshold."""
    area = overall.area_under_curve
    reached = overall.episodes_to_threshold
    console.print(
        f"\narea under the curve: return {area['return']:.1f}, success at any step "
        f"{area['success_any']:.1%}, at the last step {area['success_last']:.1%}\n"
        f"episodes of experience to {threshold:.0%} success: "
        f"at any step {_reached(reached['success_any'])}, "
        f"at the last step {_reached(reached['success_last'])}",
    )


def print_test_success(overall: Estimate, by_class: dict[str, Estimate], console: Console) -> None:
    """Prints success in the test episodes of Meta-World's protocol."""
    console.print("\nMeta-World protocol, success at any step of the test episodes:")
    for name, estimate in {"all classes": overall, **by_class}.items():
        console.print(f"  {printable(name)}: {with_interval(estimate, 0, '.1%')}")


def _reached(episodes: int | None) -> str:
    return "not reached" if episodes is None else str(episodes)


def with_interval(estimate: Estimate, k: int, form: str) -> str:
    """Column k of an estimate with its interval; more digits if they are needed to show its
    width."""
    value, low, high = estimate.value[k], estimate.low[k], estimate.high[k]
    if low is None or high is None:
        return f"{value:{form}} {NO_INTERVAL}"
    digits = re.compile(r"\.(\d+)")
    for more in range(MORE_DIGITS):
        finer = digits.sub(lambda found, more=more: f".{int(found[1]) + more}", form)
        if f"{low:{finer}}" != f"{high:{finer}}":
            form = finer
            break
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
