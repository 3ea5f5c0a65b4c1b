"""A short causal convolution: what a memory takes in together with the steps just before it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 4
"""Steps that an output depends on, as in Griffin (De et al. 2024, arXiv:2402.19427)."""


class ShortConvolution(nn.Module):
    """Each unit's weighted sum over the present step and the three before it.

    An experience is spread over steps: the reward of an action arrives with the next observation,
    one step after the observation that the action was chosen for. A memory that adds up products of
    what one step brings cannot tell in which state a reward was earned. Behind a convolution it
    can, as a key may be of the step before its value. It follows a linear layer, as in Griffin, so
    that every unit finds its own lag; before one, the lags of all units would share its input.

    The state is the inputs of the last three steps.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.state_size = (WIDTH - 1) * size
        self.weight = nn.Parameter(torch.empty(WIDTH, size))
        """Weights of the inputs three steps ago, two, one, and now, for each unit."""
        self.initialize()

    def initialize(self) -> None:
        """Draws the initial weights."""
        nn.init.uniform_(self.weight, -0.5, 0.5)
        nn.init.ones_(self.weight[-1])

    def forward(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T D"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the inputs of the last three."""
        steps = x.shape[1]
        earlier = state.unflatten(-1, (WIDTH - 1, -1))
        inputs = torch.cat([earlier, x.to(state.dtype)], dim=1)
        output = inputs[:, WIDTH - 1 :] * self.weight[-1]
        for lag in range(WIDTH - 1):
            output = torch.addcmul(output, inputs[:, lag : lag + steps], self.weight[lag])
        return output, inputs[:, steps:].flatten(1)
