"""Linear attention: averages under soft keys (Katharopoulos et al. 2020, arXiv:2006.16236)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from metarl.nn.memories.convolution import ShortConvolution
from metarl.nn.memories.parts import CHUNK, by_head

HEADS = 2
SHARPNESS = 2.0
"""Factor on keys and queries before their softmax."""
PRIOR = 4.0
"""How many steps with a key that is the same for all units the value 0 counts as."""


class LinearAttention(nn.Module):
    """Heads that average values over the steps so far, by how well their keys match the query.

        o_t = Σ_s (q_t · k_s) v_s / (Σ_s q_t · k_s + PRIOR / W)    over s ≤ t

    as in eq. 5 of the paper, with positive features that add up to 1: keys and queries are softmax
    distributions over W units, so a key says to which of W bins a step belongs. The prior makes an
    average of few steps smaller, as Bayes' rule does for the mean of noisy values around 0. Values
    are products of two linear layers (Shazeer 2020, arXiv:2002.05202, "bilinear"): an action and
    its reward make a value that tells what this action paid. Keys and values pass a short
    convolution, as a reward arrives one step after its state.

    The state holds the numerators' and denominators' sums, which nothing decays.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.width = size // HEADS
        self.convolution = ShortConvolution(3 * size)
        self.sizes = [self.convolution.state_size, HEADS * self.width * (self.width + 1)]
        self.state_size = sum(self.sizes)
        self.inputs = nn.Linear(size, 5 * size)
        self.output = nn.Linear(size, size)

    def forward(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T D"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the state after the last: that of the convolution, and the
        sums."""
        earlier, flat = state.split(self.sizes, dim=-1)
        size = self.inputs.in_features
        query, written, gate = self.inputs(x).split([size, 3 * size, size], dim=-1)
        written, earlier = self.convolution(written, earlier)
        key, left, right = written.chunk(3, dim=-1)
        q, k = (by_head(part * SHARPNESS, HEADS).softmax(-1) for part in (query, key))
        v = functional.pad(by_head(left * right, HEADS), (0, 1), value=1.0)
        sums = flat.view(len(x), HEADS, self.width, self.width + 1)
        read = []
        for start in range(0, x.shape[1], CHUNK):
            chunk = slice(start, start + CHUNK)
            q_here, k_here, v_here = q[:, :, chunk], k[:, :, chunk], v[:, :, chunk]
            read.append((q_here @ k_here.mT).tril() @ v_here + q_here @ sums)
            sums = sums + k_here.mT @ v_here
        total = torch.cat(read, dim=2)
        average = total[..., :-1] / (total[..., -1:] + PRIOR / self.width)
        together = average.transpose(1, 2).flatten(2) * functional.silu(gate)
        return self.output(together), torch.cat([earlier, sums.flatten(1)], dim=-1)
