"""Trains agents on HalfCheetah's task distributions and measures their gain from adapting.

python -m benchmarks.locomotion                                    all experiments
python -m benchmarks.locomotion --experiments rl2_cheetah_vel      one of them

An experiment is a file in configs/. It is trained in runs/<experiment>/seed1; a finished run is
reused and a stopped one is resumed. Then the agent plays the held-out tasks: untrained, adapting,
and prevented from adapting. `<experiment>.json` holds every return and the learning curve;
`locomotion.md` and `locomotion.png` are made from these files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt

from agents.rl2 import RL2Config
from benchmarks import command_line
from benchmarks.training import learning_curve, train_to_the_end, training_seconds
from evaluate import EvaluationConfig
from metarl.evaluation.statistics import REAL, estimate
from metarl.evaluation.trials import find_shape
from metarl.protocols import Agent
from metarl.report.terminal import with_interval
from metarl.rollout.task_set import play
from metarl.system.command_line import one_line_errors
from metarl.tasks import TaskSet
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import Experiment, build_agent, load_experiment
from metarl.training.provenance import environment
from metarl.training.run import load_agent
from metarl.types import TimeStep

mpl.use("Agg")
CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = [
    f"{agent}_cheetah_{tasks}" for tasks in ("vel", "dir") for agent in ("rl2", "maml_trpo")
]
NUM_TRIALS = 100  # on each held-out task if there are two tasks, else one per task
CURVE_POINTS = 100


class Forgetful:
    """Agent whose memory is cleared before every step, so that it cannot adapt."""

    def __init__(self, agent: Agent[Any]) -> None:
        self._agent = agent
        self.device = agent.device

    def begin_trial(self, num_slots: int) -> Any:
        """An empty memory."""
        return self._agent.begin_trial(num_slots)

    def act(self, state: Any, step: TimeStep, *, generator: torch.Generator | None) -> Any:
        """Acts as in the first step of a trial, without the last action and reward."""
        unknown = TimeStep(
            obs=step.obs,
            prev_action=torch.zeros_like(step.prev_action),
            prev_reward=torch.zeros_like(step.prev_reward),
            episode_start=step.episode_start,
        )
        action, log_prob, _ = self._agent.act(state, unknown, generator=generator)
        return action, log_prob, state


def measure(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Returns on the held-out tasks, tasks x episodes, and the learning curve."""
    train_to_the_end(experiment, folder)
    distribution = experiment.env.build()
    tasks = distribution.test
    if len(tasks) == 2:
        tasks = TaskSet(task for task in tasks for _ in range(NUM_TRIALS))
    config = EvaluationConfig(tasks_at_once=min(100, len(tasks)))
    shape = find_shape(experiment, None, config)
    env = distribution.make_env(config.tasks_at_once * shape.slots_per_task)
    agent = build_agent(experiment, env)

    def returns(player: Agent[Any]) -> np.ndarray:
        curve = play(player, env, tasks, shape=shape, seed=config.seed)
        return curve.scores["return"].numpy()

    saved = checkpoints(folder / "checkpoints")
    load_agent(agent, saved[0])
    untrained = returns(agent)
    load_agent(agent, saved[-1])
    adapting = returns(agent)
    forgetful = isinstance(experiment.agent, RL2Config)
    played = {
        "untrained": untrained[:, 0],
        "kept from adapting": (returns(Forgetful(agent)) if forgetful else adapting)[:, 0],
        "first": adapting[:, 0],
        "last": adapting[:, -1],
    }
    env.close()
    return {
        "distribution": distribution.name,
        "tasks": len(tasks),
        "split_hash": tasks.content_hash,
        "bound_without_adapting": distribution.best_without_adapting(),
        "episodes": shape.total_episodes,
        "experiment": experiment.model_dump(mode="json"),
        "env_steps": int(saved[-1].name),
        "training_s": training_seconds(folder),
        "returns": {name: np.round(values, 2).tolist() for name, values in played.items()},
        "curve": learning_curve(folder, points=CURVE_POINTS),
        "environment": environment(),
    }


def mean_cell(values: np.ndarray) -> str:
    """Mean over tasks with its 95 % interval."""
    return with_interval(estimate(values[:, None], bounds=REAL), 0, ".1f")


def report(measured: dict[str, dict[str, Any]]) -> str:
    """Markdown table with one line per experiment."""
    lines = [
        "| experiment | untrained | without adapting: any policy ≤ | this one | first episode | "
        "last episode | last − what any reaches | last − this one | env steps |",
        "|---" + "|---:" * 8 + "|",
    ]
    for name, m in measured.items():
        played = {key: np.asarray(values) for key, values in m["returns"].items()}
        gain = played["last"] - played["kept from adapting"]
        cells = [
            mean_cell(played["untrained"]),
            f"{m['bound_without_adapting']:.1f}",
            *(mean_cell(played[key]) for key in ("kept from adapting", "first", "last")),
            mean_cell(played["last"] - m["bound_without_adapting"]),
            mean_cell(gain),
            f"{m['env_steps'] / 1e6:.1f} M",
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(measured: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws learning curves, with the bound for agents that do not adapt."""
    figure, axes = plt.subplots(
        1, len(measured), figsize=(3.4 * len(measured), 3.2), layout="constrained", squeeze=False
    )
    for axis, (name, m) in zip(axes[0], measured.items(), strict=True):
        steps = [point["env_steps"] / 1e6 for point in m["curve"]]
        for when in ("first", "last"):
            values = [point[f"return/{when}_episode"] for point in m["curve"]]
            axis.plot(steps, values, label=f"{when} episode of a trial")
        axis.axhline(m["bound_without_adapting"], color="0.5", linestyle=":", label="no adapting ≤")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("million env steps")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("return on training tasks")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str]) -> None:
    """Trains, plays, prints and stores the results."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--runs", type=Path, default="runs", help="where agents are trained")
    parser.add_argument("--output", type=Path, default="results/locomotion")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.experiments:
        experiment = load_experiment(CONFIGS / f"{name}.yaml")
        result = measure(experiment, options.runs / name / f"seed{experiment.seed}")
        (options.output / f"{name}.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    files = {name: options.output / f"{name}.json" for name in EXPERIMENTS}
    measured = {
        n: json.loads(path.read_text(encoding="utf-8"))
        for n, path in files.items()
        if path.exists()
    }
    text = report(measured)
    (options.output / "locomotion.md").write_text(text + "\n", encoding="utf-8")
    plot(measured, options.output / "locomotion.png")
    print(f"{text}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.locomotion"):
        main(sys.argv[1:])
