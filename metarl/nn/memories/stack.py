"""Residual blocks of memories."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from metarl.nn.memories.attention import Attention
from metarl.nn.memories.convolution import ShortConvolution
from metarl.nn.memories.linear_attention import LinearAttention
from metarl.nn.memories.recurrence import Recurrence
from metarl.nn.memories.retention import Retention

Mixer = Recurrence | Retention | LinearAttention | Attention
"""The memory of a block."""


class Stack(nn.Module):
    """Pre-norm residual blocks, each a memory and a two-layer perceptron."""

    def __init__(self, input_size: int, size: int, mixers: Sequence[Mixer]) -> None:
        super().__init__()
        self.embed = nn.Linear(input_size, size)
        blocks = [Block(mixer, size) for mixer in mixers]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(size)
        self.sizes = [mixer.state_size for mixer in mixers]
        self.state_size, self.output_size = sum(self.sizes), size
        self.writers = [w for block in blocks for w in (block.mixer.output, block.narrow)]

    def initialize(self) -> None:
        """Sets orthogonal weights. Those that write to the residual stream are smaller, so that its
        variance does not grow with the number of blocks (Radford et al. 2019, section 2.3)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, ShortConvolution):
                module.initialize()
        for layer in self.writers:
            layer.weight.data /= math.sqrt(len(self.writers))

    def forward(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T H"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the states of all blocks after the last."""
        x = self.embed(x).to(state.dtype)
        states = []
        for block, own in zip(self.blocks, state.split(self.sizes, dim=-1), strict=True):
            x, own = block(x, own)
            states.append(own)
        return self.norm(x), torch.cat(states, dim=-1)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, mixer: Mixer, size: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.widen, self.narrow = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T D"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the mixer's state after the last."""
        mixed, state = self.mixer(self.norms[0](x), state)
        x = x + mixed
        return x + self.narrow(functional.gelu(self.widen(self.norms[1](x)))), state
