"""Section of a report about other players of the same tasks, and the cost of learning them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from metarl.evaluation.record import Evaluation
from metarl.report.blocks import Cell, Curves, Line, Section, Table


@runtime_checkable
class Yardstick(Protocol):
    """Scores of another learner or player on some tasks of a split, along its learning."""

    @property
    def name(self) -> str:
        """Name for people."""
        ...

    @property
    def kind(self) -> str:
        """Kind of yardstick; `from_scratch` if each task is learned by itself."""
        ...

    @property
    def env_steps(self) -> list[int]:
        """Env steps of learning before each of the C columns."""
        ...

    @property
    def rows(self) -> list[int]:
        """The numbers of its tasks in the split."""
        ...

    @property
    def success(self) -> Float[np.ndarray, "N C"]:
        """Success at any step of an episode, by task and column."""
        ...

    def env_steps_to(self, success: float) -> int | None:
        """Env steps until mean success first reaches a level; None if it never does."""
        ...


def yardstick_section(
    agents: Sequence[Evaluation], untrained: Sequence[Evaluation], yardsticks: Sequence[Yardstick]
) -> Section:
    """Section with adapted agents, learners from scratch and other players on the same tasks."""
    rows = yardsticks[0].rows
    learners = [yardstick for yardstick in yardsticks if yardstick.kind == "from_scratch"]
    return Section(
        title="Yardsticks",
        text=f"On {len(rows)} of the tasks, spread over their classes; success at any step. "
        "Learners from scratch are PPO and SAC of Stable-Baselines3, which learn each task "
        "from nothing, on the same engine. Their env steps are those of learning one task, without "
        "evaluations, at the resolution of their curve.",
        blocks=[
            learning_curves(agents, rows, learners),
            cost_table(agents, rows, learners),
            others_table(agents, untrained, yardsticks, rows),
        ],
    )


def success_on(evaluation: Evaluation, rows: Sequence[int], column: int = -1) -> float:
    """Mean success at any step on some tasks."""
    return float(evaluation.curve.scores["success_any"][list(rows), column].mean())


def label(evaluation: Evaluation) -> str:
    """Label of a run: its name and seed."""
    return f"{evaluation.experiment}, seed {evaluation.seed}"


def learning_curves(
    agents: Sequence[Evaluation], rows: Sequence[int], learners: Sequence[Yardstick]
) -> Curves:
    """Success against env steps with one task, of adapting agents and of learners from scratch."""
    lines = [
        Line(
            label=label(agent),
            x=[float(k * agent.horizon) for k in agent.curve.experience],
            y=[success_on(agent, rows, column) for column in range(len(agent.curve.experience))],
            color=color,
        )
        for color, agent in enumerate(agents)
    ]
    lines += [
        Line(
            label=learner.name,
            x=[float(steps) for steps in learner.env_steps],
            y=learner.success.mean(0).tolist(),
            style="dashed",
            color=len(agents) + k,
        )
        for k, learner in enumerate(learners)
    ]
    return Curves(
        name="yardstick_curves",
        title="success at any step",
        x_label="env steps with the task",
        y_label="",
        percent=True,
        log_x=True,
        lines=lines,
    )


def cost_table(
    agents: Sequence[Evaluation], rows: Sequence[int], learners: Sequence[Yardstick]
) -> Table:
    """Table of the env steps that learners need to reach the agents' success after adaptation."""
    body: list[list[Cell]] = []
    for agent in agents:
        reached = success_on(agent, rows)
        own = agent.curve.experience[-1] * agent.horizon
        for learner in learners:
            needed = learner.env_steps_to(reached)
            best = f"{learner.success.mean(0).max():.0%}"
            body.append([
                label(agent), f"{reached:.0%}", own, learner.name,
                f"more than {learner.env_steps[-1]:,} (reached {best})" if needed is None
                else f"{needed:,}",
                ratio(needed, learner.env_steps[-1], own),
            ])  # fmt: skip
    return Table(
        name="yardstick_costs",
        title="Env steps to reach the agent's success after adaptation",
        header=["agent", "success", "env steps", "learner", "needs", "ratio"],
        body=body,
    )


def ratio(needed: int | None, budget: int, own: int) -> str:
    """Ratio of a learner's env steps to the agent's, as text."""
    if own == 0:
        return "–"
    return f"over {budget / own:,.1f} ×" if needed is None else f"{needed / own:,.1f} ×"


def others_table(
    agents: Sequence[Evaluation],
    untrained: Sequence[Evaluation],
    yardsticks: Sequence[Yardstick],
    rows: Sequence[int],
) -> Table:
    """Table of the final success of all agents and yardsticks, the best last."""
    everybody: list[tuple[float, str]] = [
        *((success_on(agent, rows), f"{label(agent)}, adapted") for agent in agents),
        *((success_on(agent, rows, 0), f"{label(agent)}, before adaptation") for agent in agents),
        *((success_on(agent, rows), f"{label(agent)}, untrained, adapted") for agent in untrained),
        *((float(y.success[:, -1].mean()), described(y)) for y in yardsticks),
    ]
    return Table(
        name="yardstick_success",
        title="Success of all on these tasks",
        header=["", "success at any step"],
        body=[[name, f"{success:.0%}"] for success, name in sorted(everybody)],
    )


def described(yardstick: Yardstick) -> str:
    """Label of a yardstick: its name and its env steps of learning."""
    steps = yardstick.env_steps[-1]
    if not steps:
        return yardstick.name
    per = "a task" if yardstick.kind == "from_scratch" else "on all training tasks together"
    return f"{yardstick.name}, after {steps:,} env steps {per}"
