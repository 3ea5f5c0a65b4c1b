"""Tables and picture of all runs published under results/.

Only the numbers published by others are written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float

from metarl.config import read_yaml
from metarl.errors import UserError
from metarl.evaluation.paired import mean_over_runs
from metarl.evaluation.record import METAWORLD, Evaluation
from metarl.evaluation.statistics import SHARE, iqm
from metarl.report.terminal import with_interval
from metarl.training.checkpoint import checkpoints
from metarl.training.run import CONFIG

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
README = ROOT / "README.md"
CONFIGS = ROOT / "configs"
ELSEWHERE = RESULTS / "published_elsewhere.md"
"""The only part that is written by hand."""
TRAINING = "training.json"
"""File with the time of a training, in the folder of each published run."""
OFFICIAL = Path("eval") / "official.json"
"""File with the results of `benchmarks/official_evaluation.py`, in the same folder."""
EXPERIENCE = (0, 1, 2, 5, 10)
"""Episodes of experience of the columns of the table."""
AIMS = {
    ("rl2_ml1_reach", "test"): 0.95,
    ("maml_trpo_ml1_reach", "test"): 0.9,
    ("rl2_ml1_push", "test"): 0.8,
    ("rl2_ml1_pick_place", "test"): 0.6,
    ("rl2_ml10", "train"): 0.6,
    ("rl2_ml10", "test"): 0.35,
    ("maml_trpo_ml10", "train"): 0.6,
    ("maml_trpo_ml10", "test"): 0.31,
    ("maml_trpo_ml10_30m", "train"): 0.6,
    ("maml_trpo_ml10_30m", "test"): 0.31,
}
"""Targets of success at any step, by experiment and split."""
OPENS, CLOSES = "<!-- made by benchmarks/published.py -->", "<!-- end -->"
"""Marks around the table in README.md."""
PLOTS_IN_A_ROW = 5


@dataclass(frozen=True)
class Published:
    """All published seeds of an experiment."""

    folders: Sequence[Path]

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.folders[0].parent.name

    def read(
        self, split: str, *, protocol: str = "curve", greedy: bool = False
    ) -> list[Evaluation]:
        """The evaluation of each seed by a protocol, with sampled or greedy actions; empty if there
        are none.

        Raises:
            UserError: a seed has several, or their tasks differ.
        """
        found = {}
        for path in (p for f in self.folders for p in sorted((f / "eval").glob(f"{split}_*.json"))):
            evaluation = Evaluation.read(path)
            if (evaluation.options["protocol"], evaluation.options["greedy"]) == (protocol, greedy):
                if evaluation.seed in found:
                    raise UserError(f"{path} is one too many of this seed; remove one of them")
                found[evaluation.seed] = evaluation
        if len({evaluation.split_hash for evaluation in found.values()}) > 1:
            raise UserError(f"seeds of {self.name} were not evaluated on the same tasks")
        return list(found.values())

    def curves(self, split: str) -> list[Evaluation]:
        """Evaluation of each seed, by Meta-World's protocol if there is no other."""
        return self.read(split) or self.read(split, protocol="metaworld")

    def test_success(self, split: str) -> list[float]:
        """Success of each seed in the test episodes of Meta-World's protocol, if that was
        played."""
        found = self.read(split, protocol="metaworld")
        return [success[0].value[0] for e in found if (success := e.test_success())]

    def after_ten_episodes(self, split: str) -> list[float]:
        """Success of each seed at any step after ten episodes, if so many were played."""
        last = EXPERIENCE[-1]
        curves = [e.curve for e in self.curves(split) if last in e.curve.experience]
        return [float(c.scores["success_any"][:, c.experience.index(last)].mean()) for c in curves]

    def officially_counted(self) -> list[float]:
        """Success of each seed on held-out classes by the official evaluation, if that was run."""
        paths = [folder / OFFICIAL for folder in self.folders]
        return [
            json.loads(path.read_text(encoding="utf-8"))["success"]
            for path in paths
            if path.exists()
        ]

    def training_minutes(self) -> str:
        """Training time of the fastest and the slowest seed (minutes)."""
        taken = [
            json.loads((f / TRAINING).read_text(encoding="utf-8"))["training_s"] / 60
            for f in self.folders
        ]
        return " to ".join(dict.fromkeys(f"{minutes:.0f}" for minutes in (min(taken), max(taken))))

    def env_steps(self) -> str:
        """Env steps of training, in millions, with the budget if it was not used up."""
        said = []
        for folder in self.folders:
            done = int(checkpoints(folder / "checkpoints")[-1].name)
            budget = read_yaml(folder / CONFIG)["train"]["env_steps"]
            left = f" of {budget / 1e6:g}" if done < budget else ""
            said.append(f"{done / 1e6:g}{left} M")
        return ", ".join(dict.fromkeys(said))


