"""Heads: what they compute, and what they compute before training."""

import pytest
import torch
from gymnasium import spaces
from torch.func import functional_call

from metarl.nn.heads import HyperHead, RewardHead, build_head


@pytest.mark.parametrize("kind", ["linear", "mlp", "hypernetwork"])
def test_initial_outputs_are_as_small_as_their_gain(kind) -> None:
    torch.manual_seed(0)
    head, memory, present = build_head(kind, 16, 5, 3), torch.randn(50, 16), torch.randn(50, 5)
    head.initialize(gain=1.0)
    large = head(memory, present).norm()
    torch.manual_seed(0)
    head.initialize(gain=0.01)
    assert head(memory, present).norm().item() < 0.1 * large
    assert head(memory, present).shape == (50, 3)


def test_a_hypernetwork_generates_an_ordinary_network() -> None:
    torch.manual_seed(0)
    head, memory, present = HyperHead(16, 5, 3, hidden=4), torch.randn(6, 16), torch.randn(6, 5)
    torch.nn.init.normal_(head.generator.weight)
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    found = head(memory, present)
    for row in range(6):
        w1, b1, w2, b2 = head.generator(memory[row]).split([20, 4, 12, 3])
        names = ("0.weight", "0.bias", "2.weight", "2.bias")
        generated = dict(zip(names, (w1.view(4, 5), b1, w2.view(3, 4), b2), strict=True))
        torch.testing.assert_close(found[row], functional_call(network, generated, (present[row],)))


def test_bias_hyperinit_starts_with_the_same_network_for_every_memory() -> None:
    head, present = HyperHead(16, 5, 3), torch.randn(1, 5)
    head.initialize(gain=1.0)
    outputs = [head(torch.randn(1, 16), present) for _ in range(2)]
    torch.testing.assert_close(*outputs)
    first = head.generator.bias[: 32 * 5].view(32, 5)
    torch.testing.assert_close(first.T @ first, 2 * torch.eye(5))  # orthogonal, gain √2


def test_a_reward_head_tells_actions_apart() -> None:
    torch.manual_seed(0)
    read = torch.randn(5, 3, 16)
    discrete = RewardHead(16, spaces.Discrete(4))
    action = torch.randint(4, (5, 3))
    outputs = discrete.network(read, read)
    expected = torch.stack([outputs[i, j, action[i, j]] for i in range(5) for j in range(3)])
    torch.testing.assert_close(discrete(read, action).flatten(), expected)
    continuous = RewardHead(16, spaces.Box(-1, 1, (2,)))
    first, second = (continuous(read, torch.randn(5, 3, 2)) for _ in range(2))
    assert first.shape == (5, 3)
    assert (first - second).abs().min() > 0
