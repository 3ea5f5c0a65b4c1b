"""Compares RL²'s memories and heads on four kinds of tasks, with the same budget for each.

python -m benchmarks.memories                                          every cell, two seeds
python -m benchmarks.memories --tasks bandit_50x100 --memories gru retention --heads linear
python -m benchmarks.memories --tasks                                  the table of what is there

A cell is trained in runs/memories/<task>/<memory>_<head>/seed<seed>, from the config of the task; a
stopped run is resumed. Then it plays the held-out tasks of the same distribution, with sampled
actions. Tasks are drawn with `env.seed` 2, so that they are other tasks than those on which results
are published: configs may be chosen by this table. `results/memories/<task>/` holds the scores of
every task and the learning curve, a file for each cell and seed; a cell that has its file is not
trained again. `memories.md` is made from all files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple, get_args

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does

import numpy as np

from benchmarks import command_line
from benchmarks.training import (
    learning_curve,
    play_newest,
    store,
    train_to_the_end,
    training_seconds,
)
from evaluate import EvaluationConfig
from metarl.evaluation.trials import find_shape
from metarl.nn.heads import HeadKind
from metarl.nn.memories import MemoryKind
from metarl.system.command_line import one_line_errors
from metarl.tasks import TaskSet
from metarl.training.experiment import Experiment, load_experiment
from metarl.training.provenance import environment

CONFIGS = Path(__file__).parents[1] / "configs"
ENV_SEED = 2
NUM_TASKS = 500  # held-out tasks, where there are so many


class Setting(NamedTuple):
    """A kind of tasks, and its score on each task."""

    config: str
    """Name of the config, whose values are changed by `options`."""
    options: dict[str, Any]
    episodes: int
    """Episodes of a trial in evaluation."""
    score: str
    """`total`: returns of all episodes together; `success`: in the last episode, at any step."""


SETTINGS = {
    "bandit_50x100": Setting(
        "rl2_bandit",
        {
            "env.num_arms": 50,
            "agent.per_action": False,
            "agent.hidden_size": 64,
            "agent.prediction_coef": 0.0,
            "agent.num_minibatches": 4,
            "agent.learning_rate": 1e-3,
            "agent.learning_rate_decay": 0.996,
            "agent.discount": 0.99,
            "train.env_steps": 3_000_000,
            "train.meta_batch_size": 50,
        },
        100,
        "total",
    ),
    "tabular_25": Setting(
        "rl2_tabular",
        {
            "agent.per_action": False,
            "agent.hidden_size": 64,
            "agent.prediction_coef": 0.0,
            "agent.learning_rate": 1e-3,
            "agent.learning_rate_decay": 0.99,
            "agent.discount": 0.95,
            "agent.gae_lambda": 0.9,
            "agent.num_minibatches": 4,
            "agent.chunk_length": 250,
            "agent.entropy_coef": 0.01,
            "train.env_steps": 3_000_000,
            "train.meta_batch_size": 50,
            "train.episodes_per_trial": 25,
        },
        25,
        "total",
    ),
    "cheetah_vel": Setting(
        "rl2_cheetah_vel",
        {"train.env_steps": 1_500_000, "train.meta_batch_size": 20},
        3,
        "total",
    ),
    "ml1_push": Setting("rl2_ml1_push", {"train.env_steps": 1_500_000}, 3, "success"),
}


def experiment_of(task: str, memory: str, head: str, seed: int) -> Experiment:
    """The experiment of a cell: the task's config with another memory and another head."""
    setting = SETTINGS[task]
    options = {
        **setting.options,
        "name": f"{task}_{memory}_{head}",
        "seed": seed,
        "env.seed": ENV_SEED,
        "agent.memory": memory,
        "agent.layers": 2 if memory == "mixed" else 1,
        "agent.head": head,
        "agent.reenter": head != "linear",
        "train.checkpoint_every": 50,
    }
    return load_experiment(CONFIGS / f"{setting.config}.yaml", options)


