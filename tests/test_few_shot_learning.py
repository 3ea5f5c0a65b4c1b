"""Few-shot learners learn: from the command line, on held-out tasks, against known figures."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from metarl.checkpoint import checkpoints
from metarl.few_shot import few_shot_curve, nearest_neighbour_curve, summarize_few_shot
from metarl.run import load_agent

ROOT = Path(__file__).parents[1]
PUBLISHED_AFTER_ONE_STEP = 0.77
"""Mean squared error of MAML, 10 shots (Li et al. 2017, arXiv:1707.09835, table 1; others found
0.67)."""


def trained(tmp_path: Path, config: str, *flags: str):
    """A learner, its distribution, and how many seconds training took as a user would start it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = tmp_path / config
    command = ["train.py", f"configs/{config}.yaml", "--run-dir", str(run), *flags]
    started = time.monotonic()
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True,
                   capture_output=True, timeout=900)  # fmt: skip
    seconds = time.monotonic() - started
    experiment = train.load(run / "config.yaml")
    assert isinstance(experiment, train.FewShotExperiment)
    distribution = experiment.env.build()
    learner = train.build_learner(experiment, distribution.shape)
    load_agent(learner, checkpoints(run / "checkpoints")[-1])
    return learner, distribution, seconds


def test_sinusoids_are_fitted_from_ten_points(tmp_path: Path) -> None:
    """MAML and Reptile after gradient steps on ten points, beside a network that was trained on
    points of all sinusoids for as long and then takes the same steps."""
    maml, distribution, seconds = trained(tmp_path, "maml_sinusoid")
    reptile, _, reptile_seconds = trained(tmp_path, "reptile_sinusoid")
    pretrained, _, _ = trained(
        tmp_path / "pretrained", "maml_sinusoid",
        "--agent.adapt-in-training", "false", "--agent.learn-inner-learning-rate", "false",
        "--train.tasks", "25000", "--agent.decay-updates", "1000",
    )  # fmt: skip
    losses = {}
    for name, learner, steps in (
        ("maml", maml, [0, 1, 5]), ("pretrained", pretrained, [0, 1, 5]),
        ("reptile", reptile, [0, 1, 5, 32]),
    ):  # fmt: skip
        curve = few_shot_curve(
            learner, distribution.test, axis="gradient steps", steps=steps, shots=[10]
        )
        loss = summarize_few_shot(curve)["loss"]
        losses[name] = (
            dict(zip(steps, loss.value, strict=True)),
            dict(zip(steps, loss.high, strict=True)),
        )
    (maml_loss, maml_high), (reptile_loss, reptile_high) = losses["maml"], losses["reptile"]
    best_pretrained = min(losses["pretrained"][0].values())
    assert maml_high[1] < PUBLISHED_AFTER_ONE_STEP
    assert maml_high[5] < maml_loss[1]
    assert maml_high[5] < best_pretrained / 10
    assert reptile_high[32] < best_pretrained / 10
    assert reptile_loss[32] < reptile_loss[5] < reptile_loss[1] < reptile_loss[0]
    # Three minutes on two cores; this machine may have others to serve.
    assert seconds < 360 and reptile_seconds < 360


def test_glyphs_that_were_held_out_are_told_apart(tmp_path: Path) -> None:
    """Better than by pixels, by five standard errors of the paired difference; a short training."""
    learner, distribution, _ = trained(
        tmp_path, "prototypical_glyphs", "--train.tasks", "2400"
    )  # fmt: skip
    learned = few_shot_curve(learner, distribution.test, axis="shots", shots=[1, 5], episodes=600)
    pixels = nearest_neighbour_curve(distribution.test, 5, shots=[1, 5], episodes=600)
    gain = learned.scores["accuracy"] - pixels.scores["accuracy"]
    assert (gain.mean(0) > 5 * gain.std(0) / 600**0.5).all()
    assert learned.scores["accuracy"].mean(0)[0] > 0.7
    assert pixels.scores["accuracy"].mean(0)[0] == pytest.approx(0.54, abs=0.04)
