"""What is said of beliefs: the probe, which slots count, and what is refused."""

import json
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metarl.errors import UserError
from metarl.learning.belief import BeliefCurve, BeliefLog, beliefs_over, probe_r2
from metarl.nn.distributions import DiagonalGaussian
from metarl.system.files import parse_json
from metarl.types import Rollout, TimeStep


@dataclass(frozen=True)
class Goal:
    """A task with a goal on a line."""

    parameters: np.ndarray
    env_name: str = "line"

    @property
    def goal(self) -> np.ndarray:
        return self.parameters


class Says:
    """An agent that believes what it is told to."""

    def __init__(self, mean: torch.Tensor, log_std: Any = None) -> None:
        self.mean, self.log_std = mean, torch.zeros_like(mean) if log_std is None else log_std

    def beliefs(self, trial: Any) -> DiagonalGaussian:
        del trial
        return DiagonalGaussian(self.mean, self.log_std)


def rollouts(*steps: int, slots: int) -> list[Rollout]:
    """Empty rollouts of these numbers of steps."""
    return [
        Rollout(
            seen=TimeStep(
                obs=torch.zeros(slots, num, 1),
                prev_action=torch.zeros(slots, num, 1),
                prev_reward=torch.zeros(slots, num),
                episode_start=torch.zeros(slots, num, dtype=torch.bool),
            ),
            action=torch.zeros(slots, num, 1),
            log_prob=torch.zeros(slots, num),
            reward=torch.zeros(slots, num),
            success=torch.zeros(slots, num, dtype=torch.bool),
            episode_end=torch.zeros(slots, num, dtype=torch.bool),
            final_obs=torch.zeros(slots, 0, 1),
        )
        for num in steps
    ]


def test_the_probe_reads_what_is_linear_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(size=(500, 4))
    goals = known @ rng.normal(size=(4, 2)) * 5 + 3
    assert probe_r2(known, goals) == pytest.approx(1, abs=1e-4)
    assert probe_r2(known, rng.normal(size=(500, 2))) == pytest.approx(0, abs=0.05)
    # Noise of the variance of the signal leaves a half.
    noisy = goals + rng.normal(size=goals.shape) * goals.std(0)
    assert probe_r2(known, noisy) == pytest.approx(0.5, abs=0.06)
    # It does not score the fit: 50 numbers of noise "explain" 50 of 60 goals.
    assert probe_r2(rng.normal(size=(60, 50)), rng.normal(size=(60, 1))) < 0  # type: ignore[operator]
    assert probe_r2(np.zeros((60, 3)), goals[:60]) == pytest.approx(0, abs=0.1)
    assert probe_r2(known[:19], goals[:19]) is None
    assert probe_r2(known, np.ones((500, 2))) is None


def test_of_a_task_in_several_slots_the_first_one_counts() -> None:
    tasks = [Goal(value) for value in np.random.default_rng(0).normal(size=(20, 1))]
    mean = torch.full((2 * 24, 5, 1), 100.0)  # the last batch is padded with four tasks
    for number, task in enumerate(tasks):
        mean[2 * number, 2:] = float(task.goal[0])
        mean[2 * number, :2] = 0.0
    log = BeliefLog(Says(mean), slots_per_task=2)
    log.keep(rollouts(2, 3, slots=48), len(tasks))
    curve = log.curve(tasks)
    assert curve.steps == [0, 1, 2, 3, 4]
    assert curve.mean[0] == [0.0]
    assert curve.mean[-1] == [pytest.approx(float(tasks[0].goal[0]))]
    assert curve.mean_std == [1.0] * 5
    assert curve.goal_r2 == pytest.approx([0, 0, 1, 1, 1], abs=0.2)


@pytest.mark.parametrize(
    ("says", "found"),
    [
        (Says(torch.zeros(2, 4, 3)), r"mean of shape \(2, 4, 3\), and should return \(2, 5\)"),
        (Says(torch.zeros(2, 5)), "mean of shape"),
        (Says(torch.zeros(2, 5, 0)), "mean of shape"),
        (Says(torch.full((2, 5, 3), torch.nan)), "the mean of the agent's"),
        (
            Says(torch.zeros(2, 5, 3), torch.full((2, 5, 3), torch.inf)),
            "standard deviation of",
        ),
    ],
)
def test_wrong_beliefs_are_named(says: Says, found: str) -> None:
    with pytest.raises(UserError, match=found):
        beliefs_over(says, rollouts(2, 3, slots=2))


def test_beliefs_of_another_kind_are_named() -> None:
    says: Any = SimpleNamespace(beliefs=lambda trial: torch.zeros(2, 5, 3))
    with pytest.raises(UserError, match="returns Tensor, and should return a DiagonalGaussian"):
        beliefs_over(says, rollouts(5, slots=2))


def test_a_stored_curve_is_whole() -> None:
    curve = BeliefCurve(steps=[0, 3], mean=[[0.0], [1.0]], std=[[1.0], [0.5]], mean_std=[1.0, 0.5])
    assert parse_json(json.dumps(asdict(curve)), BeliefCurve, source="it") == curve
    for change in ({"mean": [[0.0]]}, {"std": [[1.0], []]}, {"goal_r2": [0.1]}, {"steps": [0]},
                   {"std": [[-1.0], [0.5]]}, {"steps": [-1, 3]},
                   {"steps": [], "mean": [], "std": [], "mean_std": []}):  # fmt: skip
        with pytest.raises(UserError, match="belief"):
            parse_json(json.dumps(asdict(curve) | change), BeliefCurve, source="it")
    with pytest.raises(ValueError, match="mean_std has 1 rows in place of 2"):
        replace(curve, mean_std=[1.0])
