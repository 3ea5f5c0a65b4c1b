"""Heads: what reads a memory."""

from __future__ import annotations

import math
from typing import Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from metarl.nn.distributions import action_size
from metarl.nn.perceptron import Perceptron

HeadKind = Literal["linear", "mlp", "hypernetwork"]


class LinearHead(nn.Linear):
    """A linear layer on the memory."""

    def initialize(self, gain: float) -> None:
        """Sets orthogonal weights of this gain."""
        nn.init.orthogonal_(self.weight, gain=gain)
        nn.init.zeros_(self.bias)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, memory: Float[Tensor, "*batch H"], present: Float[Tensor, "*batch E"]
    ) -> Float[Tensor, "*batch O"]:
        """Outputs of the head."""
        del present
        return super().forward(memory)


class MLPHead(nn.Module):
    """A hidden tanh layer and a linear layer on the memory."""

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(size, size), nn.Linear(size, outputs)

    def initialize(self, gain: float) -> None:
        """Sets orthogonal weights; those of the outputs have this gain."""
        for layer, own in ((self.hidden, math.sqrt(2)), (self.output, gain)):
            nn.init.orthogonal_(layer.weight, gain=own)
            nn.init.zeros_(layer.bias)

    def forward(
        self, memory: Float[Tensor, "*batch H"], present: Float[Tensor, "*batch E"]
    ) -> Float[Tensor, "*batch O"]:
        """Outputs of the head."""
        del present
        return self.output(self.hidden(memory).tanh())


class HyperHead(nn.Module):
    """A network on the present input whose weights the memory generates (Beck et al. 2023).

    Recurrent hypernetworks: arXiv:2309.14970. The network has one hidden tanh layer. Initially the
    generated weights do not depend on the memory and are those of an ordinary initial network:
    Bias-HyperInit (Beck et al. 2022, arXiv:2210.11348).
    """

    def __init__(self, size: int, present_size: int, outputs: int, *, hidden: int = 32) -> None:
        super().__init__()
        self.shapes = [(hidden, present_size), (hidden,), (outputs, hidden), (outputs,)]
        self.generator = nn.Linear(size, sum(math.prod(shape) for shape in self.shapes))

    def initialize(self, gain: float) -> None:
        """Sets the generated weights to those of a network whose outputs have this gain."""
        nn.init.zeros_(self.generator.weight)
        first, second = torch.empty(self.shapes[0]), torch.empty(self.shapes[2])
        nn.init.orthogonal_(first, gain=math.sqrt(2))
        nn.init.orthogonal_(second, gain=gain)
        parts = [first, torch.zeros(self.shapes[1]), second, torch.zeros(self.shapes[3])]
        self.generator.bias.data = torch.cat([part.flatten() for part in parts])

    def forward(
        self, memory: Float[Tensor, "*batch H"], present: Float[Tensor, "*batch E"]
    ) -> Float[Tensor, "*batch O"]:
        """Outputs of the generated network."""
        parts = self.generator(memory).split([math.prod(s) for s in self.shapes], dim=-1)
        first, shift, second, last = (
            part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)
        )
        hidden = ((first @ present[..., None]).squeeze(-1) + shift).tanh()
        return (second @ hidden[..., None]).squeeze(-1) + last


def build_head(
    kind: HeadKind, size: int, present_size: int, outputs: int
) -> LinearHead | MLPHead | HyperHead:
    """A head of this kind on a memory of `size` units and a present input of `present_size`."""
    if kind == "hypernetwork":
        return HyperHead(size, present_size, outputs)
    return (MLPHead if kind == "mlp" else LinearHead)(size, outputs)


class ActionHead(nn.Module):
    """One output for each of A discrete actions: a head, the same for all and not one that reads
    the present input, reads the action's own memory and the mean of all actions' (`PerAction`)."""

    def __init__(self, kind: HeadKind, size: int, num_actions: int) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.head = build_head(kind, 2 * size // num_actions, 0, 1)

    def initialize(self, gain: float) -> None:
        """Sets orthogonal weights; those of the outputs have this gain."""
        self.head.initialize(gain)

    def forward(
        self, memory: Float[Tensor, "*batch H"], present: Float[Tensor, "*batch E"]
    ) -> Float[Tensor, "*batch A"]:
        """Outputs of the head."""
        del present
        own = memory.unflatten(-1, (self.num_actions, -1))
        both = torch.cat([own, own.mean(-2, keepdim=True).expand_as(own)], dim=-1)
        return self.head(both, both).squeeze(-1)


class PooledHead(nn.Module):
    """A head that reads the memories of A discrete actions (`PerAction`) by their mean, and by a
    mean that weighs them as learned: the value of a policy is that of the actions it prefers."""

    def __init__(self, kind: HeadKind, size: int, num_actions: int, outputs: int) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.score = nn.Linear(size // num_actions, 1)
        self.head = build_head(kind, 2 * size // num_actions, 0, outputs)

    def initialize(self, gain: float) -> None:
        """Sets orthogonal weights; those of the outputs have this gain. At first, actions weigh the
        same."""
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.head.initialize(gain)

    def forward(
        self, memory: Float[Tensor, "*batch H"], present: Float[Tensor, "*batch E"]
    ) -> Float[Tensor, "*batch O"]:
        """Outputs of the head."""
        del present
        own = memory.unflatten(-1, (self.num_actions, -1))
        weighed = (self.score(own).softmax(-2) * own).sum(-2)
        both = torch.cat([weighed, own.mean(-2)], dim=-1)
        return self.head(both, both)


class RewardHead(nn.Module):
    """Predicts the reward of an action from what the policy reads: linear outputs, one for each of
    discrete actions (with `per_action` from the action's own memory), or a perceptron with one tanh
    layer on it and a continuous action."""

    def __init__(
        self, size: int, action_space: spaces.Box | spaces.Discrete, *, per_action: bool = False
    ) -> None:
        super().__init__()
        actions = action_size(action_space)
        self.discrete = isinstance(action_space, spaces.Discrete)
        if self.discrete:
            self.network = (
                ActionHead("linear", size, actions) if per_action else LinearHead(size, actions)
            )
            self.network.initialize(gain=1.0)
        else:
            self.network = Perceptron((size + actions, size, 1), nn.Tanh)

    def forward(
        self, read: Float[Tensor, "*batch H"], action: Shaped[Tensor, "*batch *A"]
    ) -> Float[Tensor, "*batch"]:
        """The predicted reward of each action (indices, or vectors before clipping)."""
        if self.discrete:
            return self.network(read, read).gather(-1, action[..., None]).squeeze(-1)
        return self.network(torch.cat([read, action], dim=-1)).squeeze(-1)
