"""Trains agents on locomotion tasks and measures their gain from adapting.

python -m benchmarks.locomotion                                          all experiments
python -m benchmarks.locomotion --experiments rl2_cheetah_vel --seeds 1  one of them, one seed
python -m benchmarks.locomotion --experiments                            the table of what is there

An experiment is a file in configs/, some on another variant of the tasks. It is trained in
runs/<experiment>/seed<seed>; a finished run is reused and a stopped one is resumed. Then the agent
plays the held-out tasks: untrained, adapting, and prevented from adapting.
`<experiment>_seed<seed>.json` holds every return and the learning curve; `locomotion.md` and
`locomotion.png` are made from all these files.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt

from agents.rl2 import RL2Config
from agents.varibad import VariBADConfig
from benchmarks import command_line
from benchmarks.training import learning_curve, store, train_to_the_end, training_seconds
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
ON_VARIBADS_VEL = {"env.variant": "HalfCheetah-vel-varibad"}
ON_VARIBADS_DIR = {"env.variant": "HalfCheetah-dir-varibad"}
ON_ANT_DIR = {"env.variant": "Ant-dir-pearl"}
EXPERIMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "rl2_cheetah_vel": ("rl2_cheetah_vel", {}),
    "maml_trpo_cheetah_vel": ("maml_trpo_cheetah_vel", {}),
    "rl2_cheetah_dir": ("rl2_cheetah_dir", {}),
    "maml_trpo_cheetah_dir": ("maml_trpo_cheetah_dir", {}),
    "varibad_cheetah_vel": ("varibad_cheetah_vel", {}),
    "pearl_cheetah_vel": ("pearl_cheetah_vel", {}),
    "rl2_cheetah_vel_200": ("rl2_cheetah_vel", {**ON_VARIBADS_VEL, "train.meta_batch_size": 30}),
    "maml_trpo_cheetah_vel_200": ("maml_trpo_cheetah_vel", ON_VARIBADS_VEL),
    "varibad_cheetah_dir": ("varibad_cheetah_dir", {}),
    "pearl_cheetah_dir": ("pearl_cheetah_dir", {}),
    "rl2_cheetah_dir_200": ("rl2_cheetah_dir", {**ON_VARIBADS_DIR, "train.meta_batch_size": 30}),
    "maml_trpo_cheetah_dir_200": ("maml_trpo_cheetah_dir", ON_VARIBADS_DIR),
    "varibad_ant_dir": ("varibad_ant_dir", {}),
    "rl2_ant_dir": ("rl2_cheetah_dir", {**ON_ANT_DIR, "train.meta_batch_size": 30}),
    "maml_trpo_ant_dir": ("maml_trpo_cheetah_dir", ON_ANT_DIR),
}
"""For each experiment, its config and what differs from it."""
NUM_TRIALS = 100  # on each held-out task if there are two tasks, else one per task
CURVE_POINTS = 100
STEPS_SHOWN = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)  # in millions


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
    forgetful = isinstance(experiment.agent, RL2Config | VariBADConfig)
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


def report(measured: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown table with one line per experiment; tasks of all seeds together."""
    lines = [
        "| experiment | tasks | untrained | without adapting: any policy ≤ | this one | "
        "first episode | last episode | last − what any reaches | last − this one | seeds | "
        "env steps |",
        "|---|---" + "|---:" * 9 + "|",
    ]
    for name, seeds in measured.items():
        first = seeds[0]
        played = {key: over_seeds(seeds, key) for key in first["returns"]}
        gain = played["last"] - played["kept from adapting"]
        each = ", ".join(f"{np.mean(m['returns']['last']):.1f}" for m in seeds)
        cells = [
            mean_cell(played["untrained"]),
            f"{first['bound_without_adapting']:.1f}",
            *(mean_cell(played[key]) for key in ("kept from adapting", "first", "last")),
            mean_cell(played["last"] - first["bound_without_adapting"]),
            mean_cell(gain),
            each,
            f"{first['env_steps'] / 1e6:.1f} M",
        ]
        lines.append(f"| `{name}` | {first['distribution']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_steps(measured: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown table of the returns of the last episode of a trial in training, by env steps."""
    lines = [
        "| experiment | tasks | " + " | ".join(f"{steps:g} M" for steps in STEPS_SHOWN) + " |",
        "|---|---" + "|---:" * len(STEPS_SHOWN) + "|",
    ]
    in_order = sorted(measured.items(), key=lambda item: item[1][0]["distribution"])
    for name, seeds in in_order:
        found = [[return_at(m, steps) for m in seeds] for steps in STEPS_SHOWN]
        cells = [", ".join("–" if v is None else f"{v:.0f}" for v in values) for values in found]
        lines.append(f"| `{name}` | {seeds[0]['distribution']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def return_at(m: dict[str, Any], millions: float) -> float | None:
    """Return of the last episode at this many million env steps, interpolated; None outside of the
    learning curve."""
    steps = [point["env_steps"] / 1e6 for point in m["curve"]]
    if not steps[0] <= millions <= steps[-1] * 1.01:
        return None
    return float(np.interp(millions, steps, [p["return/last_episode"] for p in m["curve"]]))


def over_seeds(seeds: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """Return on each task, a mean over seeds."""
    return np.mean([m["returns"][key] for m in seeds], axis=0)


def plot(measured: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws learning curves, with the bound for agents that do not adapt."""
    columns = 4
    rows = -(-len(measured) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 3.2 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(measured) :]:
        axis.set_axis_off()
    for axis, (name, seeds) in zip(axes.flat, measured.items(), strict=False):
        for color, when in enumerate(("first", "last")):
            for number, m in enumerate(seeds):
                steps = [point["env_steps"] / 1e6 for point in m["curve"]]
                values = [point[f"return/{when}_episode"] for point in m["curve"]]
                label = None if number else f"{when} episode of a trial"
                axis.plot(steps, values, label=label, color=f"C{color}", alpha=0.9)
        axis.axhline(
            seeds[0]["bound_without_adapting"], color="0.5", linestyle=":", label="no adapting ≤"
        )
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("million env steps")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("return on training tasks")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str]) -> None:
    """Trains, plays, prints and stores the results."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--experiments", nargs="*", default=list(EXPERIMENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runs", type=Path, default="runs", help="where agents are trained")
    parser.add_argument("--output", type=Path, default="results/locomotion")
    options = parser.parse_args(arguments)
    command_line.check_known("experiment", options.experiments, EXPERIMENTS)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.experiments:
        config, changes = EXPERIMENTS[name]
        for seed in options.seeds:
            values = {**changes, "name": name, "seed": seed}
            experiment = load_experiment(CONFIGS / f"{config}.yaml", values)
            result = measure(experiment, options.runs / name / f"seed{seed}")
            path = options.output / f"{name}_seed{seed}.json"
            store(result, path)
    measured = {
        name: [
            json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(options.output.glob(f"{name}_seed*.json"))
        ]
        for name in EXPERIMENTS
    }
    measured = {name: seeds for name, seeds in measured.items() if seeds}
    if not measured:
        command_line.fail(f"nothing is measured in {options.output}; name --experiments to train")
    text = (
        f"{report(measured)}\n\nReturn of the last episode of a trial on training tasks, by env "
        "steps of training, for each seed; a dash where it was trained for less.\n\n"
        f"{by_steps(measured)}"
    )
    (options.output / "locomotion.md").write_text(text + "\n", encoding="utf-8")
    plot(measured, options.output / "locomotion.png")
    print(f"{text}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.locomotion"):
        main(sys.argv[1:])
