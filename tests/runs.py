"""Helpers for runs of five iterations on bandits: their logs, and wrong commands."""

import json
from pathlib import Path

import pytest

from metarl.system.command_line import one_line_errors
from metarl.training.checkpoint import TENSORS, checkpoints

TINY = """
env: {kind: bandit, num_train_tasks: 50, num_test_tasks: 10}
agent: {kind: rl2, hidden_size: 8, encoder_sizes: [], epochs: 2, num_minibatches: 2}
train: {env_steps: %d, meta_batch_size: 10, episodes_per_trial: 10, checkpoint_every: %d}
"""
ITERATION_STEPS = 100
AGENTS = {
    "rl2": "{kind: rl2, hidden_size: 8, encoder_sizes: [], epochs: 2, num_minibatches: 2}",
    "rl2_mixed": "{kind: rl2, memory: mixed, layers: 2, hidden_size: 16, encoder_sizes: [], "
    "epochs: 2, num_minibatches: 2, head: mlp, value_loss: two_hot, products: bfloat16}",
    "maml_trpo": "{kind: maml_trpo, hidden_sizes: [8], episodes_per_step: 5}",
    "promp": "{kind: promp, hidden_sizes: [8], episodes_per_step: 5}",
}


def metrics(folder: Path) -> list[dict]:
    """Logged lines without measured times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("timing/")} for line in lines]


def final_bytes(folder: Path) -> bytes:
    return (checkpoints(folder / "checkpoints")[-1] / TENSORS).read_bytes()


def fails(capsys: pytest.CaptureFixture[str], program, arguments: list[str]) -> str:
    """The only line on stderr of a command that exits with code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped, one_line_errors("program"):
        program.main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err
