"""Resuming damaged runs, and runs with other tasks or machines."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import evaluate
import train
from agents.rl2 import RL2
from metarl.training import provenance
from metarl.training.checkpoint import META, SUMS, TENSORS, checkpoints
from metarl.training.run import METRICS
from tests.runs import fails, final_bytes, metrics


@pytest.fixture
def run(tiny: Path) -> Path:
    """A run of two iterations out of five."""
    train.main([str(tiny), "--run-dir", "run", "--train.env-steps", "200"])
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("env_steps: 200", "env_steps: 500"))
    return Path("run")


def resumed(run: Path, capsys) -> str:
    """Output on stderr of a resumed run."""
    capsys.readouterr()
    train.main(["--resume", str(run)])
    return capsys.readouterr().err


def test_damaged_lines_of_a_log_cost_those_lines(run: Path, tiny: Path, capsys) -> None:
    train.main([str(tiny), "--run-dir", "whole"])
    path = run / METRICS
    first, second = path.read_bytes().splitlines(keepends=True)
    wrong = [
        b"\xff\n",
        b"[]\n",
        b'{"iteration": "2"}\n',
        b"[" * 10**5 + b"\n",
        b"x" * 2**21 + b"\n",
    ]
    damaged = b"".join([wrong[0], first, *wrong[1:], second, first, b'{"iteration": 3'])
    path.write_bytes(damaged)
    assert "6 damaged lines of run/metrics.jsonl are dropped" in resumed(run, capsys)
    assert metrics(run) == metrics(Path("whole"))
    assert final_bytes(run) == final_bytes(Path("whole"))
    assert (run / "metrics.jsonl.damaged").read_bytes() == damaged


def test_lines_that_are_missing_are_counted(run: Path, capsys) -> None:
    path = run / METRICS
    path.write_text(path.read_text().splitlines(keepends=True)[1])
    assert "lacks 1 of 2 iterations" in resumed(run, capsys)
    assert [line["iteration"] for line in metrics(run)] == [2, 3, 4, 5]


@pytest.mark.parametrize("content", [b"", b"{}", b"[3]", b"\xff", b"[" * 10**5])
def test_damaged_starts_are_kept_beside_the_new_ones(run: Path, capsys, content: bytes) -> None:
    (run / "env.json").write_bytes(content)
    said = resumed(run, capsys)
    assert "env.json" in said and "kept as env.json.damaged" in said and said.count("\n") == 1
    assert (run / "env.json.damaged").read_bytes() == content
    assert len(json.loads((run / "env.json").read_text())) == 1


def test_other_threads_and_versions_are_said_and_how_to_get_them_back(run: Path, capsys) -> None:
    assert resumed(run, capsys) == ""
    (start, _) = json.loads((run / "env.json").read_text())
    start["threads"] = 7
    start["versions"]["torch"] = "2.0"
    del start["cpu"]  # runs of earlier versions may lack it
    (run / "env.json").write_text(json.dumps([start]))
    said = resumed(run, capsys)
    now = provenance.environment()
    assert f"threads 7 (now {now['threads']}), torch 2.0 (now {torch.__version__})" in said
    assert "cpu " not in said and "OMP_NUM_THREADS=7" in said and said.count("\n") == 1


def test_other_tasks_are_refused_and_the_run_stays_as_it_was(run: Path, capsys) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config = run / "config.yaml"
    text = config.read_text()
    for key, changed in (
        ("num_train_tasks: 50", "the training and the held-out"),  # drawn one after the other
        ("num_test_tasks: 10", "the held-out"),
    ):
        config.write_text(text.replace(key, f"{key}1"))
        assert f": {changed} tasks are not those that run was trained with" in fails(
            capsys, train, ["--resume", "run"]
        )
    config.write_text(text)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert after == before
    config.write_text(text.replace("num_train_tasks: 50", "num_train_tasks: 51"))
    evaluate.main(["run"])
    assert "training tasks changed since" in capsys.readouterr().err


def test_a_run_of_before_checksums_and_hashes_goes_on(run: Path, tiny: Path, capsys) -> None:
    train.main([str(tiny), "--run-dir", "whole"])
    newest = checkpoints(run / "checkpoints")[-1]
    save_file(load_file(newest / TENSORS), newest / TENSORS)  # without the format
    (newest / META).write_text('{"format": 1, "iteration": 2, "env_steps": 200, "skipped": 0}')
    (newest / SUMS).unlink()
    assert "200 predates checksums" in resumed(run, capsys)
    assert final_bytes(run) == final_bytes(Path("whole"))


def test_a_module_that_changed_is_noted_and_its_tasks_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    example = Path(train.__file__).parent / "docs" / "examples" / "windy_point.py"
    module = Path(shutil.copy(example, "mine.py"))
    Path("mine.yaml").write_text(
        "env: {kind: gymnasium, module: mine.py, num_workers: 0, horizon: 4}\n"
        "agent: {kind: rl2, hidden_size: 4, encoder_sizes: [], epochs: 1, num_minibatches: 1}\n"
        "train: {env_steps: 16, meta_batch_size: 2, episodes_per_trial: 2}\n"
    )
    train.main(["mine.yaml", "--run-dir", "run"])
    assert resumed(Path("run"), capsys) == ""
    module.write_text(module.read_text() + "\n# a comment\n")
    assert "module of run's tasks changed" in resumed(Path("run"), capsys)
    module.write_text(module.read_text().replace("seed=0", "seed=5"))
    assert "the training tasks are not those" in fails(capsys, train, ["--resume", "run"])


def test_weights_that_are_not_finite_are_not_saved(
    tiny: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a checkpoint could not be resumed."""
    update, calls = RL2.meta_update, []

    def broken(agent, *args, **kwargs):
        learned = update(agent, *args, **kwargs)
        calls.append(1)
        if len(calls) == 4:
            next(agent.network.parameters()).data.flatten()[0] = float("nan")
        return learned

    monkeypatch.setattr(RL2, "meta_update", broken)
    assert "iteration 4: network." in fails(capsys, train, [str(tiny), "--run-dir", "run"])
    assert checkpoints(Path("run/checkpoints"))[-1].name == "300"
    assert (Path("run/checkpoints/300") / TENSORS).is_file()
