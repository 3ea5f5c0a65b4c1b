"""Few-shot learners learn: from the command line, on held-out tasks, against known results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarl.evaluation.few_shot import few_shot_curve, nearest_neighbour_curve, summarize_few_shot
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import FewShotExperiment, build_learner, load
from metarl.training.run import load_agent

ROOT = Path(__file__).parents[1]
PUBLISHED_AFTER_ONE_STEP = 0.77
"""Mean squared error of MAML with 10 shots (Li et al. 2017, arXiv:1707.09835, table 1; others found
0.67)."""


def trained(tmp_path: Path, config: str, *flags: str):
    """A learner trained from the command line, and its distribution."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = tmp_path / config
    command = ["train.py", f"configs/{config}.yaml", "--run-dir", str(run), *flags]
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True,
                   capture_output=True, timeout=900)  # fmt: skip
    experiment = load(run / "config.yaml")
    assert isinstance(experiment, FewShotExperiment)
    distribution = experiment.env.build()
    learner = build_learner(experiment, distribution.shape)
    load_agent(learner, checkpoints(run / "checkpoints")[-1])
    return learner, distribution


@pytest.mark.long
def test_sinusoids_are_fitted_from_ten_points(tmp_path: Path) -> None:
    """MAML and Reptile after gradient steps on ten points, compared with a network that was trained
    equally long on points of all sinusoids and takes the same steps."""
    maml, distribution = trained(tmp_path, "maml_sinusoid")
    reptile, _ = trained(tmp_path, "reptile_sinusoid")
    pretrained, _ = trained(
        tmp_path / "pretrained", "maml_sinusoid",
        "--agent.adapt-in-training", "false", "--agent.learn-inner-learning-rate", "false",
        "--train.tasks", "25000", "--agent.decay-updates", "1000",
    )  # fmt: skip
    steps = [0, 1, 5, 32]
    value, high = {}, {}
    for name, learner in (("maml", maml), ("pretrained", pretrained), ("reptile", reptile)):
        curve = few_shot_curve(
            learner, distribution.test, axis="gradient steps", steps=steps, shots=[10]
        )
        loss = summarize_few_shot(curve)["loss"]
        value[name] = dict(zip(steps, loss.value, strict=True))
        high[name] = dict(zip(steps, loss.high, strict=True))
    for learner in ("maml", "reptile"):
        assert high[learner][1] < PUBLISHED_AFTER_ONE_STEP
        assert high[learner][5] < value["pretrained"][5] / 10
        assert value[learner][5] < value[learner][1] < value[learner][0]
    assert value["maml"][1] < value["pretrained"][0] / 10  # before adaptation
    assert high["reptile"][32] < value["pretrained"][32] / 10


def test_glyphs_that_were_held_out_are_told_apart(tmp_path: Path) -> None:
    """After a short training, better than pixels by five standard errors of the paired
    difference."""
    learner, distribution = trained(tmp_path, "prototypical_glyphs", "--train.tasks", "1400")
    learned = few_shot_curve(learner, distribution.test, axis="shots", shots=[1, 5], num_tasks=600)
    pixels = nearest_neighbour_curve(distribution.test, 5, shots=[1, 5], num_tasks=600)
    gain = learned.scores["accuracy"] - pixels.scores["accuracy"]
    assert (gain.mean(0) > 5 * gain.std(0) / 600**0.5).all()
    assert learned.scores["accuracy"].mean(0)[0] > 0.7
    assert pixels.scores["accuracy"].mean(0)[0] == pytest.approx(0.54, abs=0.04)
