"""Products with Hessians by explicit formulas against Hessians by plain autograd, task by task."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.maml_trpo import inner_loss as reinforce
from agents.maml_trpo import kl_from_itself
from agents.promp import inner_loss as likelihood_ratio
from metarl.learning.hessians import LossHessian, PolicyLosses
from metarl.learning.task_batch import Experience
from metarl.nn.task_policies import TaskPolicies

OBS, ACTIONS, TASKS, STEPS = 3, 2, 3, 40
CONTINUOUS = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)


def new_policies(
    space: spaces.Space = CONTINUOUS, **changes: Any
) -> tuple[TaskPolicies, torch.Tensor]:
    """Policies, and different parameters of each task."""
    torch.manual_seed(0)
    values = {"hidden_sizes": (7, 5), "step_size": 0.1, **changes}
    policies = TaskPolicies(spaces.Box(-np.inf, np.inf, (OBS,), np.float64), space, **values)
    start = policies.start_of_each(TASKS)
    return policies, start + 0.5 * torch.randn(start.shape)


def new_experience(*, discrete: bool = False) -> Experience:
    action = torch.randn(TASKS, STEPS, ACTIONS)
    return Experience(
        obs=torch.randn(TASKS, STEPS, OBS),
        action=action.argmax(-1) if discrete else action,
        log_prob=-1.0 + 0.1 * torch.randn(TASKS, STEPS),
        advantage=torch.randn(TASKS, STEPS),
    )


def by_autograd(
    policies: TaskPolicies, parameters: torch.Tensor, obs: torch.Tensor, losses: PolicyLosses
) -> torch.Tensor:
    """The Hessian of each task."""

    def loss(row: torch.Tensor, task: int) -> torch.Tensor:
        others = parameters[:task], row[None], parameters[task + 1 :]
        return losses(policies.distribution(torch.cat(others), obs))[task]

    hessian = torch.autograd.functional.hessian
    return torch.stack(
        [hessian(lambda row, n=n: loss(row, n), parameters[n]) for n in range(TASKS)]
    )


@pytest.mark.parametrize("space", [CONTINUOUS, spaces.Discrete(ACTIONS)])
@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 5), (4, 6, 5)])
@pytest.mark.parametrize("inner_loss", [reinforce, likelihood_ratio, None])
def test_products_are_those_of_the_hessians_by_autograd(
    space: spaces.Space, hidden_sizes: tuple[int, ...], inner_loss: Any, double_precision: None
) -> None:
    """Any loss in general; the KL of a policy to itself as a loss without gradient."""
    policies, parameters = new_policies(space, hidden_sizes=hidden_sizes)
    experience = new_experience(discrete=isinstance(space, spaces.Discrete))
    losses = kl_from_itself if inner_loss is None else lambda p: inner_loss(p, experience)
    ours = LossHessian(
        policies, parameters, experience.obs, losses,
        dtype=torch.float64, stationary=inner_loss is None,
    )  # fmt: skip
    vector = torch.randn_like(parameters)
    hessians = by_autograd(policies, parameters, experience.obs, losses)
    product = ours.product(vector)
    torch.testing.assert_close(product, torch.einsum("gpq,gq->gp", hessians, vector))
    assert product.abs().min(1).values.max() > 1e-8
    torch.testing.assert_close(ours.product(2 * vector), 2 * product)  # nothing was used up


@pytest.mark.parametrize("changes", [{"learn_std": False}, {"min_std": 5.0}])
def test_a_standard_deviation_that_is_fixed_or_at_its_bound(
    changes: dict, double_precision: None
) -> None:
    policies, parameters = new_policies(**changes)
    experience = new_experience()

    def losses(policy):
        return reinforce(policy, experience)

    ours = LossHessian(policies, parameters, experience.obs, losses, dtype=torch.float64)
    vector = torch.randn_like(parameters)
    hessians = by_autograd(policies, parameters, experience.obs, losses)
    expected = torch.einsum("gpq,gq->gp", hessians, vector)
    torch.testing.assert_close(ours.product(vector), expected)


@pytest.mark.parametrize("stationary", [False, True])
def test_16_bit_products_differ_by_their_rounding(stationary: bool) -> None:
    """A bfloat16 has 8 bits: an input or result is off by up to 0.4 %."""
    policies, parameters = new_policies(hidden_sizes=(64, 64))
    experience = new_experience()
    losses = kl_from_itself if stationary else lambda p: reinforce(p, experience)
    full, short = (
        LossHessian(
            policies, parameters, experience.obs, losses, dtype=dtype, stationary=stationary
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    vector = torch.randn_like(parameters)
    expected, product = full.product(vector), short.product(vector)
    assert product.dtype == torch.float32
    differs = (product - expected).norm(dim=1) / expected.norm(dim=1)
    assert (differs > 1e-4).all() and (differs < 0.02).all()
