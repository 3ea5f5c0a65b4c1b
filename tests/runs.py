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
    "varibad": "{kind: varibad, hidden_size: 8, encoder_sizes: [], policy_sizes: [8], "
    "decoder_sizes: [8], decode_transitions: true, vae_updates: 2, replay_trials: 12}",
    "pearl": "{kind: pearl, encoder_sizes: [8], hidden_sizes: [8], gradient_steps: 3, "
    "tasks_per_step: 2, batch_size: 4, context_size: 4, temperature: auto, replay_trials: 12}",
    "maml_trpo": "{kind: maml_trpo, hidden_sizes: [8], episodes_per_step: 5}",
    "promp": "{kind: promp, hidden_sizes: [8], episodes_per_step: 5}",
}
POINTS = "env: {kind: point, horizon: 1, num_train_tasks: 50, num_test_tasks: 10}"
"""As large as TINY's bandits, for agents that need continuous actions."""


def with_agent(config: str, name: str) -> str:
    """TINY with another agent, on tasks that it can play."""
    lines = config.splitlines()
    lines[2] = f"agent: {AGENTS[name]}"
    if name == "pearl":
        lines[1] = POINTS
    return "\n".join(lines)


def metrics(folder: Path) -> list[dict]:
    """Logged lines without measured times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("timing/")} for line in lines]


def final_bytes(folder: Path) -> bytes:
    """Tensors of the newest checkpoint, and of its replay if it has one."""
    newest = checkpoints(folder / "checkpoints")[-1]
    replay = folder / "replay" / newest.name / TENSORS
    kept = checkpoints(folder / "replay")
    assert len(kept) <= 2
    assert not kept or kept[-1].name == newest.name
    return (newest / TENSORS).read_bytes() + (replay.read_bytes() if kept else b"")


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
