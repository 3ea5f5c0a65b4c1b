"""Multilayer perceptrons."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn


def perceptron(
    sizes: tuple[int, ...], activation: type[nn.Module], *, gain: float = 1.0
) -> nn.Sequential:
    """Linear layers from `sizes[0]` inputs to `sizes[-1]` outputs, an activation between them.

    Weights are orthogonal; those of the last layer have this gain (Andrychowicz et al. 2021,
    arXiv:2006.05990, section 3.2).
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, gain=math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    last = layers[-2]
    assert isinstance(last, nn.Linear)
    nn.init.orthogonal_(last.weight, gain=gain)
    return nn.Sequential(*layers[:-1])
