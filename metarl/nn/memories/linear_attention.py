"""Linear attention: averages under soft keys (Katharopoulos et al. 2020, arXiv:2006.16236)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn.memories.convolution import ShortConvolution
from metarl.nn.memories.parts import CHUNK, by_head

HEADS = 2
KEY_SHARPNESS, SHARE_SHARPNESS = 2.0, 4.0
"""Factors on keys and queries, and on shares, before their softmax."""
PRIOR = 0.125
"""Weight of the value 0 in every average. A step's is 1, shared out among W units, if its key
matches the query as well as a uniform one would."""


class LinearAttention(nn.Module):
    """Heads in which every unit averages its values over the steps so far.

    A step's value counts in a unit by how well the step's key matches the query, and by the unit's
    share in the step:

        w_ts = W (q_t · k_s) p_s,    Σ_t = Σ_s w_ts over s ≤ t
        o_t = output [Σ_s w_ts v_s / (Σ_t + PRIOR), log(1 + Σ_t / PRIOR)]

    with a query q, a key k and shares p that are softmax distributions over a head's W units, and
    linear values v. This is eq. 5 of the paper with positive features that add up to 1, and a
    denominator for each unit. So one query can read many averages: what each arm of a bandit paid
    (shares tell arms apart), or what each action paid in the present state (keys tell states
    apart). The prior makes an average of few steps smaller, as Bayes' rule does for the mean of
    noisy values around 0; the logarithm tells how many they were, which exploration needs.

    Keys pass a short convolution, as action and reward arrive one step after the observation that
    they belong to. The state holds the sums, which nothing decays. No gate follows: until it has
    learned, a gate multiplies what is read by noise, and the memory learns slowly.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.width = size // HEADS
        self.convolution = ShortConvolution(size)
        self.sizes = [self.convolution.state_size, 2 * HEADS * self.width**2]
        self.state_size = sum(self.sizes)
        self.inputs = nn.Linear(size, 4 * size)
        self.output = nn.Linear(2 * size, size)

    def forward(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T D"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the state after the last: that of the convolution, and the
        sums."""
        earlier, flat = state.split(self.sizes, dim=-1)
        query, key, share, value = self.inputs(x).chunk(4, dim=-1)
        key, earlier = self.convolution(key, earlier)
        q, k = (by_head(part * KEY_SHARPNESS, HEADS).softmax(-1) for part in (query, key))
        p = by_head(share * SHARE_SHARPNESS, HEADS).softmax(-1)
        q, weighted = q * self.width, torch.cat([p * by_head(value, HEADS), p], dim=-1)
        sums = flat.view(len(x), HEADS, self.width, 2 * self.width)
        read = []
        for start in range(0, x.shape[1], CHUNK):
            chunk = slice(start, start + CHUNK)
            q_here, k_here, v_here = q[:, :, chunk], k[:, :, chunk], weighted[:, :, chunk]
            read.append((q_here @ k_here.mT).tril() @ v_here + q_here @ sums)
            sums = sums + k_here.mT @ v_here
        total, weight = torch.cat(read, dim=2).chunk(2, dim=-1)
        found = torch.cat([total / (weight + PRIOR), (weight / PRIOR).log1p()], dim=-1)
        state = torch.cat([earlier, sums.flatten(1)], dim=-1)
        return self.output(found.transpose(1, 2).flatten(2)), state
