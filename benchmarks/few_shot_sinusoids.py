"""Squared error of MAML, Reptile and a network without meta-learning on held-out sinusoids.

python -m benchmarks.few_shot_sinusoids          about five minutes on 2 cores

Each learner is trained once by its file in configs/; the one without meta-learning trains MAML's
network on the points of all sinusoids. Then all take gradient steps on the same 10 points of the
same 600 held-out sinusoids. Intervals are over sinusoids. Runs are kept in runs/few_shot_sinusoids
and resumed if they were stopped; remove them to train anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import command_line
from benchmarks.few_shot_accuracy import EPISODES, RESULTS, ROOT, said_of_stored, trained
from metarl.evaluation.few_shot import few_shot_curve, summarize_few_shot
from metarl.evaluation.statistics import Estimate, said_of_intervals
from metarl.report.terminal import with_interval
from metarl.system.command_line import one_line_errors
from metarl.training.provenance import environment
from metarl.training.run import METRICS

SHOTS, STEPS = 10, (0, 1, 5, 32)
PRETRAINED = {
    "agent.adapt_in_training": False,
    "agent.learn_inner_learning_rate": False,
    "train.tasks": 25_000,
    "agent.decay_updates": 1000,
}
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "MAML": ("maml_sinusoid", {}),
    "Reptile": ("reptile_sinusoid", {}),
    "without meta-learning": ("maml_sinusoid", PRETRAINED),
}
PUBLISHED = "Published for MAML after one step, 10 shots: 0.67 to 0.77."


def measure(name: str) -> dict[str, Any]:
    """Trains a learner and measures its error after gradient steps."""
    config, changes = LEARNERS[name]
    folder = ROOT / "runs" / "few_shot_sinusoids" / name.replace(" ", "_")
    experiment, distribution, learner = trained(config, folder, changes)
    curve = few_shot_curve(
        learner, distribution.test, axis="gradient steps", steps=STEPS, shots=[SHOTS],
        num_tasks=EPISODES,
    )  # fmt: skip
    lines = [
        json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()
    ]
    return {
        "experiment": experiment.model_dump(mode="json"),
        "split_hash": distribution.test.content_hash,
        "training_s": sum(line["timing/draw_s"] + line["timing/update_s"] for line in lines),
        "steps": list(STEPS),
        **{measure: asdict(estimate) for measure, estimate in summarize_few_shot(curve).items()},
        "intervals": said_of_intervals(None, EPISODES, bounded=None),
        "environment": environment(),
    }


def table(results: dict[str, Any]) -> str:
    """All results as Markdown."""
    heads = ["before", *(f"{n} step{'s' if n > 1 else ''}" for n in STEPS[1:])]
    lines = [
        "# Squared error on held-out sinusoids",
        "",
        f"{SHOTS} points, {EPISODES} sinusoids, the same for all; mean, with "
        f"{said_of_stored(results)}. {PUBLISHED} "
        "Made by `python -m benchmarks.few_shot_sinusoids`.",
        "",
        f"| | {' | '.join(heads)} | training, s |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for name, row in results.items():
        loss = Estimate(**row["loss"])
        cells = [with_interval(loss, column, ".3g") for column in range(len(STEPS))]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['training_s']:.0f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """The command line."""
    command_line.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = {name: measure(name) for name in LEARNERS}
    (RESULTS / "sinusoids.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (RESULTS / "sinusoids.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    with one_line_errors("benchmarks.few_shot_sinusoids"):
        main()
