"""Multilayer perceptrons."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Perceptron(nn.Sequential):
    """Linear layers from `sizes[0]` inputs to `sizes[-1]` outputs, with an activation between them.

    Weights are orthogonal; those of the last layer have this gain (Andrychowicz et al. 2021,
    arXiv:2006.05990, section 3.2).
    """

    def __init__(
        self, sizes: tuple[int, ...], activation: type[nn.Module], *, gain: float = 1.0
    ) -> None:
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(sizes), 1):
            last = number == len(sizes) - 1
            linear = nn.Linear(before, after)
            nn.init.orthogonal_(linear.weight, gain=gain if last else math.sqrt(2))
            nn.init.zeros_(linear.bias)
            layers += [linear] if last else [linear, activation()]
        super().__init__(*layers)

    def forward(self, input: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Outputs. Under `torch.autocast` the last layer is exempt: rounded outputs would tell
        values apart by their first two or three digits only."""
        *layers, last = self
        hidden = input
        for layer in layers:
            hidden = layer(hidden)
        with torch.autocast(input.device.type, enabled=False):
            return last(hidden.to(input.dtype))
