"""Losses of soft actor-critic.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def q_target(
    reward: Float[Tensor, "G B"],
    next_q: Float[Tensor, "2 G B"],
    next_log_prob: Float[Tensor, "G B"],
    *,
    temperature: Float[Tensor, ""],
    discount: float,
) -> Float[Tensor, "G B"]:
    """r + γ (min Q(s', a') − α log π(a'|s')) (Haarnoja et al. 2018, eqs. 3 and 5)."""
    return reward + discount * (next_q.amin(0) - temperature * next_log_prob)


def q_error(q: Float[Tensor, "2 G B"], target: Float[Tensor, "G B"]) -> Float[Tensor, ""]:
    """Mean squared error, summed over both Q functions."""
    return (q - target).square().flatten(1).mean(1).sum()


def actor_loss(
    q: Float[Tensor, "2 G B"],
    log_prob: Float[Tensor, "G B"],
    *,
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """α log π(a|s) − min Q(s, a) for an action that the policy drew (eq. 7)."""
    return (temperature * log_prob - q.amin(0)).mean()


def temperature_loss(
    log_temperature: Float[Tensor, ""], log_prob: Float[Tensor, "G B"], *, entropy: float
) -> Float[Tensor, ""]:
    """Its gradient raises the temperature where the policy's entropy is below `entropy` (nats)."""
    return -(log_temperature * (log_prob + entropy).detach()).mean()
