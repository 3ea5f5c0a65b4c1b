"""Evaluation of policies with known success gives that success, on the real Meta-World.

The official evaluation counts the first episodes to finish and ends episodes at success, so a
policy that succeeds in 10 % of the episodes scores 51 % on ML1. Here each task plays the same
number of whole episodes and each of them counts.
"""

import numpy as np
import pytest
import torch

from envs.metaworld import MetaWorld
from envs.metaworld.official import MetaWorldTask
from envs.yardsticks.policies import ActsOnly, ScriptedPolicy
from metarl.evaluation.statistics import success_after, summarize
from metarl.rollout.curve import adaptation_curve
from metarl.rollout.trial import run_trial
from metarl.types import TrialShape

HORIZON, SHAPE = 110, TrialShape(episodes=5)
GIVE_UP = torch.tensor([0.0, -1.0, 1.0, 0.0])  # up and back, away from all targets


class SometimesScripted(ActsOnly):
    """Agent that chooses at random, per episode, to play the official scripted policy or give
    up."""

    device = torch.device("cpu")

    def __init__(self, tasks: list[MetaWorldTask], success_rate: float, seed: int) -> None:
        self.scripted, self.success_rate = ScriptedPolicy(tasks), success_rate
        self.rng = np.random.default_rng(seed)
        self.intended: list[np.ndarray] = []

    def begin_trial(self, num_slots):
        return self.scripted.begin_trial(num_slots)

    def act(self, state, step, *, generator):
        if step.episode_start.all():
            self.intended.append(self.rng.random(len(state)) < self.success_rate)
        actions, log_prob, state = self.scripted.act(state, step, generator=generator)
        actions[~self.intended[-1]] = GIVE_UP
        return actions, log_prob, state


# Classes of ML10 whose scripted policies succeed within the shortened horizon.
QUICK = ["drawer-close-v3", "window-open-v3", "reach-v3", "button-press-topdown-v3"]


@pytest.fixture(scope="module", params=["ML1-reach-v3", "ML10"])
def slots(request: pytest.FixtureRequest):
    """An environment with 16 slots, and their training tasks."""
    distribution = MetaWorld(request.param, horizon=HORIZON)
    classes = [name for name in QUICK if name in distribution.train.classes]
    few = distribution.train.first_of_each_class(16 // len(classes))
    tasks = [task for task in few if task.env_name in classes]
    return distribution.make_env(len(tasks)), tasks


@pytest.mark.parametrize("success_rate", [0.0, 0.1, 0.3, 1.0])
def test_success_is_read_as_it_is(slots, success_rate: float) -> None:
    env, tasks = slots
    agent = SometimesScripted(tasks, success_rate, seed=1)
    trial = run_trial(agent, env, tasks, shape=SHAPE, seed=0, generator=None)
    curve = adaptation_curve(trial, [task.env_name for task in tasks])
    intended = torch.tensor(np.stack(agent.intended, axis=1))
    # Scores equal the intended success, task by task and episode by episode.
    assert torch.equal(curve.scores["success_any"], intended.double())
    overall, by_class = summarize(curve, threshold=0.5, seed=0)
    assert sum(summary.num_tasks for summary in by_class.values()) == len(tasks)
    # The overall interval of the pooled episodes contains the chosen rate.
    pooled, _ = success_after(curve, adaptation_episodes=0)
    assert pooled.low[0] is not None and pooled.high[0] is not None
    assert pooled.low[0] <= success_rate <= pooled.high[0]
    success = overall.mean["success_any"]
    assert np.mean(success.value) == pytest.approx(pooled.value[0])