def measure(task: str, memory: str, head: str, seed: int, runs: Path) -> dict[str, Any]:
    """Scores of a cell on each held-out task, after its training."""
    setting, experiment = SETTINGS[task], experiment_of(task, memory, head, seed)
    folder = runs / task / f"{memory}_{head}" / f"seed{seed}"
    train_to_the_end(experiment, folder)
    distribution = experiment.env.build()
    tasks = TaskSet(distribution.test[:NUM_TASKS])
    config = EvaluationConfig(tasks_at_once=len(tasks), episodes=setting.episodes)
    shape = find_shape(experiment, None, config)
    checkpoint, curve = play_newest(
        experiment, folder, tasks, shape=shape, at_once=len(tasks), seed=config.seed
    )
    if setting.score == "success":
        scores = curve.scores["success_any"][:, -1]
    else:
        scores = curve.scores["return"].sum(1)
    return {
        "task": task, "memory": memory, "head": head, "seed": seed,
        "distribution": distribution.name, "split_hash": tasks.content_hash,
        "experiment": experiment.model_dump(mode="json"),
        "env_steps": int(checkpoint.name), "training_s": training_seconds(folder),
        "scores": np.round(scores.numpy(), 3).tolist(),
        "curve": learning_curve(folder, points=40), "environment": environment(),
    }  # fmt: skip


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown table: a line for each memory and head, a column for each kind of tasks."""
    lines = [
        "| memory, head | " + " | ".join(SETTINGS) + " |",
        "|---" + "|---:" * len(SETTINGS) + "|",
    ]
    for memory in get_args(MemoryKind):
        for head in get_args(HeadKind):
            found = [
                [c for c in cells if (c["task"], c["memory"], c["head"]) == (task, memory, head)]
                for task in SETTINGS
            ]
            if any(found):
                shown = (
                    entry(SETTINGS[task], of) for task, of in zip(SETTINGS, found, strict=True)
                )
                lines.append(f"| {memory}, {head} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def entry(setting: Setting, cells: list[dict[str, Any]]) -> str:
    """Mean over tasks, for each seed and over seeds; '–' where nothing was measured."""
    if not cells:
        return "–"
    means = [float(np.mean(c["scores"])) for c in sorted(cells, key=lambda c: c["seed"])]
    form = "{:.0%}" if setting.score == "success" else "{:.1f}"
    each = ", ".join(form.format(mean) for mean in means)
    return f"**{form.format(np.mean(means))}** ({each})"


def report(folder: Path) -> str:
    """The table of all files, and the conditions of the measurement."""
    files = sorted(folder.glob("*/*.json"))
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    if not cells:
        command_line.fail(f"nothing is measured in {folder}; name --tasks to train on")
    budgets = ", ".join(
        f"{task} {setting.options['train.env_steps'] / 1e6:g} M"
        for task, setting in SETTINGS.items()
    )
    return (
        f"{table(cells)}\n\nMeans over held-out tasks of `env.seed` {ENV_SEED}; in brackets each "
        "seed. Total reward of a trial (bandits: 100 pulls; MDPs: 25 episodes; HalfCheetah: 3), or "
        f"success in the third episode (ML1-push). Env steps of training: {budgets}. Chance on "
        "bandits is 50. `mixed` has two blocks, all others one; mlp and hypernetwork read the "
        "present input again."
    )


def main(arguments: list[str]) -> None:
    """Trains, plays, prints and stores the results."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(SETTINGS))
    parser.add_argument("--memories", nargs="+", default=list(get_args(MemoryKind)))
    parser.add_argument("--heads", nargs="+", default=list(get_args(HeadKind)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runs", type=Path, default="runs/memories", help="where it is trained")
    parser.add_argument("--output", type=Path, default="results/memories", help="for the table")
    options = parser.parse_args(arguments)
    command_line.check_known("task", options.tasks, SETTINGS)
    command_line.check_known("memory", options.memories, get_args(MemoryKind))
    command_line.check_known("head", options.heads, get_args(HeadKind))
    for seed in options.seeds:
        for task in options.tasks:
            for memory in options.memories:
                for head in options.heads:
                    stored = options.output / task / f"{memory}_{head}_seed{seed}.json"
                    if not stored.exists():
                        cell = measure(task, memory, head, seed, options.runs)
                        store(cell, stored)
    text = report(options.output)
    (options.output / "memories.md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.memories"):
        main(sys.argv[1:])
