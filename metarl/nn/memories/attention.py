"""Causal attention over the trial so far, within a window."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from metarl.nn.memories.parts import by_head

HEADS = 4


class Attention(nn.Module):
    """Softmax attention to the last `window` steps, its own included, with rotary positions.

    The state holds keys and values of the last `window - 1` steps, and how many there are. Rotary
    positions: Su et al. 2021, arXiv:2104.09864. Attention itself is torch's
    `scaled_dot_product_attention`.
    """

    def __init__(self, size: int, *, window: int) -> None:
        super().__init__()
        self.width, self.window = size // HEADS, window
        self.state_size = 1 + (window - 1) * 2 * size
        self.inputs = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)

    def forward(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T D"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the window after the last."""
        (slots, steps, _), kept = x.shape, self.window - 1
        q, k, v = (by_head(part, HEADS) for part in self.inputs(x).to(state.dtype).chunk(3, dim=-1))
        seen = state[:, 0]
        old = state[:, 1:].view(slots, kept, 2, HEADS, self.width).permute(2, 0, 3, 1, 4)
        position = seen[:, None] + torch.arange(steps, device=x.device)
        q, k = self._rotated(q, position), self._rotated(k, position)
        k, v = torch.cat([old[0], k], dim=2), torch.cat([old[1], v], dim=2)

        # Row t sees the columns of the last `window` steps; of the old ones, those there have been.
        ago = kept + torch.arange(steps, device=x.device)[:, None]
        ago = ago - torch.arange(kept + steps, device=x.device)
        recent = (ago >= 0) & (ago < self.window)
        exists = ago <= position[:, :, None]
        read = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=(recent & exists)[:, None]
        )
        window = torch.stack([k[:, :, steps:], v[:, :, steps:]]).permute(1, 3, 0, 2, 4).flatten(1)
        state = torch.cat([(seen + steps)[:, None], window], dim=1)
        return self.output(read.transpose(1, 2).flatten(2)), state

    def _rotated(
        self, x: Float[Tensor, "N heads T W"], position: Float[Tensor, "N T"]
    ) -> Float[Tensor, "N heads T W"]:
        half = self.width // 2
        speed = 1000.0 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
        angle = (position[..., None] * speed)[:, None]
        first, second = x.chunk(2, dim=-1)
        sin, cos = angle.sin(), angle.cos()
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
