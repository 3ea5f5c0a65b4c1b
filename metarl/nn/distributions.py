"""Actions: their size, their execution, and distributions over them.

Unlike torch's own distributions, these take the random generator as an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from metarl.system import ranks

FEW_ACTIONS = 16
"""Number of actions below which log-probabilities are computed across the batch: torch's softmax
along rows that are shorter than a processor's vector takes several times as long."""


def action_size(action_space: spaces.Box | spaces.Discrete) -> int:
    """Length of an action's vector: its dimensions, or the number of discrete choices."""
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    return int(np.prod(action_space.shape))


def execute(action: Tensor, space: spaces.Box | spaces.Discrete) -> tuple[Any, Tensor]:
    """The action as the environment takes it, and as the policy sees it one step later.

    Continuous actions are clipped to the bounds; discrete ones become one-hot for the policy.
    """
    if isinstance(space, spaces.Discrete):
        return action.cpu().numpy(), functional.one_hot(action, int(space.n)).float()
    low, high = (torch.as_tensor(bound, device=action.device) for bound in (space.low, space.high))
    clipped = action.clamp(low, high)  # in the higher of the two precisions
    return clipped.cpu().numpy(), clipped.to(action.dtype)


def execute_on(
    device: torch.device, space: spaces.Box
) -> Callable[[Float[Tensor, "N A"]], tuple[Tensor, Tensor]]:
    """`execute` for an environment that takes tensors: bounds are moved to the device once."""
    low, high = (torch.as_tensor(bound, device=device) for bound in (space.low, space.high))

    def execute(action: Float[Tensor, "N A"]) -> tuple[Tensor, Tensor]:
        clipped = action.clamp(low, high)
        return clipped, clipped.to(action.dtype)

    return execute


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal distributions, one for each dimension of the action."""

    mean: Float[Tensor, "*batch A"]
    log_std: Float[Tensor, "*batch A"]

    def sample(self, generator: torch.Generator) -> Float[Tensor, "*batch A"]:
        """Draws an action."""
        noise = ranks.drawn(torch.randn, self.mean.shape, generator, dtype=self.mean.dtype)
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Float[Tensor, "*batch A"]:
        """The most likely action."""
        return self.mean

    def log_prob(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """Log-density, summed over the dimensions of the action."""
        scaled = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * scaled**2 - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy in nats, summed over the dimensions of the action."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def detach(self) -> DiagonalGaussian:
        """Copy of the distribution, detached from the graph."""
        return DiagonalGaussian(self.mean.detach(), self.log_std.detach())


@dataclass(frozen=True)
class SquashedGaussian:
    """The tanh of independent normal distributions: actions within ±1 (Haarnoja et al. 2018,
    arXiv:1812.05905, appendix C)."""

    mean: Float[Tensor, "*batch A"]
    log_std: Float[Tensor, "*batch A"]

    def draw(
        self, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "*batch A"], Float[Tensor, "*batch"]]:
        """An action, and its log-density, summed over its dimensions; both differentiable. Without
        a generator the tanh of the mean is taken.

        The density is computed from the number before tanh, as tanh rounds large ones to ±1.
        """
        normal = DiagonalGaussian(self.mean, self.log_std)
        before = normal.mode() if generator is None else normal.sample(generator)
        # log(1 - tanh²(x)), without the loss of digits that it has where tanh is nearly ±1
        slope = 2 * (math.log(2) - before - functional.softplus(-2 * before))
        return before.tanh(), normal.log_prob(before) - slope.sum(-1)


@dataclass(frozen=True)
class Categorical:
    """A choice among A actions."""

    logits: Float[Tensor, "*batch A"]

    @cached_property
    def log_probs(self) -> Float[Tensor, "*batch A"]:
        """Log-probability of every action; computed once, as most methods need it."""
        # The first caller may not want gradients, but a later one does.
        with torch.enable_grad():
            if self.logits.shape[-1] >= FEW_ACTIONS:
                return self.logits.log_softmax(-1)
            return self.logits.movedim(-1, 0).log_softmax(0).movedim(0, -1)

    def sample(self, generator: torch.Generator) -> Int[Tensor, "*batch"]:
        """Draws an action: the first whose cumulative probability exceeds a uniform number."""
        flat = self.log_probs.detach().flatten(0, -2)
        cumulative = flat.T.double().exp().cumsum(0)
        total = cumulative[-1]
        # A number below 1 times the total is below the total also when rounded, so an action is
        # always found, and none that has no probability.
        uniform = ranks.drawn(torch.rand, total.shape, generator, dtype=total.dtype)
        return (cumulative <= uniform * total).sum(0).view(self.logits.shape[:-1])

    def mode(self) -> Int[Tensor, "*batch"]:
        """The most likely action."""
        return self.logits.argmax(-1)

    def log_prob(self, action: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Log-probability of an action."""
        return self.log_probs.gather(-1, action[..., None]).squeeze(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy in nats."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def detach(self) -> Categorical:
        """Copy of the distribution, detached from the graph."""
        return Categorical(self.logits.detach())


ActionDistribution = DiagonalGaussian | Categorical


def kl_divergence(old: ActionDistribution, new: ActionDistribution) -> Float[Tensor, "*batch"]:
    """KL(old ‖ new) in nats.

    Raises:
        TypeError: the distributions are of different types.
    """
    if isinstance(old, DiagonalGaussian) and isinstance(new, DiagonalGaussian):
        variances = torch.exp(2 * (old.log_std - new.log_std))
        shift = (old.mean - new.mean) * torch.exp(-new.log_std)
        return (new.log_std - old.log_std + 0.5 * (variances + shift**2 - 1)).sum(-1)
    if isinstance(old, Categorical) and isinstance(new, Categorical):
        return (old.log_probs.exp() * (old.log_probs - new.log_probs)).sum(-1)
    raise TypeError(f"no KL from {type(old).__name__} to {type(new).__name__}")
