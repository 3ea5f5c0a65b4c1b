"""Action distributions against torch's own; executed actions, and those that the agent sees."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.nn.distributions import (
    Categorical,
    DiagonalGaussian,
    action_size,
    execute,
    execute_on,
    kl_divergence,
)


def test_gaussian_equals_torch_and_sums_over_action_dimensions() -> None:
    mean, log_std, action = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    ours = DiagonalGaussian(mean, log_std)
    theirs = torch.distributions.Normal(mean, log_std.exp())
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))


def test_categorical_equals_torch() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    action = torch.tensor([0, 1, 2, 2, 1, 0])
    theirs = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(Categorical(logits).log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(Categorical(logits).entropy(), theirs.entropy())


def test_kl_equals_torch() -> None:
    mean, log_std, other_mean, other_log_std = torch.randn(
        4, 5, 3, generator=torch.Generator().manual_seed(0)
    )
    old, new = DiagonalGaussian(mean, log_std), DiagonalGaussian(other_mean, other_log_std)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()),
        torch.distributions.Normal(other_mean, other_log_std.exp()),
    ).sum(-1)
    torch.testing.assert_close(kl_divergence(old, new), theirs)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=mean),
        torch.distributions.Categorical(logits=other_mean),
    )
    torch.testing.assert_close(kl_divergence(Categorical(mean), Categorical(other_mean)), theirs)
    with pytest.raises(TypeError, match="no KL from DiagonalGaussian to Categorical"):
        kl_divergence(old, Categorical(mean))


def test_samples_follow_the_distribution_and_the_generator() -> None:
    gaussian = DiagonalGaussian(torch.full((20_000, 1), 3.0), torch.full((20_000, 1), 0.5).log())
    drawn = gaussian.sample(torch.Generator().manual_seed(1))
    # Standard errors are .5/√20,000 = .0035, and .0025 for the standard deviation.
    assert abs(drawn.mean() - 3.0) < 0.02
    assert abs(drawn.std() - 0.5) < 0.02
    assert torch.equal(drawn, gaussian.sample(torch.Generator().manual_seed(1)))
    choice = Categorical(torch.tensor([0.7, 0.2, 0.1]).log().expand(20_000, 3))
    shares = choice.sample(torch.Generator().manual_seed(1)).bincount() / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.015, rtol=0)


def test_what_is_seen_is_what_was_executed() -> None:
    box = spaces.Box(-1.0, 1.0, (2,))
    executed, seen = execute(torch.tensor([[0.5, -3.0], [2.0, 0.0]]), box)
    np.testing.assert_array_equal(executed, [[0.5, -1.0], [1.0, 0.0]])
    assert seen.tolist() == [[0.5, -1.0], [1.0, 0.0]]
    on_device, seen = execute_on(torch.device("cpu"), box)(torch.tensor([[0.5, -3.0], [2.0, 0.0]]))
    assert isinstance(on_device, torch.Tensor) and on_device.tolist() == seen.tolist()
    assert seen.tolist() == [[0.5, -1.0], [1.0, 0.0]]
    executed, seen = execute(torch.tensor([2, 0]), spaces.Discrete(3))
    assert executed.tolist() == [2, 0]
    assert seen.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert (action_size(box), action_size(spaces.Discrete(3))) == (2, 3)
