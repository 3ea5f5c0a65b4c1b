"""Discounted returns, generalised advantage estimation and the linear feature baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metarl.system import ranks


def discounted_returns(
    reward: Float[Tensor, "N T"],
    *,
    cut: Bool[Tensor, "N T"],
    discount: float,
    last_value: Float[Tensor, " N"],
) -> Float[Tensor, "N T"]:
    """Discounted sums of the rewards from each step on.

    Args:
        reward: rewards of N slots over T steps.
        cut: True at steps whose return excludes everything after the step.
        discount: factor per step.
        last_value: value after the last step, used where that step is not cut.
    """
    returns: Any = reward.T.clone(memory_format=torch.contiguous_format)
    cuts: Any = cut.T.contiguous()
    following: Any = last_value
    where: Any = torch.where
    if reward.is_cpu:  # NumPy's calls on short arrays take a fraction of the time of torch's.
        returns, cuts, following = returns.numpy(), cuts.numpy(), following.numpy()
        where = np.where
    for t in reversed(range(len(returns))):
        following = returns[t] + discount * where(cuts[t], 0.0, following)
        returns[t] = following
    return torch.as_tensor(returns).T.contiguous()


def gae(
    reward: Float[Tensor, "N T"],
    value: Float[Tensor, "N T"],
    *,
    cut: Bool[Tensor, "N T"],
    discount: float,
    gae_lambda: float,
    last_value: Float[Tensor, " N"],
) -> Float[Tensor, "N T"]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    Args:
        reward: rewards of N slots over T steps.
        value: estimate of the return from each step on.
        cut: True at steps whose advantage excludes everything after the step. Inside an RL² trial
            nothing is cut, so that advantages reach across episode boundaries.
        discount: factor per step.
        gae_lambda: λ, the weight of longer returns.
        last_value: value after the last step, used where that step is not cut.
    """
    next_value = torch.cat([value[:, 1:], last_value[:, None]], dim=1)
    td_error = reward + discount * torch.where(cut, 0.0, next_value) - value
    return discounted_returns(
        td_error, cut=cut, discount=discount * gae_lambda, last_value=torch.zeros_like(last_value)
    )


def explained_variance(returns: Float[Tensor, "N T"], value: Float[Tensor, "N T"]) -> float:
    """Share of the variance of returns, over all ranks, that the values explain."""
    left = ranks.variance(returns - value) / ranks.variance(returns).clamp(min=1e-12)
    return float(1 - left)


def linear_baseline(
    obs: Float[Tensor, "G M O"],
    time: Float[Tensor, "G M"],
    returns: Float[Tensor, "G M"],
    *,
    regularization: float = 1e-5,
) -> Float[Tensor, "G M"]:
    """Values fitted by ridge regression on features of observation and time (Duan et al. 2016,
    arXiv:1604.06778, supplement: observation, its square, t, t², t³ with t in hundreds of steps).

    Each of the G groups (a task's M steps) has its own fit. It is solved in float64, because the
    features are nearly collinear.
    """
    obs = obs.double().clamp(-10, 10)
    hundreds = time.double()[..., None] / 100
    ones = torch.ones_like(hundreds)
    features = torch.cat([obs, obs**2, hundreds, hundreds**2, hundreds**3, ones], dim=-1)
    gram = features.mT @ features
    ridge = regularization * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + ridge, features.mT @ returns.double()[..., None])
    return (features @ weights).squeeze(-1).to(returns.dtype)
