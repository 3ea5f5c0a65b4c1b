"""Accuracy of four few-shot learners on held-out glyphs and digits, in one table.

python -m benchmarks.few_shot_accuracy                     all: about an hour on 2 cores
python -m benchmarks.few_shot_accuracy --only maml_glyphs  one experiment; keeps the others

Each learner is trained once by its file in configs/. All of them, and the nearest neighbour in
pixel space, are evaluated on the same 600 5-way tasks of held-out classes, with 1 and with 5 shots.
Intervals are over tasks; the difference to the nearest neighbour is paired by task. Runs are kept
in runs/few_shot_accuracy and resumed if they were stopped; remove them to train anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import train
from benchmarks import command_line
from metarl.evaluation.few_shot import few_shot_curve, nearest_neighbour_curve, summarize_few_shot
from metarl.evaluation.statistics import Estimate, said_of_intervals
from metarl.protocols import FewShotDistribution, FewShotLearner
from metarl.system.command_line import one_line_errors
from metarl.training.experiment import build_learner, load
from metarl.training.provenance import environment
from metarl.training.run import CONFIG, Run
from metarl.types import FewShotCurve

LEARNERS = ("maml", "reptile", "prototypical", "matching")
DATA = ("glyphs", "digits")
SHOTS = (1, 5)
EPISODES = 600
BOOTSTRAP = "95 % intervals over tasks: percentile bootstraps"
"""Description of the intervals of results that do not describe them."""
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "few_shot"


def trained(
    config: str, folder: Path, options: dict[str, Any] | None = None
) -> tuple[train.FewShotExperiment, FewShotDistribution, FewShotLearner]:
    """An experiment of configs/ with some options, its tasks and its trained learner."""
    new = not folder.exists()
    path = ROOT / "configs" / f"{config}.yaml"
    experiment = load(path, options) if new else load(folder / CONFIG)
    assert isinstance(experiment, train.FewShotExperiment)
    train.train(experiment, folder, new=new)
    distribution = experiment.env.build()
    learner = build_learner(experiment, distribution.shape)
    Run(folder, learner, unit="tasks").close()
    return experiment, distribution, learner


def measure(name: str) -> dict[str, Any]:
    """Trains an experiment and compares it with the nearest neighbour."""
    experiment, distribution, learner = trained(name, ROOT / "runs" / "few_shot_accuracy" / name)
    learned = few_shot_curve(
        learner, distribution.test, axis="shots", shots=SHOTS, num_tasks=EPISODES
    )
    pixels = pixel_neighbours(distribution)
    encoder = experiment.agent.encoder
    return {
        "experiment": experiment.model_dump(mode="json"),
        "split_hash": distribution.test.content_hash,
        "episodes": EPISODES,
        "batch_norm": encoder.batch_norm,
        "shots": list(SHOTS),
        **{m: asdict(estimate) for m, estimate in summarize_few_shot(learned).items()},
        "nearest_neighbour": asdict(summarize_few_shot(pixels)["accuracy"]),
        "difference": asdict(difference(learned, pixels)),
        "intervals": said_of_intervals(None, EPISODES, bounded="accuracy"),
        "environment": environment(),
    }


def pixel_neighbours(distribution: FewShotDistribution) -> FewShotCurve:
    """The nearest neighbour on the same tasks."""
    return nearest_neighbour_curve(
        distribution.test, distribution.shape.num_outputs, shots=SHOTS, num_tasks=EPISODES
    )


def difference(learned: FewShotCurve, pixels: FewShotCurve) -> Estimate:
    """Difference in accuracy, paired by task."""
    paired = learned.scores["accuracy"] - pixels.scores["accuracy"]
    curve = FewShotCurve(axis="shots", experience=learned.experience, scores={"gain": paired})
    return summarize_few_shot(curve)["gain"]


def said_of_stored(results: dict[str, Any]) -> str:
    """Description of the intervals of stored results."""
    return " or ".join(dict.fromkeys(row.get("intervals", BOOTSTRAP) for row in results.values()))


def table(results: dict[str, Any]) -> str:
    """All results as Markdown."""
    lines = [
        "# Few-shot accuracy on held-out classes",
        "",
        f"5-way, {EPISODES} episodes, the same for all; {said_of_stored(results)}. "
        "Chance is 20 %. Each learner was trained once, on the episodes that its row names, and "
        "judged with 1 and with 5 shots. Made by `python -m benchmarks.few_shot_accuracy`.",
    ]
    for data in DATA:
        rows = {k: v for k, v in results.items() if k.endswith(f"_{data}")}
        if not rows:
            continue
        lines += [
            "",
            f"## {data.capitalize()}",
            "",
            "| | 1 shot | above pixels | 5 shots | above pixels | trained on | BatchNorm |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, row in rows.items():
            cells = [percent(row["accuracy"], 0), percent(row["difference"], 0, sign=True)]
            cells += [percent(row["accuracy"], 1), percent(row["difference"], 1, sign=True)]
            cells += [trained_on(row["experiment"]["env"]), row["batch_norm"]]
            lines.append(f"| {name.partition('_')[0]} | {' | '.join(cells)} |")
        pixels = next(iter(rows.values()))["nearest_neighbour"]
        cells = [percent(pixels, 0), "", percent(pixels, 1), "", "", ""]
        lines.append(f"| nearest neighbour in pixel space | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def trained_on(env: dict[str, Any]) -> str:
    """The training tasks of an experiment, in words."""
    return f"{env['train_ways'] or env['ways']}-way {env['shots']}-shot"


def percent(estimate: dict[str, list[float]], column: int, *, sign: bool = False) -> str:
    """A value with its interval, in percent."""
    value, low, high = (100 * estimate[key][column] for key in ("value", "low", "high"))
    plus = "+" if sign else ""
    return f"{value:{plus}.1f} [{low:{plus}.1f}, {high:{plus}.1f}]"


def main() -> None:
    """The command line."""
    parser = command_line.parser(__doc__)
    names = [f"{learner}_{data}" for data in DATA for learner in LEARNERS]
    parser.add_argument(
        "--only", nargs="+", default=names, help="experiments, by their file's name"
    )
    chosen = parser.parse_args().only
    for name in chosen:
        if name not in names:
            command_line.fail(f"{name} is none of {', '.join(names)}")
    torch.set_num_threads(1)
    np.seterr(all="raise", under="ignore")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        (RESULTS / f"{name}.json").write_text(json.dumps(measure(name), indent=1), encoding="utf-8")
    results = {
        name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in names
        if (RESULTS / f"{name}.json").exists()
    }
    (RESULTS / "accuracy.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    with one_line_errors("benchmarks.few_shot_accuracy"):
        main()
