"""Trials of agents that adapt by gradient steps: refused shapes."""

import pytest

from metarl.errors import UserError
from metarl.learning.adaptation import AdaptationConfig


@pytest.mark.parametrize(
    ("episodes", "tasks", "message"),
    [
        (25, 10, "25 episodes does not divide .* 10; the nearest that does is 20"),
        (10, 10, "leaves no inner step; use train.episodes_per_trial 20"),
        (20, 15, "15 is no multiple of the 10 task classes; use 20"),
    ],
)
def test_trials_that_cannot_be_learned_from_are_refused(
    episodes: int, tasks: int, message: str
) -> None:
    config = AdaptationConfig(episodes_per_step=10)
    with pytest.raises(UserError, match=message):
        shape = config.trial_shape(episodes, training=True)
        config.check_training(shape, horizon=5, num_tasks=tasks, num_classes=10)
