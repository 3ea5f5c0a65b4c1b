"""Retention: linear attention with fixed decays (Sun et al. 2023, arXiv:2307.08621)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from metarl.nn.memories.convolution import ShortConvolution
from metarl.nn.memories.parts import CHUNK, by_head

HALF_LIVES = (float("inf"), 128.0, 32.0, 8.0)
"""Steps after which a head's decay halves a memory; the first head never forgets. The paper's heads
all forget, which is right for text: what an arm paid counts as much later in a trial."""


class Retention(nn.Module):
    """Heads that add up outer products of keys and values, and read them by queries.

    A head's state is a matrix: S_t = γ S_(t-1) + k_t v_tᵀ, o_t = q_tᵀ S_t (eq. 6). All steps of a
    chunk are computed at once (eq. 7). Each head's output is normalized before the gate (eq. 8).
    Keys and values pass a short convolution, which the paper does not have.
    """

    log_decays: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.heads = len(HALF_LIVES)
        self.width = size // self.heads
        self.convolution = ShortConvolution(2 * size)
        self.sizes = [self.convolution.state_size, self.heads * self.width**2]
        self.state_size = sum(self.sizes)
        self.inputs = nn.Linear(size, 4 * size)
        self.output = nn.Linear(size, size)
        decays = torch.tensor([0.5 ** (1 / steps) for steps in HALF_LIVES], dtype=torch.float64)
        self.register_buffer("log_decays", decays.log(), persistent=False)

    def forward(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T D"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the state after the last: that of the convolution, and the
        matrices."""
        earlier, flat = state.split(self.sizes, dim=-1)
        size = self.inputs.in_features
        q, kv, gate = self.inputs(x).split([size, 2 * size, size], dim=-1)
        kv, earlier = self.convolution(kv, earlier)
        k, v = kv.chunk(2, dim=-1)
        q, k, v = (by_head(part, self.heads) for part in (q, k * self.width**-0.5, v))
        matrices = flat.view(len(x), self.heads, self.width, self.width)
        read = []
        for start in range(0, x.shape[1], CHUNK):
            chunk = slice(start, start + CHUNK)
            out, matrices = self._chunk(q[:, :, chunk], k[:, :, chunk], v[:, :, chunk], matrices)
            read.append(out)
        normal = functional.layer_norm(torch.cat(read, dim=2), (self.width,))
        together = normal.transpose(1, 2).flatten(2)
        state = torch.cat([earlier, matrices.flatten(1)], dim=-1)
        return self.output(together * functional.silu(gate)), state

    def _chunk(
        self, q: Tensor, k: Tensor, v: Tensor, matrices: Float[Tensor, "N heads W W"]
    ) -> tuple[Tensor, Tensor]:
        """Outputs of one chunk, and the matrices after it."""
        length = q.shape[2]
        step = torch.arange(length, device=q.device, dtype=q.dtype)
        log_decays = self.log_decays[:, None, None].to(q.dtype)
        past = step[:, None] - step
        weights = torch.where(past >= 0, (log_decays * past).exp(), 0.0)
        since = (log_decays * (step[:, None] + 1)).exp()
        until = (log_decays * (length - 1 - step[:, None])).exp()
        within = (q @ k.mT * weights) @ v
        after = matrices * (log_decays * length).exp() + (k * until).mT @ v
        return within + (q * since) @ matrices, after
