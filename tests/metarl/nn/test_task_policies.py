"""Policies of many tasks at once, each with its own parameters."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.nn.task_policies import TaskPolicies

OBS, ACTIONS, TASKS, EPISODES = 3, 2, 4, 5

pytestmark = pytest.mark.usefixtures("double_precision")


def new_policies() -> TaskPolicies:
    torch.manual_seed(0)
    policies = TaskPolicies(
        spaces.Box(-np.inf, np.inf, (OBS,), np.float64),
        spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32),
        hidden_sizes=(7, 5),
        step_size=0.1,
    )
    start = policies.meta_parameters()
    policies.set_meta_parameters(start + 0.3 * torch.randn(len(start)))
    return policies


def test_log_probabilities_are_summed_over_action_dimensions() -> None:
    policies, obs = new_policies(), torch.randn(TASKS * EPISODES, OBS)
    action, log_prob = policies.act(
        policies.start_of_each(TASKS), obs, generator=torch.Generator().manual_seed(0)
    )
    mean, log_std = policies.policy(obs)
    theirs = torch.distributions.Normal(mean, log_std.exp()).log_prob(action)
    torch.testing.assert_close(log_prob, theirs.sum(-1))
    assert (log_prob - theirs.mean(-1)).abs().max() > 0.1


def test_each_task_acts_by_its_own_parameters() -> None:
    policies = new_policies()
    start = policies.start_of_each(TASKS)
    shift = 0.1 * torch.arange(TASKS)[:, None]
    obs = torch.randn(1, OBS).expand(TASKS * EPISODES, OBS)
    action, _ = policies.act(start + shift, obs, generator=None)
    by_task = action.view(TASKS, EPISODES, ACTIONS)
    assert torch.equal(by_task, by_task[:, :1].expand_as(by_task))
    for number in range(TASKS):
        policies.set_meta_parameters(start[number] + shift[number])
        torch.testing.assert_close(policies.policy(obs[:1])[0], by_task[number, :1])
    assert (by_task[0, 0] - by_task[1, 0]).abs().max() > 1e-2
