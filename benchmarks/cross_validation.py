"""Judges settings by classes that were left out of training, without playing any test class.

python -m benchmarks.cross_validation                         every recipe, five folds, seed 1
python -m benchmarks.cross_validation rl2_ml10 std_floor      two of them
python -m benchmarks.cross_validation rl2_ml10 --folds 1 2    two of the five folds
python -m benchmarks.cross_validation --table                 the table of what is there

A recipe is a config of a Meta-World benchmark, with other values of some settings. For each fold it
is trained on the classes outside, in runs/cross_validation/<recipe>/fold<k>_seed<s>, with the same
budget for every recipe; a stopped run is resumed. Then it plays the training goals of the classes
inside as in Meta-World's protocol: ten episodes to adapt in, then test episodes, with sampled
actions. `results/cross_validation/` holds the scores of every episode, a file for each fold and
seed; what has its file is not trained again. `cross_validation.md` is made from all files. For one
process a core, name other folds in each.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

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
from metarl.errors import UserError
from metarl.evaluation.record import METAWORLD
from metarl.evaluation.statistics import SHARE, Bounds, estimate
from metarl.evaluation.trials import find_shape
from metarl.report.terminal import with_interval
from metarl.system.command_line import one_line_errors
from metarl.system.files import read_json
from metarl.training.experiment import Experiment, load_experiment
from metarl.training.experiment import experiment_of as parsed
from metarl.training.provenance import environment

CONFIGS = Path(__file__).parents[1] / "configs"
FOLDS = 5
ENV_STEPS = 5_000_000
BASELINE = "rl2_ml10"
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    BASELINE: ("rl2_ml10", {}),
    "entropy": ("rl2_ml10", {"agent.entropy_coef": 1e-3}),
    "std_floor": (
        "rl2_ml10",
        {"agent.learn_std": True, "agent.min_std": 0.5, "agent.entropy_coef": 1e-3},
    ),
    "std_1": ("rl2_ml10", {"agent.initial_std": 1.0}),
    "ten_episodes": ("rl2_ml10", {"train.episodes_per_trial": 10, "train.meta_batch_size": 16}),
    "recurrence": ("rl2_ml10", {"agent.memory": "recurrence"}),
    "mixed": ("rl2_ml10", {"agent.memory": "mixed", "agent.layers": 2}),
    "prediction": ("rl2_ml10", {"agent.prediction_coef": 1.0}),
    "linear_attention": (
        "rl2_ml10",
        {"agent.memory": "linear_attention", "agent.prediction_coef": 1.0},
    ),
    "reenter": ("rl2_ml10", {"agent.reenter": True, "agent.head": "mlp"}),
    "hypernetwork": ("rl2_ml10", {"agent.reenter": True, "agent.head": "hypernetwork"}),
    "two_hot": ("rl2_ml10", {"agent.value_loss": "two_hot", "agent.root_values": False}),
    "maml_trpo_ml10": ("maml_trpo_ml10", {"train.meta_batch_size": 8}),
}
"""For each recipe, its config and what differs from it; names of changes tell what is changed."""


def experiment_of(recipe: str, fold: int, seed: int) -> Experiment:
    """The experiment that trains a recipe without the classes of a fold."""
    config, changes = RECIPES[recipe]
    options = {
        "train.env_steps": ENV_STEPS,
        **changes,
        "name": recipe,
        "seed": seed,
        "env.fold": fold,
        "env.folds": FOLDS,
    }
    return load_experiment(CONFIGS / f"{config}.yaml", options)


def measure(recipe: str, fold: int, seed: int, runs: Path) -> dict[str, Any]:
    """Scores on the classes of a fold, and the learning curve on the others."""
    experiment = experiment_of(recipe, fold, seed)
    folder = runs / recipe / f"fold{fold}_seed{seed}"
    train_to_the_end(experiment, folder)
    distribution = experiment.env.build()
    tasks = distribution.test
    config = EvaluationConfig(tasks_at_once=50)
    shape = find_shape(experiment, METAWORLD, config)
    checkpoint, curve = play_newest(
        experiment, folder, tasks, shape=shape, at_once=config.tasks_at_once, seed=config.seed
    )
    return {
        "recipe": recipe, "fold": fold, "seed": seed, "distribution": distribution.name,
        "split_hash": tasks.content_hash, "env_steps": int(checkpoint.name),
        "training_s": training_seconds(folder), "classes": curve.env_names,
        "experience": curve.experience,
        "success": np.round(curve.scores["success_any"].numpy(), 4).tolist(),
        "success_last_step": np.round(curve.scores["success_last"].numpy(), 4).tolist(),
        "curve": learning_curve(folder, points=40, of="success"),
        "experiment": experiment.model_dump(mode="json"), "environment": environment(),
    }  # fmt: skip


# -- the table -------------------------------------------------------------------------------------


def by_class(runs: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Success in the first and in the test episodes for each held-out class, a mean over its goals
    and over seeds."""
    found = defaultdict(list)
    for run in runs:
        scores, classes = np.asarray(run["success"]), np.asarray(run["classes"])
        tests = np.asarray(run["experience"]) >= METAWORLD.adaptation_episodes
        first_and_test = np.stack([scores[:, 0], scores[:, tests].mean(1)], axis=1)
        for name in dict.fromkeys(run["classes"]):
            found[name].append(first_and_test[classes == name].mean(0))
    return {name: np.mean(each, axis=0) for name, each in found.items()}


