"""Gated linear recurrence: the RG-LRU of Griffin (De et al. 2024, arXiv:2402.19427)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from metarl.nn.memories.compiled import LEAST, GatedScan
from metarl.nn.memories.convolution import ShortConvolution
from metarl.nn.memories.scan import linear_scan

SHARPNESS = 8.0
"""The constant c of eq. 4: how much faster than its slowest decay a unit can forget."""
SLOWEST, FASTEST = 0.999, 0.9
"""Bounds of the initial a^c, drawn uniformly, as in the paper."""


class Recurrence(nn.Module):
    """Units that decay and take in inputs, each through gates that depend on the input alone.

    Eq. 1 to 4 of the paper, for an input u_t behind a short convolution:

        r_t = σ(W_r u_t)    i_t = σ(W_i u_t)    a_t = a^(c r_t), a = σ(Λ)
        h_t = a_t h_(t-1) + √(1 - a_t²) (i_t u_t)

    1 - a² is at least 1e-6, so that its root has a slope.
    Units are multiplied by another branch through a SiLU (the paper: GELU) and projected back.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.convolution = ShortConvolution(size)
        self.sizes = [self.convolution.state_size, size]
        self.state_size = sum(self.sizes)
        self.inputs = nn.Linear(size, 2 * size)
        self.gates = nn.Linear(size, 2 * size)
        decay = torch.empty(size).uniform_(FASTEST, SLOWEST) ** (1 / SHARPNESS)
        self.decay_logit = nn.Parameter(torch.log(decay / (1 - decay)))
        self.output = nn.Linear(size, size)

    def forward(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T D"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the state after the last: that of the convolution, and the
        units."""
        earlier, units = state.split(self.sizes, dim=-1)
        u, branch = self.inputs(x).to(state.dtype).chunk(2, dim=-1)
        u, earlier = self.convolution(u, earlier)
        gates = self.gates(u).to(state.dtype)
        rate = -SHARPNESS * functional.logsigmoid(self.decay_logit)
        read, units = gated_scan(torch.cat([u, branch], dim=-1), gates, rate, units)
        return self.output(read), torch.cat([earlier, units], dim=-1)


def gated_scan(
    inputs: Float[Tensor, "N T E"],
    gates: Float[Tensor, "N T E"],
    rate: Float[Tensor, " D"],
    first: Float[Tensor, "N D"],
) -> tuple[Float[Tensor, "N T D"], Float[Tensor, "N D"]]:
    """The recurrence from its inputs on.

    Args:
        inputs: u_t, and the branch that multiplies the units (E = 2D).
        gates: W_r u_t and W_i u_t.
        rate: -c log a, so that a_t = exp(-rate r_t).
        first: units before the first step.

    Returns:
        The units times their branch, and the units after the last step.
    """
    if inputs.device.type == "cpu" and inputs.dtype == torch.float32:
        return GatedScan.apply(inputs, gates, rate, first)  # pyright: ignore[reportReturnType]
    u, branch = inputs.chunk(2, dim=-1)
    remember, take = gates.sigmoid().chunk(2, dim=-1)
    exponent = rate * remember
    added = (-torch.expm1(-2 * exponent)).clamp(min=LEAST).sqrt() * (take * u)
    units = linear_scan((-exponent).exp(), added, first)
    return units * functional.silu(branch), units[:, -1]
