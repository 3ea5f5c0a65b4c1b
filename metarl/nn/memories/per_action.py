"""One memory for each discrete action, all with the same weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn.memories.recurrent import GRU, LSTM
from metarl.nn.memories.stack import Stack


class PerAction(nn.Module):
    """Copies of one memory, a copy for each of A discrete actions.

    A copy is shown the observation, whether its own action was the previous one, the reward if so,
    the reward, and the episode-start flag. What it learns from one action so holds for all, and an
    agent that has not tried two actions yet takes either with equal probability: exchanging actions
    exchanges outputs (Kirsch et al. 2022, arXiv:2109.10781, who share weights among actions and
    observations alike). A memory without this symmetry settles on some of many actions that it
    learned about first.

    Its outputs are those of all copies, one after the other.
    """

    def __init__(self, memory: GRU | LSTM | Stack, num_actions: int) -> None:
        super().__init__()
        self.memory, self.num_actions = memory, num_actions
        self.state_size = num_actions * memory.state_size
        self.output_size = num_actions * memory.output_size

    @staticmethod
    def input_size(obs_size: int) -> int:
        """Inputs of a copy."""
        return obs_size + 4

    def initialize(self) -> None:
        """Draws the initial weights."""
        self.memory.initialize()

    def forward(
        self, x: Float[Tensor, "N T D"], state: Float[Tensor, "N S"]
    ) -> tuple[Float[Tensor, "N T H"], Float[Tensor, "N S"]]:
        """Outputs at each step, and the states of all copies after the last.

        Args:
            x: observation, the previous action as one-hot, previous reward, and start flag.
        """
        slots, size = len(x), x.shape[-1]
        obs, taken, shared = x.split([size - self.num_actions - 2, self.num_actions, 2], dim=-1)
        reward = shared[..., :1]
        own = torch.stack([taken, taken * reward], dim=-1)
        common = torch.cat([obs, shared], dim=-1)[:, :, None].expand(-1, -1, self.num_actions, -1)
        rows = torch.cat([own, common], dim=-1).transpose(1, 2).flatten(0, 1)
        copies = state.unflatten(-1, (self.num_actions, -1)).flatten(0, 1)
        output, copies = self.memory(rows, copies)
        output = output.unflatten(0, (slots, self.num_actions)).transpose(1, 2)
        return output.flatten(2), copies.unflatten(0, (slots, self.num_actions)).flatten(1)
