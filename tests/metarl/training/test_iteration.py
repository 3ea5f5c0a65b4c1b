"""Metrics logged for an iteration's trial."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from metarl.training.iteration import episode_metrics
from metarl.types import TrialShape
from tests.metarl.evaluation.test_statistics import rollout

BEFORE = rollout(reward=[[1, 1], [3, 3], [20, 20]], success=[[0, 0]] * 3, episode_end=[0, 1])
AFTER = rollout(
    reward=[[2, 2], [4, 4], [30, 30]], success=[[1, 0], [0, 0], [0, 1]], episode_end=[0, 1]
)


@dataclass(frozen=True)
class FakeTask:
    env_name: str
    parameters: np.ndarray = field(default_factory=lambda: np.zeros(1))


SHAPE = TrialShape(slots_per_task=1, rollouts=2)


def test_each_class_is_logged_as_it_is_after_adaptation() -> None:
    tasks = [FakeTask(name) for name in ("push", "push", "reach")]
    metrics = episode_metrics([BEFORE, AFTER], tasks, SHAPE, by_class=True)
    assert metrics == {
        "train/return": pytest.approx(120 / 6),
        "train/success": pytest.approx(2 / 6),
        "return/first_episode": 16,
        "return/last_episode": 24,
        "classes/return/push": 6,
        "classes/return/reach": 60,
        "success/first_episode": 0,
        "success/last_episode": pytest.approx(2 / 3),
        "classes/success/push": 0.5,
        "classes/success/reach": 1,
    }
