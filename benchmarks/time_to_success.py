"""Measures training time and env steps until held-out tasks succeed.

python -m benchmarks.time_to_success rl2_ml1_reach
python -m benchmarks.time_to_success maml_trpo_ml1_reach --every 1
python -m benchmarks.time_to_success maml_trpo_ml1_reach --every 1 --engine reference

Trains an experiment of configs/ with frequent checkpoints, and then plays each checkpoint on all
held-out tasks as in training. Success is that of the last episodes of a trial, at any step. Time is
that of rollouts and updates until the checkpoint, without evaluation. With `--engine reference` the
agent is trained on the official environment objects, and still evaluated on the native engine,
which plays the same to the bit.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import command_line
from benchmarks.training import train_to_the_end
from evaluate import EvaluationConfig
from metarl.evaluation.trials import find_trials, measure
from metarl.system.command_line import one_line_errors
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import load_experiment
from metarl.training.provenance import environment
from metarl.training.run import METRICS
from train import DEFAULT_CONFIG


def seconds_until(folder: Path) -> dict[int, float]:
    """Time spent in rollouts and updates (s), by env steps."""
    seconds, until = 0.0, {0: 0.0}
    for line in map(json.loads, (folder / METRICS).read_text(encoding="utf-8").splitlines()):
        seconds += line["timing/rollout_s"] + line["timing/update_s"]
        until[line["env_steps"]] = round(seconds, 1)
    return until


def success_of_checkpoints(folder: Path, *, tasks: Path, until: float) -> list[dict[str, Any]]:
    """Results of each checkpoint, from the first to the one with enough success on the held-out
    tasks of a config file."""
    seconds, rows = seconds_until(folder), []
    for checkpoint in checkpoints(folder / "checkpoints"):
        config = EvaluationConfig(checkpoint=int(checkpoint.name), tasks=str(tasks))
        evaluation = measure(find_trials(folder, config), config, None)
        success = float(evaluation.curve.scores["success_any"][:, -1].mean())
        taken = seconds[int(checkpoint.name)]
        rows.append({"env_steps": int(checkpoint.name), "seconds": taken, "success": success})
        print(f"{taken:6.0f} s {rows[-1]['env_steps']:>10,} env steps {success:6.1%}")
        if success >= until:
            break
    return rows


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = command_line.parser(__doc__)
    parser.add_argument("experiment", help="of configs/")
    parser.add_argument("--env-steps", type=int, default=2_000_000, help="to train for")
    parser.add_argument("--every", type=int, default=4, help="iterations between checkpoints")
    parser.add_argument("--until", type=float, default=0.8, help="success that is enough")
    parser.add_argument("--engine", choices=("native", "reference"), help="to train on")
    parser.add_argument("--runs", type=Path, default=Path("runs/time_to_success"), help="where")
    parser.add_argument("--out", type=Path, help="where the raw numbers go")
    options = parser.parse_args(arguments)
    changes = {"train.env_steps": options.env_steps, "train.checkpoint_every": options.every}
    if options.engine:
        changes["env.engine"] = options.engine
    config = DEFAULT_CONFIG.parent / f"{options.experiment}.yaml"
    experiment = load_experiment(config, changes)
    folder = options.runs / options.experiment
    train_to_the_end(experiment, folder)
    rows = success_of_checkpoints(folder, tasks=config, until=options.until)
    if options.out:
        options.out.write_text(
            json.dumps({"environment": environment(), "rows": rows}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    with one_line_errors("benchmarks.time_to_success"):
        main(sys.argv[1:])