DIFFERENCE: Bounds = (-1.0, 1.0)


def cell(values: np.ndarray, bounds: Bounds) -> str:
    """A mean over classes, with its 95 % interval."""
    return with_interval(estimate(values[:, None], bounds=bounds), 0, ".0%")


def line(recipe: str, runs: list[dict[str, Any]], baseline: dict[str, np.ndarray]) -> str:
    """A line of the table; the difference is over the classes that both have."""
    classes = by_class(runs)
    first, test = np.stack(list(classes.values())).T
    cells = [cell(first, SHARE), cell(test, SHARE), cell(test - first, DIFFERENCE)]
    common = [name for name in classes if name in baseline and recipe != BASELINE]
    difference = [classes[name][1] - baseline[name][1] for name in common]
    cells.append(cell(np.array(difference), DIFFERENCE) if common else "–")
    trained = np.mean([run["curve"][-1]["success/last_episode"] for run in runs])
    folds = sorted({run["fold"] for run in runs})
    seeds = sorted({run["seed"] for run in runs})
    return (
        f"| `{recipe}` | {' | '.join(cells)} | {trained:.0%} | {len(classes)} classes, folds "
        f"{', '.join(map(str, folds))} | {', '.join(map(str, seeds))} | "
        f"{np.mean([run['training_s'] for run in runs]) / 60:.0f} min |"
    )


def read(path: Path) -> dict[str, Any]:
    """A stored result.

    Raises:
        UserError: the file is damaged, or the recipe has other values by now.
    """
    run = read_json(path, dict[str, Any])
    recipe, fold, seed = run.get("recipe"), run.get("fold"), run.get("seed")
    if recipe not in RECIPES:
        raise UserError(f"{path} is of a recipe that there is no more; move it away")
    # Options that came later have their defaults.
    if parsed(run["experiment"], source=str(path)) != experiment_of(recipe, fold, seed):
        raise UserError(f"{path} was made with other values of {recipe}; move it away")
    return run


def report(folder: Path) -> str:
    """The table of all files, and the conditions of the measurement."""
    files = sorted(folder.glob("*/*.json"))
    runs = [read(path) for path in files]
    if not runs:
        command_line.fail(f"nothing is measured in {folder}; name recipes to train")
    of = {recipe: [run for run in runs if run["recipe"] == recipe] for recipe in RECIPES}
    baseline = by_class(of[BASELINE])
    lines = [
        f"| recipe | first episode | after ten | rise | after ten, against `{BASELINE}` | training "
        "classes | judged on | seeds | training of a fold |",
        "|---" + "|---:" * 5 + "|---|---|---:|",
        *(line(recipe, found, baseline) for recipe, found in of.items() if found),
    ]
    return (
        "\n".join(lines)
        + "\n\nSuccess at any step of an episode, on classes that were left out of training: means "
        "over classes, with 95 % intervals over classes (Wilson's). "
        f"{FOLDS} folds of the training classes of ML10, 50 goals a "
        f"class, sampled actions, {ENV_STEPS / 1e6:g} M env steps for each fold. *Training "
        "classes*: last episode of a trial, in the last fortieth of training."
    )


def main(arguments: list[str]) -> None:
    """Trains, plays, prints and stores the results."""
    parser = command_line.parser(__doc__)
    parser.add_argument("recipes", nargs="*", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(1, FOLDS + 1)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--runs", type=Path, default="runs/cross_validation")
    parser.add_argument("--output", type=Path, default="results/cross_validation")
    options = parser.parse_args(arguments)
    command_line.check_known("recipe", options.recipes, RECIPES)
    for fold in options.folds:
        if not 1 <= fold <= FOLDS:
            command_line.fail(f"--folds are 1 to {FOLDS}, not {fold}")
    for seed in options.seeds if not options.table else ():
        for fold in options.folds:
            for recipe in options.recipes or RECIPES:
                stored = options.output / recipe / f"fold{fold}_seed{seed}.json"
                if not stored.exists():
                    store(measure(recipe, fold, seed, options.runs), stored)
    text = report(options.output)
    (options.output / "cross_validation.md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nStored in {options.output}")


if __name__ == "__main__":
    with one_line_errors("benchmarks.cross_validation"):
        main(sys.argv[1:])
