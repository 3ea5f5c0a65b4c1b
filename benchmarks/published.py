"""Publishes runs under results/ and makes results/README.md from all published runs.

python -m benchmarks.published                                  only the tables and the picture
python -m benchmarks.published runs/rl2_ml1_reach/seed1 …       these finished runs first
python -m benchmarks.published --unfinished runs/…              stopped runs in their current state
python -m benchmarks.published --complete                       plays what published runs lack

The table at the top of README.md is made here too. A published run is a run folder: config,
environment, metrics (thinned), the final checkpoint without its optimizer, and evaluations with
every score of every task. So `python evaluate.py results/EXPERIMENT/SEED` plays it again. The last
checkpoint is published, even if another one was better.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import command_line
from benchmarks.published_tables import (
    EXPERIENCE,
    OFFICIAL,
    README,
    RESULTS,
    TRAINING,
    Published,
    found_experiments,
    opening_table,
    plot,
    results_page,
    with_opening_table,
)
from benchmarks.training import training_seconds
from evaluate import EvaluationConfig
from metarl.errors import UserError
from metarl.evaluation.record import CHECKSUM, write_stored
from metarl.evaluation.trials import Trials, evaluation_file, find_trials, measure
from metarl.report.evaluating import evaluate
from metarl.system.command_line import one_line_errors
from metarl.system.console import plain_console
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import load_run
from metarl.training.run import CONFIG, METRICS, publish_checkpoint

KEPT_LINES = 200
"""Number of lines of metrics to keep, including the last."""


def publish(run: Path, results: Path, *, unfinished: bool) -> Path:
    """Copies the published part of a run, after evaluating it if necessary.

    Args:
        unfinished: also accept a run whose budget is not used up; the tables mark it.

    Raises:
        UserError: the run is not finished, or it is published already.
    """
    trials = find_trials(run, EvaluationConfig())
    experiment = load_run(run)
    if trials.env_steps < experiment.train.env_steps and not unfinished:
        raise UserError(
            f"{run} stopped at {trials.env_steps:,} of {experiment.train.env_steps:,} env steps; "
            f"go on with: python train.py --resume {run}, or publish it as it is: --unfinished"
        )
    target = results / experiment.name / f"seed{experiment.seed}"
    if target.exists():
        raise UserError(f"{target} is published already; remove it first")
    files = [evaluated(run, config) for config in evaluations(trials)]
    if (run / OFFICIAL).exists():
        files.append(run / OFFICIAL)
    partial_target = target.with_name(f".partial-{target.name}")
    shutil.rmtree(partial_target, ignore_errors=True)
    (partial_target / "eval").mkdir(parents=True)
    shutil.copy(run / CONFIG, partial_target)
    starts = json.loads((run / "env.json").read_text(encoding="utf-8"))
    (partial_target / "env.json").write_text(
        json.dumps(without_places(starts), indent=1), encoding="utf-8"
    )
    for file in files:
        evaluation = json.loads(file.read_text(encoding="utf-8"))
        store_without_places(evaluation, partial_target / "eval" / file.name)
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
    every = -(-len(lines) // KEPT_LINES)
    (partial_target / METRICS).write_text("".join(lines[::-1][::every][::-1]), encoding="utf-8")
    (partial_target / TRAINING).write_text(
        json.dumps({"training_s": training_seconds(run)}), encoding="utf-8"
    )
    last = checkpoints(run / "checkpoints")[-1]
    publish_checkpoint(last, partial_target / "checkpoints" / last.name)
    return partial_target.rename(target)


def complete(folder: Path) -> list[Path]:
    """Plays and stores the evaluations that a published run lacks; their files."""
    added = []
    published = Published([folder])
    for config in evaluations(find_trials(folder, EvaluationConfig())):
        trials = find_trials(folder, config)
        path = evaluation_file(trials, config)
        if not published.read(config.split, protocol=config.protocol, greedy=config.greedy):
            evaluation = measure(trials, config, None)
            with TemporaryDirectory() as scratch:
                whole = Path(scratch) / path.name
                evaluation.write(whole)
                store_without_places(json.loads(whole.read_text(encoding="utf-8")), path)
            added.append(path)
    return added


def store_without_places(evaluation: dict[str, Any], path: Path) -> None:
    """Stores a written evaluation without the machine's paths."""
    evaluation.pop(CHECKSUM, None)
    (evaluation["environment"],) = without_places([evaluation["environment"]])
    write_stored(path, evaluation)


def without_places(environments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copy of `environments` without the machine's paths in commands."""
    return [
        {**each, "command": " ".join(
            Path(word).name if Path(word).is_absolute() else word
            for word in each["command"].split(" ")
        )}
        for each in environments
    ]  # fmt: skip


def evaluations(trials: Trials) -> list[EvaluationConfig]:
    """Options of all evaluations of a run.

    Held-out and training tasks are evaluated with ten episodes of experience. If there are several
    classes, both are evaluated by Meta-World's own protocol too, and the many training tasks only
    by that. Agents that can play greedily do so on the held-out tasks too.
    """
    at_once = trials.shape.slots_per_task
    rounds = math.ceil(EXPERIENCE[-1] / at_once) + 1  # the last shows the result
    total = rounds * at_once
    episodes = None if total == trials.shape.total_episodes else total
    held_out = [EvaluationConfig(episodes=episodes)]
    if trials.shape.rollouts == 1:
        held_out.append(EvaluationConfig(episodes=episodes, greedy=True))
    if len({task.env_name for task in trials.tasks}) > 1:
        protocol = [EvaluationConfig(split=s, protocol="metaworld") for s in ("test", "train")]
        return [*held_out, *protocol]
    return [*held_out, EvaluationConfig(split="train", episodes=episodes)]


def evaluated(run: Path, config: EvaluationConfig) -> Path:
    """The file of an evaluation, which is played if there is none."""
    trials = find_trials(run, config)
    path = evaluation_file(trials, config)
    if not path.exists():
        evaluate(trials, config, plain_console(), None)
    return path


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = command_line.parser(__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="runs to publish")
    parser.add_argument("--unfinished", action="store_true", help="also those that were stopped")
    parser.add_argument("--complete", action="store_true", help="plays what published runs lack")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where")
    options = parser.parse_args(arguments)
    for run in options.runs:
        print(f"Published {publish(run, options.results, unfinished=options.unfinished)}")
    experiments = found_experiments(options.results)
    for folder in (f for each in experiments if options.complete for f in each.folders):
        for path in complete(folder):
            print(f"Played {path}")
    if not experiments:
        raise UserError("nothing is published yet; name a finished run")
    (options.results / "README.md").write_text(results_page(experiments), encoding="utf-8")
    plot(experiments, options.results / "adaptation.png")
    print(f"Made {options.results / 'README.md'}")
    if options.results == RESULTS:
        opened = with_opening_table(README.read_text(encoding="utf-8"), opening_table(experiments))
        README.write_text(opened, encoding="utf-8")
        print(f"Made the table that opens {README.name}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.published"):
        main(sys.argv[1:])
