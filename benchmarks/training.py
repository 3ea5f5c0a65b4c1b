"""Functions shared by benchmarks that train agents and play with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from metarl.errors import UserError
from metarl.rollout.task_set import play
from metarl.system.files import written_whole
from metarl.tasks import TaskSet
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import Experiment, build_agent, load_experiment
from metarl.training.run import CONFIG, METRICS, load_agent
from metarl.types import AdaptationCurve, TrialShape
from train import train


def train_to_the_end(experiment: Experiment, folder: Path) -> None:
    """Trains an experiment, or the rest of it, in a folder.

    Raises:
        UserError: the folder holds a run with other values.
    """
    new = not folder.exists()
    if not new and load_experiment(folder / CONFIG) != experiment:
        raise UserError(
            f"{folder} was trained with other values; move it away or name other --runs"
        )
    done = [] if new else checkpoints(folder / "checkpoints")
    if not done or int(done[-1].name) < experiment.train.env_steps:
        train(experiment, folder, new=new)


def play_newest(
    experiment: Experiment, folder: Path, tasks: TaskSet[Any], *, shape: TrialShape, at_once: int,
    seed: int,
) -> tuple[Path, AdaptationCurve]:  # fmt: skip
    """The newest checkpoint of a run, and how it plays these tasks, with sampled actions."""
    env = experiment.env.build().make_env(at_once * shape.slots_per_task)
    agent = build_agent(experiment, env)
    checkpoint = checkpoints(folder / "checkpoints")[-1]
    load_agent(agent, checkpoint)
    curve = play(agent, env, tasks, shape=shape, seed=seed)
    env.close()
    return checkpoint, curve


def store(result: dict[str, Any], path: Path) -> None:
    """Writes a result as one line of JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_text(json.dumps(result) + "\n", encoding="utf-8")


def learning_curve(folder: Path, *, points: int, of: str = "return") -> list[dict[str, float]]:
    """Mean returns, or success, of all, the first and the last episode of a trial over stretches of
    training."""
    lines = [
        json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()
    ]
    keys = ("env_steps", f"train/{of}", f"{of}/first_episode", f"{of}/last_episode")
    return [
        {key: round(float(np.mean([lines[i][key] for i in part])), 3) for key in keys}
        for part in np.array_split(np.arange(len(lines)), min(points, len(lines)))
    ]


def training_seconds(folder: Path) -> float:
    """Time spent in rollouts and updates (s), over all starts of a run."""
    lines = [
        json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()
    ]
    return round(sum(line["timing/rollout_s"] + line["timing/update_s"] for line in lines), 1)
