"""Memories with a recurrence of matrix products: GRU and LSTM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from metarl.nn.memories.compiled import GRUScan


class GRU(nn.GRU):
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078)."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__(input_size, size, batch_first=True)
        self.state_size = self.output_size = size

    def initialize(self) -> None:
        """Sets orthogonal weights of each gate."""
        _orthogonal(self, gates=3)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T H"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the last."""
        if x.device.type != "cpu" or state.dtype != torch.float32 or not torch.is_grad_enabled():
            with torch.autocast(x.device.type, enabled=False):
                output, last = super().forward(x.to(state.dtype), state[None].contiguous())
            return output, last[0]
        inputs = functional.linear(x, self.weight_ih_l0, self.bias_ih_l0).to(state.dtype)
        hidden = GRUScan.apply(inputs, state, self.weight_hh_l0, self.bias_hh_l0)
        assert isinstance(hidden, Tensor)
        return hidden, hidden[:, -1]


class LSTM(nn.LSTM):
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__(input_size, size, batch_first=True)
        self.output_size, self.state_size = size, 2 * size

    def initialize(self) -> None:
        """Sets orthogonal weights of each gate."""
        _orthogonal(self, gates=4)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T H"], Float[Tensor, "N S"]]:
        """Outputs at each step; and output and cell after the last."""
        hidden, cell = (half.contiguous() for half in state[None].chunk(2, dim=-1))
        with torch.autocast(x.device.type, enabled=False):
            output, (hidden, cell) = super().forward(x.to(state.dtype), (hidden, cell))
        return output, torch.cat([hidden, cell], dim=-1)[0]


def _orthogonal(layer: nn.GRU | nn.LSTM, *, gates: int) -> None:
    for name, parameter in layer.named_parameters():
        if "weight" in name:
            for gate in parameter.data.chunk(gates):
                nn.init.orthogonal_(gate)
        else:
            nn.init.zeros_(parameter)
