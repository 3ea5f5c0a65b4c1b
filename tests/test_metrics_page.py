"""docs/metrics.md describes every metric that training logs, and no other."""

import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from agents.rl2 import RL2
from metarl.errors import NotFiniteError
from metarl.training.tensorboard import LINES

ROOT = Path(train.__file__).parent
FEW_TASKS = "--train.tasks 8 --train.meta-batch-size 4 --train.updates-per-iteration 1"
ADAPTING = (
    "--agent.hidden-sizes [4] --agent.episodes-per-step 2 --train.meta-batch-size 2 "
    "--train.episodes-per-trial 4 --train.env-steps 1600"
)
CLASSES = "[reach-v3, push-v3]"
RUNS = {
    "rl2_bandit": (
        "RL²",
        "--agent.hidden-size 16 --train.meta-batch-size 2 --train.episodes-per-trial 8 "
        "--agent.num-minibatches 1 --agent.prediction-coef 0.5 --train.env-steps 32",
    ),
    "rl2_ml1_reach": (
        "RL²",
        "--agent.baseline linear --agent.hidden-size 4 --env.benchmark custom --env.horizon 10 "
        f"--env.train-classes {CLASSES} --env.test-classes [door-open-v3] --env.num-goals 1 "
        "--train.meta-batch-size 4 --train.env-steps 240 --agent.num-minibatches 1 "
        "--agent.chunk-length 10",
    ),
    "varibad_point": (
        "VariBAD",
        "--agent.hidden-size 4 --agent.policy-sizes [4] --agent.decoder-sizes [4] "
        "--agent.decode-transitions true --agent.vae-updates 1 --train.meta-batch-size 20 "
        "--train.env-steps 2400",
    ),
    "pearl_point": (
        "PEARL",
        "--agent.hidden-sizes [4] --agent.encoder-sizes [4] --agent.gradient-steps 1 "
        "--train.env-steps 2400",
    ),
    "maml_trpo_point": ("MAML-TRPO", ADAPTING),
    "promp_point": ("ProMP", ADAPTING),
    "maml_sinusoid": ("Few-shot learning", FEW_TASKS),
    "reptile_sinusoid": ("Few-shot learning", FEW_TASKS),
    "prototypical_glyphs": ("Few-shot learning", FEW_TASKS),
    "matching_glyphs": ("Few-shot learning", FEW_TASKS),
}
"""For each experiment, the section of the page on its updates, and flags that make it tiny."""
SHARED = "Agents that act: episodes and time"


def described() -> dict[str, set[str]]:
    """Names in the first column of the tables, by section."""
    text = (ROOT / "docs/metrics.md").read_text("utf-8")
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    return {
        title: set(re.findall(r"^\| `([^`]+)` \|", body, re.M)) for title, body in sections.items()
    }


def as_described(name: str) -> str:
    """Name of a metric on the page, with placeholders for class names and final metrics."""
    return re.sub(r"^final/.*", "final/…", re.sub(r"^(classes/\w+)/.*", r"\1/CLASS", name))


def flags(text: str) -> list[str]:
    """Flags and values in a text; a value may be a list with spaces."""
    return re.findall(r"\[.*?\]|\S+", text)


def logged(folder: Path) -> list[list[str]]:
    """Names of the metrics on each line of a run's log."""
    return [list(json.loads(line)) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of two iterations of each experiment."""
    root = tmp_path_factory.mktemp("runs")
    for name, (_, tiny) in RUNS.items():
        config = str(ROOT / "configs" / f"{name}.yaml")
        train.main([config, *flags(tiny), "--run-dir", str(root / name)])
    return {name: root / name for name in RUNS}


def test_every_metric_is_described_and_no_other(folders: dict[str, Path]) -> None:
    page = described()
    every_line = page["Every line"] - {"skipped"}
    found: dict[str, set[str]] = {title: set() for title in page}
    for name, (section, _) in RUNS.items():
        lines = logged(folders[name])
        assert len(lines) == 2, name
        for metric in {as_described(metric) for line in lines for metric in line}:
            played = section != "Few-shot learning" and not metric.startswith("update/")
            place = "Every line" if metric in every_line else SHARED if played else section
            found[place].add(metric)
    del page["TensorBoard alone"], found["TensorBoard alone"]
    assert found == {**page, "Every line": every_line}


def test_tensorboard_shows_what_is_logged_and_what_the_page_says(folders: dict[str, Path]) -> None:
    alone = set()
    for folder in folders.values():
        lines = {metric for line in logged(folder) for metric in line} - {"iteration", "env_steps"}
        drawn = {metric for metric in lines - {"tasks"} if metric.rpartition("/")[2] not in LINES}
        parts = [part for part in (folder, *(folder / line for line in LINES)) if part.is_dir()]
        tags = {
            tag for part in parts for tag in EventAccumulator(str(part)).Reload().Tags()["scalars"]
        }
        assert drawn <= tags
        alone |= {as_described(tag) for tag in tags - drawn}
    assert alone == described()["TensorBoard alone"]


def test_a_skipped_iteration_logs_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> dict[str, float]:
        raise NotFiniteError("the loss")

    monkeypatch.setattr(RL2, "meta_update", fails)
    config, tiny = str(ROOT / "configs" / "rl2_bandit.yaml"), flags(RUNS["rl2_bandit"][1])
    train.main([config, *tiny, "--run-dir", str(tmp_path / "run"), "--on-nan", "skip"])
    assert logged(tmp_path / "run") == [["iteration", "env_steps", "skipped"]] * 2
    assert "skipped" in described()["Every line"]
