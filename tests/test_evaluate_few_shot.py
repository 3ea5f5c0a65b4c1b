"""Results of evaluate.py for few-shot runs: table, files and page, for tiny runs of all
learners."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import evaluate
import train
from metarl.evaluation.few_shot_record import FewShotEvaluation
from metarl.report.few_shot import few_shot_report, plot_few_shot
from metarl.report.page import write_report
from tests.test_evaluate_outputs import BANDIT, fails, printed
from tests.test_train_few_shot import GLYPHS, LEARNERS, SINUSOID

GRADIENT_LEARNERS = ("maml", "reptile")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each learner on glyphs, one on sinusoids and one of RL."""
    folder = tmp_path_factory.mktemp("experiments")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        for name, learner in LEARNERS.items():
            Path(f"{name}.yaml").write_text(
                f"env: {GLYPHS}, test_queries: 2}}\nagent: {learner}\n"
                "train: {tasks: 6, meta_batch_size: 3, updates_per_iteration: 1}\n"
            )
            train.main([f"{name}.yaml"])
        train.main([str(SINUSOID), "--name", "sinusoid", "--train.tasks", "1"])
        Path("bandit.yaml").write_text(BANDIT)
        train.main(["bandit.yaml"])
    return folder


@pytest.fixture(autouse=True)
def _here(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)


def evaluation(scores: list[list[list[float]]], pixels: list[list[float]]) -> FewShotEvaluation:
    """An evaluation of MAML with these accuracies, with 1 and 5 shots, before and after one
    step."""
    accuracy = torch.tensor(scores, dtype=torch.float64)
    return FewShotEvaluation(
        experiment="maml_glyphs", agent="maml", seed=1, tasks=100, distribution="glyphs",
        split="test", split_hash="ab" * 32, num_ways=5, num_queries=75, batch_norm="support",
        shots=[1, 5], steps=[0, 1], options={"seed": 0},
        scores={"accuracy": accuracy, "loss": 2 - accuracy},
        pixels=torch.tensor(pixels, dtype=torch.float64),
        environment={"command": "", "time": "", "python": "3", "git": "", "versions": {},
                     "cpu": "", "cpus": 2, "gpu": None},
    )  # fmt: skip


def test_summaries_by_hand() -> None:
    """Two tasks; after the step 0.6 and 0.8 with one shot, 0.9 and 0.9 with five."""
    judged = evaluation(
        [[[0.2, 0.6], [0.2, 0.9]], [[0.4, 0.8], [0.2, 0.9]]], [[0.5, 1.0], [0.5, 0.9]]
    )
    assert judged.by_shots["accuracy"].value == pytest.approx([0.7, 0.9])
    assert judged.by_steps[0]["accuracy"].value == pytest.approx([0.3, 0.7])
    assert judged.by_steps[1]["loss"].value == pytest.approx([1.8, 1.1])
    assert judged.nearest_neighbour and judged.above_pixels
    assert judged.nearest_neighbour.value == pytest.approx([0.5, 0.95])
    assert judged.above_pixels.value == pytest.approx([0.2, -0.05])
    # Gains of 0.1 and 0.3, paired by task, are at 0.55 and 0.65 of the range from -1 to 1. With a
    # success and a failure added, their variance is 0.12875, and they count as 3.84 tasks.
    assert judged.above_pixels.low[0] == pytest.approx(-0.6, abs=1e-3)
    report = few_shot_report(judged)
    assert "non-transductive" in report.protocol["BatchNorm"]
    assert "30.0% → 70.0%" in report.headlines["accuracy, 5 classes, 1 shot, before → after 1 step"]


def test_steps_that_diverge_are_stored_as_null_and_left_out_of_curves(tmp_path: Path) -> None:
    judged = evaluation([[[0.2, 0.6], [0.2, 0.9]]] * 3, [[0.5, 1.0]] * 3)
    loss = judged.scores["loss"].clone()
    loss[0, 0, 1] = math.inf
    judged = replace(judged, scores=judged.scores | {"loss": loss})
    path = tmp_path / "one.json"
    judged.write(path)
    assert "Infinity" not in path.read_text() and "NaN" not in path.read_text()
    again = FewShotEvaluation.read(path)
    assert torch.equal(again.scores["loss"], loss) and again.by_steps == judged.by_steps
    plot_few_shot(judged, tmp_path / "one.png")
    write_report(tmp_path / "report", few_shot_report(judged))
    assert "Infinity" not in (tmp_path / "report" / "report.json").read_text()