Cell = Callable[[Sequence[Evaluation], str, int], str]
"""Function from the evaluations of all seeds, a measure and episodes of experience to a cell."""


def scores_after(
    evaluations: Sequence[Evaluation], measure: str, experience: int
) -> Float[np.ndarray, "_ N 1"] | None:
    """Scores of each seed on each task; None if that was not evaluated."""
    seen = evaluations[0].curve.experience
    if experience not in seen:
        return None
    column = seen.index(experience)
    return np.stack([e.curve.scores[measure][:, [column]].numpy() for e in evaluations])


def mean_cell(evaluations: Sequence[Evaluation], measure: str, experience: int) -> str:
    """The mean with its interval; a dash if that was not evaluated."""
    scores = scores_after(evaluations, measure, experience)
    if scores is None:
        return "–"
    classes = evaluations[0].curve.env_names
    return with_interval(mean_over_runs(scores, classes, bounds=SHARE), 0, ".0%")


def iqm_cell(evaluations: Sequence[Evaluation], measure: str, experience: int) -> str:
    """The interquartile mean; a dash if that was not evaluated."""
    scores = scores_after(evaluations, measure, experience)
    return "–" if scores is None else f"{iqm(scores.reshape(-1, 1))[0]:.0%}"


def success_table(
    experiments: Sequence[Published], measure: str, *, split: str, cell: Cell = mean_cell
) -> str:
    """Table with one line per experiment and one column per amount of experience."""
    lines = [f"| | seeds | {' | '.join(map(said, EXPERIENCE))} |"]
    lines.append("|---" * (len(EXPERIENCE) + 2) + "|")
    for each in experiments:
        found = each.curves(split)
        cells = [cell(found, measure, n) for n in EXPERIENCE]
        lines.append(f"| [`{each.name}`]({each.name}) | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def said(experience: int) -> str:
    """Head of a column."""
    return f"{experience} episode{'s' * (experience != 1)}"


def greedy_section(experiments: Sequence[Published]) -> list[str]:
    """Section on play by the policy's mode, for agents that do not need random actions."""
    lines = [
        "| | seeds | any step: sampled | greedy | last step: sampled | greedy |",
        "|---" * 6 + "|",
    ]
    for each in experiments:
        sampled, greedy = each.read("test"), each.read("test", greedy=True)
        if {e.seed for e in sampled} == {e.seed for e in greedy} != set():
            cells = [
                mean_cell(found, measure, EXPERIENCE[-1])
                for measure in ("success_any", "success_last")
                for found in (sampled, greedy)
            ]
            lines.append(f"| `{each.name}` | {len(greedy)} | {' | '.join(cells)} |")
    return [
        "## Held-out tasks: sampled and greedy actions",
        f"Mean success after {EXPERIENCE[-1]} episodes, with the same seeds and tasks. A robot "
        "would play greedily: by the mode of its policy. MAML-TRPO has to sample while it adapts.",
        "\n".join(lines),
    ] * (len(lines) > 2)


def protocol_section(experiments: Sequence[Published]) -> list[str]:
    """Section on Meta-World's own protocol, for experiments with several classes of tasks."""
    lines = [
        "| | seeds | training classes | held-out classes | by the official evaluation "
        "| rise, training | rise, held-out |",
        "|---" * 7 + "|",
    ]
    for each in experiments:
        success = [each.test_success("train"), each.test_success("test")]
        if any(success):
            cells = list(map(mean_of_seeds, [*success, each.officially_counted()]))
            for split in ("train", "test"):
                found = each.read(split, protocol="metaworld")
                cells.append(rise_cell(found) if found else "–")
            lines.append(f"| `{each.name}` | {max(map(len, success))} | {' | '.join(cells)} |")
    return [
        "## Meta-World's documented protocol",
        "Mean success at any step of the 3 test episodes (MAML-TRPO: 10) after 10 of adaptation, "
        "40 goals of each class; in brackets each seed. The official evaluation "
        "(`benchmarks/official_evaluation.py`) plays four goals of a class at a time, ends "
        "episodes with success, and counts the first three to end: failures, which take longer, "
        "count less, and a goal that succeeds can count twice. A dash: not run. *Rise*: success in "
        "the test episodes minus success in the first episode, in points, with its 95 % interval "
        "over goals and seeds, of which two tell little.",
        "\n".join(lines),
    ] * (len(lines) > 2)


def aims_section(experiments: Sequence[Published]) -> list[str]:
    """Section with targets and results of the experiments that had a target."""
    lines = ["| | tasks | aim | reached | |", "|---|---|---|---|---|"]
    for each in experiments:
        for split, tasks in (("train", "training"), ("test", "held-out")):
            aim = AIMS.get((each.name, split))
            if aim is None:
                continue
            success = each.test_success(split) or each.after_ten_episodes(split)
            met = "met" if np.mean(success) >= aim else "**missed**"
            cells = f"{tasks} | {aim:.0%} | {mean_of_seeds(success)} | {met}"
            lines.append(f"| `{each.name}` | {cells} |")
    return [
        "## What was aimed at",
        "Mean success at any step after ten episodes; where there are several classes, in the test "
        "episodes of the documented protocol. What points further where an aim was missed: "
        "[what was tried](../docs/tuning.md).",
        "\n".join(lines),
    ] * (len(lines) > 2)


def mean_of_seeds(means: Sequence[float]) -> str:
    """Mean over seeds, with each seed in brackets; a dash if there is none."""
    spread = f" ({', '.join(f'{m:.1%}' for m in means)})" if len(means) > 1 else ""
    return f"{np.mean(means):.1%}{spread}" if means else "–"


def class_sections(experiments: Sequence[Published]) -> list[str]:
    """Sections with success on each class of experiments with several, one table per split."""
    by_split: dict[tuple[str, ...], dict[str, list[Evaluation]]] = {}
    for each in experiments:
        for split in ("train", "test"):
            found = each.read(split, protocol="metaworld")
            if found:
                classes = tuple(dict.fromkeys(found[0].curve.env_names))
                by_split.setdefault(classes, {})[each.name] = found
    sections = []
    for classes, of_experiments in by_split.items():
        lines = ["| | " + " | ".join(f"`{name}`" for name in of_experiments) + " |"]
        lines.append("|---" * (len(of_experiments) + 1) + "|")
        columns = [before_and_after(found) for found in of_experiments.values()]
        for name in classes:
            lines.append(f"| {name} | {' | '.join(column[name] for column in columns)} |")
        split = next(iter(of_experiments.values()))[0].split
        kind = {"train": "Training", "test": "Held-out"}[split]
        sections += [f"### {kind} classes, one by one: at first → in the test episodes, rise"]
        sections += ["\n".join(lines)]
    return sections


def first_and_test(evaluations: Sequence[Evaluation]) -> tuple[np.ndarray, np.ndarray]:
    """Success at any step of each seed on each task (seeds x tasks): in the first episode, and the
    mean over the test episodes of Meta-World's protocol."""
    tests = np.array(evaluations[0].curve.experience) >= METAWORLD.adaptation_episodes
    scores = np.stack([e.curve.scores["success_any"].double().numpy() for e in evaluations])
    return scores[:, :, 0], scores[:, :, tests].mean(-1)


def rise_cell(evaluations: Sequence[Evaluation], *, env_name: str | None = None) -> str:
    """How much success rises from the first to the test episodes, in points; of one class, or of
    all."""
    first, test = first_and_test(evaluations)
    names = np.array(evaluations[0].curve.env_names)
    rows = np.ones(len(names), bool) if env_name is None else names == env_name
    rise = 100 * (test - first)[:, rows, None]
    estimate = mean_over_runs(rise, names[rows].tolist(), bounds=(-100.0, 100.0))
    return re.sub(r"-0(?![.\d])", "+0", with_interval(estimate, 0, "+.0f"))


def before_and_after(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """Success at any step on each class, averaged over seeds: before adaptation, and in the test
    episodes of Meta-World's protocol; and the rise."""
    names = np.array(evaluations[0].curve.env_names)
    first, test = (values.mean(0) for values in first_and_test(evaluations))
    return {
        name: f"{first[names == name].mean():.0%} → {test[names == name].mean():.0%}, "
        f"{rise_cell(evaluations, env_name=name)}"
        for name in dict.fromkeys(evaluations[0].curve.env_names)
    }


def training_table(experiments: Sequence[Published]) -> str:
    """Table of the cost of each training."""
    lines = [
        "| | env steps | training, minutes | machine | revisions |",
        "|---|---:|---:|---|---|",
    ]
    for each in experiments:
        starts = [json.loads((f / "env.json").read_text(encoding="utf-8")) for f in each.folders]
        machines = {f"{s[-1]['cpus']} × {s[-1]['cpu']}" for s in starts}
        revisions = dict.fromkeys(one["git"] for s in starts for one in s)
        cells = [
            each.env_steps(),
            each.training_minutes(),
            ", ".join(sorted(machines)),
            ", ".join(f"`{r}`" for r in revisions),
        ]
        lines.append(f"| `{each.name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def found_experiments(results: Path) -> list[Published]:
    """All published experiments."""
    by_name: dict[str, list[Path]] = {}
    for config in sorted(results.glob(f"*/seed*/{CONFIG}")):
        by_name.setdefault(config.parent.parent.name, []).append(config.parent)
    return [Published(folders) for folders in by_name.values()]


def results_page(experiments: Sequence[Published]) -> str:
    """All tables, as Markdown."""
    table = partial(success_table, experiments)
    sections = [
        "# Results",
        "Made by `python -m benchmarks.published` of the raw files beside it; the last checkpoint "
        "of every seed, whichever was best. `python evaluate.py results/EXPERIMENT/SEED` plays "
        "the held-out tasks again; `--split train` and `--protocol metaworld` the rest. It says "
        "whether every score is the same. Where processor or number of threads is another, sums "
        "are rounded otherwise and returns differ a little; MAML-TRPO, except on reach, and RL² on "
        "ML10 were evaluated with `OMP_NUM_THREADS=1`. Cells are over seeds and tasks, with 95 % "
        "intervals over both: Wilson's, with classes as strata and Student's quantile for seeds, "
        "of which two or three tell little where they differ. How often such intervals hold the "
        "truth, and when they do not: [coverage](coverage/coverage.md). MAML-TRPO plays five "
        "(push) or ten episodes side by side before it adapts, with nothing in between; on push "
        "ten episodes are two gradient steps, of which it was trained for one.",
        "![Adaptation](adaptation.png)",
        "## Held-out tasks: success at any step, after so much experience",
        "Mean:",
        table("success_any", split="test"),
        "Interquartile mean, which tells less where most episodes succeed or fail outright, and "
        "has no interval there:",
        table("success_any", split="test", cell=iqm_cell),
        "## Held-out tasks: success at the last step, mean",
        table("success_last", split="test"),
        *greedy_section(experiments),
        "## Training tasks: success at any step, mean",
        "Where there are several classes: of 40 goals of each.",
        table("success_any", split="train"),
        *protocol_section(experiments),
        *class_sections(experiments),
        *aims_section(experiments),
        "## What it took",
        "Minutes of rollouts and updates by the clock, of the fastest and the slowest seed. Most "
        "trainings were run side by side, a core for each or less; alone they take fewer.",
        training_table(experiments),
        "## Published elsewhere",
        ELSEWHERE.read_text(encoding="utf-8").strip(),
    ]
    return "\n\n".join(sections) + "\n"


def opening_table(experiments: Sequence[Published]) -> str:
    """Table at the top of README.md: held-out success before and after experience, of experiments
    that are files in configs/."""
    columns = (EXPERIENCE[0], EXPERIENCE[1], EXPERIENCE[-1])
    last = columns[-1]
    heads = ["held-out success after", *map(said, columns), f"{last}, seed by seed"]
    heads += [f"{last}, at the last step", "greedily", "training"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in experiments:
        if not (CONFIGS / f"{each.name}.yaml").exists():
            continue
        found, greedy = each.curves("test"), each.read("test", greedy=True)
        cells = [mean_cell(found, "success_any", n) for n in columns]
        cells.append(", ".join(f"{s:.0%}" for s in each.after_ten_episodes("test")) or "–")
        for played in (found, greedy):
            whole = len(played) == len(found)
            cell = mean_cell(played, "success_last", last) if whole else "–"
            cells.append(cell.partition(" ")[0])
        cells.append(f"{each.env_steps()} env steps, {each.training_minutes()} min")
        lines.append(f"| [`{each.name}`](results/{each.name}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_opening_table(page: str, table: str) -> str:
    """Text of README.md with its table replaced.

    Raises:
        UserError: the marks around the table are missing.
    """
    before, start, rest = page.partition(OPENS)
    _, end, after = rest.partition(CLOSES)
    if not (start and end):
        raise UserError(f"README.md has no {OPENS} … {CLOSES} for the table")
    return f"{before}{start}\n{table}\n{end}{after}"


def plot(experiments: Sequence[Published], path: Path) -> None:
    """Draws adaptation curves: mean success at any step, of each seed and over seeds."""
    columns = min(len(experiments), PLOTS_IN_A_ROW)
    rows = -(-len(experiments) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.2 * columns, 2.4 * rows), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat[len(experiments) :]:
        axis.remove()
    for axis, each in zip(axes.flat, experiments, strict=False):
        for split, color in (("test", "tab:blue"), ("train", "0.6")):
            found = each.curves(split)
            curves = [100 * e.curve.scores["success_any"].mean(0).numpy() for e in found]
            experience = found[0].curve.experience
            label = {"test": "held-out", "train": "training"}[split]
            axis.plot(experience, np.mean(curves, 0), "o-", color=color, ms=3, label=label)
            for curve in curves:
                axis.plot(experience, curve, color=color, alpha=0.4, lw=0.7)
        axis.set(title=each.name, ylim=(-3, 103))
        axis.title.set_fontsize(9)
        axis.set_xticks(range(0, EXPERIENCE[-1] + 1, 2))
        axis.tick_params(labelbottom=True)
        axis.grid(alpha=0.3)
    figure.supxlabel("episodes of experience", fontsize=9)
    figure.supylabel("success at any step, %", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
