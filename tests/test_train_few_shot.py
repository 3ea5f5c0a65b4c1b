"""Few-shot experiments on the command line: runs, resumes and mistakes, on tiny tasks."""

from pathlib import Path

import pytest

import evaluate
import train
from metarl.errors import UserError
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import load_experiment
from metarl.training.iteration import update_metrics
from tests.runs import fails, final_bytes, metrics

SINUSOID = Path(train.__file__).parent / "configs" / "maml_sinusoid.yaml"
GLYPHS = "{kind: glyphs, num_train_classes: 6, num_test_classes: 5, images_per_class: 7, queries: 2"
LEARNERS = {
    "maml": "{kind: maml, encoder: {kind: mlp, hidden_sizes: [8]}, decay_updates: 9, "
    "learn_inner_learning_rate: true, final_learning_rate: 0.0001}",
    "reptile": "{kind: reptile, encoder: {kind: mlp, hidden_sizes: [8]}, steps: 2}",
    "prototypical": "{kind: prototypical, encoder: {kind: conv4, filters: 2}, decay_updates: 9, "
    "final_learning_rate: 0.0001}",
    "matching": "{kind: matching, full_context: true, encoder: {kind: mlp, hidden_sizes: [8]}}",
}


@pytest.fixture(params=LEARNERS)
def tiny(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of five iterations of two updates on three tasks."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"env: {GLYPHS}, test_queries: 2}}\nagent: {LEARNERS[request.param]}\n"
        "train: {tasks: 30, meta_batch_size: 3, updates_per_iteration: 2, checkpoint_every: 2}\n"
    )
    return path


def test_a_run_is_a_run_and_resumes_bit_for_bit(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([str(tiny), "--run-dir", "whole"])
    printed = capsys.readouterr().out
    assert "tasks 30" in printed and "accuracy" in printed
    assert [line["tasks"] for line in metrics(Path("whole"))] == [6, 12, 18, 24, 30]
    names = [path.name for path in checkpoints(Path("whole/checkpoints"))]
    assert names == ["0", "12", "24", "30"]
    assert list(Path("whole").glob("**/events.out.tfevents.*"))

    calls: list[int] = []

    def interrupting(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update_metrics(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(train, "update_metrics", interrupting)
        train.main([str(tiny), "--run-dir", "parts"])
    assert stopped.value.code == 130
    assert "saved at 18 tasks" in capsys.readouterr().out
    train.main(["--resume", "parts"])
    assert final_bytes(Path("parts")) == final_bytes(Path("whole"))

    def learned(folder: str) -> list[dict]:
        return [
            {k: v for k, v in line.items() if not k.startswith("timing/")}
            for line in metrics(Path(folder))
        ]

    assert learned("parts") == learned("whole")
    train.main([str(tiny), "--run-dir", "other", "--seed", "2"])
    assert final_bytes(Path("other")) != final_bytes(Path("whole"))


@pytest.mark.parametrize("tiny", ["prototypical", "matching"], indirect=True)
def test_learners_without_an_output_for_each_class_take_more_ways(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([str(tiny), "--env.train-ways", "6"])
    for split in ("test", "train"):  # both are evaluated with five ways
        evaluate.main(["runs/tiny/seed1", "--num-tasks", "3", "--split", split])
        printed = capsys.readouterr().out
        assert "of each of 5 classes, 10 query examples a task" in " ".join(printed.split())


def test_what_is_not_finite_stops_the_run_or_is_skipped(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, calls = update_metrics, []

    def broken(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs) | ({"train/loss": float("nan")} if len(calls) == 3 else {})

    monkeypatch.setattr(train, "update_metrics", broken)
    assert "iteration 3: train/loss is not finite" in fails(capsys, train, [str(tiny)])
    assert checkpoints(Path("runs/tiny/seed1/checkpoints"))[-1].name == "12"
    calls.clear()
    train.main([str(tiny), "--on-nan", "skip", "--run-dir", "skipped"])
    assert [line.get("skipped") for line in metrics(Path("skipped"))] == [None, None, 1, None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env: {kind: glyfs}\nagent: {kind: maml}", "'glyfs'. Did you mean glyphs"),
        ("env: {kind: glyphs}\nagent: {kind: rl2}", "'agent.kind' should be one of maml, matching"),
        ("env: {kind: bandit}\nagent: {kind: maml}", "Did you mean maml_trpo"),
        ("env: {kind: sinusoid}\nagent: {kind: prototypical}", "prototypical needs classes"),
        (
            "env: {kind: sinusoid}\nagent: {kind: maml, encoder: {kind: conv4}}",
            "need agent.encoder.kind mlp",
        ),
        (
            "env: {kind: glyphs}\nagent: {kind: maml, encoder: {kind: conv4, filtres: 3}}",
            "Did you mean filters",
        ),
        ("env: {kind: omniglot, root: nowhere}\nagent: {kind: maml}", "nowhere has neither"),
        (
            "env: {kind: glyphs, train_ways: 6}\nagent: {kind: maml}",
            "env.train_ways 6 needs agent.kind prototypical or matching",
        ),
        ("env: {kind: glyphs, train_ways: 3}\nagent: {kind: matching}", "is below env.ways 5"),
        ("env: {kind: glyphs, shots: 9}\nagent: {kind: maml}", "has 20 images; 9 shots"),
        ("env: {kind: glyphs}\nagent: {kind: maml}\ntrain: {env_steps: 3}", "unknown key"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(text)
    assert message in fails(capsys, train, ["wrong.yaml"])
    assert not Path("runs").exists()


def test_help_shows_the_flags_of_few_shot_learning(capsys) -> None:
    with pytest.raises(SystemExit):
        train.main([str(SINUSOID), "--help"])
    printed = capsys.readouterr().out
    assert "--train.meta-batch-size" in printed and "--agent.first-order" in printed
    train.main(["--list"])
    printed = capsys.readouterr().out
    for kind in ("sinusoid", "glyphs", "digits", "omniglot", "folders"):
        assert f"--env.kind {kind}" in printed


def test_evaluating_reinforcement_learning_refuses_few_shot_runs() -> None:
    with pytest.raises(UserError, match="few-shot learning"):
        load_experiment(SINUSOID)