@pytest.mark.parametrize("learner", LEARNERS)
def test_each_learner_has_its_table_scores_picture_and_page(learner: str, capsys) -> None:
    run = f"runs/{learner}/seed1"
    evaluate.main([run, "--report", "--num-tasks", "20"])
    page = printed(capsys, "Report")
    report = json.loads((page.parent / "report.json").read_text())
    file = Path(run, "eval", "test_6_num_tasks-20.json")
    stored = json.loads(file.read_text())
    steps = stored["steps"]
    assert stored["shots"] == [1, 5] and (len(steps) > 1) == (learner in GRADIENT_LEARNERS)
    for measure in ("accuracy", "loss"):
        scores = torch.tensor(stored["per_task"]["scores"][measure])
        assert scores.shape == (20, 2, len(steps))
        assert stored["by_shots"][measure]["value"] == pytest.approx(scores.mean(0)[:, -1].tolist())
    assert file.with_suffix(".png").stat().st_size > 1000
    text = page.read_text()
    assert "BatchNorm" in text and "nearest neighbour in pixel space" in text
    assert ("How fast it adapts" in text) == (len(steps) > 1)
    assert {"shots.csv", "shots_accuracy.png", "shots_loss.csv"} <= {
        path.name for path in page.parent.iterdir()
    }
    page.unlink()
    evaluate.main([run, "--report", "--stored", "--num-tasks", "20"])
    assert json.loads((printed(capsys, "Report").parent / "report.json").read_text()) == report


def test_checkpoint_split_and_shots_choose_what_is_judged(capsys) -> None:
    run = "runs/prototypical/seed1"
    evaluate.main(
        [run, "--num-tasks", "9", "--checkpoint", "0", "--split", "train", "--shots", "2"]
    )
    assert "after 0 tasks" in capsys.readouterr().out
    stored = json.loads(Path(run, "eval", "train_0_num_tasks-9_shots-2.json").read_text())
    assert stored["shots"] == [2] and stored["split"] == "train" and stored["tasks"] == 0


def test_six_hundred_tasks_are_judged_where_not_said_otherwise_and_functions_by_their_loss(
    capsys,
) -> None:
    (checkpoint,) = (p.name for p in Path("runs/sinusoid/seed1/checkpoints").iterdir()
                     if p.name != "0")  # fmt: skip
    evaluate.main(["runs/sinusoid/seed1"])
    output = capsys.readouterr().out
    assert "mean squared error" in output and "accuracy" not in output
    stored = json.loads(Path(f"runs/sinusoid/seed1/eval/test_{checkpoint}.json").read_text())
    assert len(stored["per_task"]["scores"]["loss"]) == 600
    assert stored["per_task"]["nearest_neighbour"] is None and stored["shots"] == [5, 10]


def test_what_makes_no_sense_is_one_line(capsys) -> None:
    run = "runs/maml/seed1"
    for option in ("--video", "--replay", "--live", "--yardstick", "--greedy"):
        assert f"{option} is not for few-shot learning" in fails(capsys, run, option)
    for message, arguments in (
        ("--protocol is not for few-shot", [run, "--protocol", "metaworld"]),
        ("--tasks is not for few-shot", [run, "--tasks", "ML10"]),
        ("--compare is not for few-shot", ["runs/bandit/seed1", run, "--compare"]),
        ("--shots is for few-shot learning", ["runs/bandit/seed1", "--shots", "1"]),
        ("is few-shot learning", ["runs/bandit/seed1", "--tasks", "maml.yaml"]),
        ("no stored evaluation", [run, "--stored", "--seed", "9"]),
        ("choose --shots", [run, "--shots", "6"]),
        ("no checkpoint", [run, "--checkpoint", "5"]),
        ("greater than or equal to 1", [run, "--shots", "0"]),
    ):
        assert message in fails(capsys, *arguments)
