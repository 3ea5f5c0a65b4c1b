"""Action distributions against torch's own; executed actions, and those that the agent sees."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare

from metarl.nn.distributions import (
    FEW_ACTIONS,
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


@pytest.mark.parametrize("num_actions", [1, 2, FEW_ACTIONS - 1, FEW_ACTIONS, 50])
def test_categorical_equals_torch_for_few_and_for_many_actions(num_actions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, num_actions, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    action = torch.randint(num_actions, (3, 4), generator=generator)
    ours, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    with torch.no_grad():  # a first caller without gradients does not take those of the next
        assert not ours.log_prob(action).requires_grad
    both = []
    for policy in (ours, theirs):
        scores = policy.log_prob(action), policy.entropy()
        both.append([*scores, *torch.autograd.grad((scores[0] * scores[1]).sum(), logits)])
    torch.testing.assert_close(*both)


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


@pytest.mark.parametrize("num_actions", [5, 50])
def test_choices_are_drawn_as_often_as_their_probabilities_say(num_actions: int) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 1, num_actions, generator=generator)
    logits[:, :, 0] = logits[:, :, 3] = logits[:, :, -1] = -torch.inf
    draws = 100_000
    drawn = Categorical(logits.expand(2, draws, num_actions)).sample(generator)
    for row, of_row in enumerate(drawn):
        probability = logits[row, 0].double().softmax(0)
        possible = probability > 0
        counts = of_row.bincount(minlength=num_actions)
        assert not counts[~possible].any()
        assert chisquare(counts[possible], draws * probability[possible]).pvalue > 0.01


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_most_extreme_random_numbers_draw_possible_choices(
    uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 draws the first choice that has a probability, the largest number below 1 the last one."""
    monkeypatch.setattr(
        torch, "rand", lambda shape, dtype, **_: torch.full(shape, uniform, dtype=dtype)
    )
    logits = torch.randn(10_000, 7, generator=torch.Generator().manual_seed(0))
    logits[:, 0] = logits[:, 5] = logits[:, 6] = -torch.inf
    drawn = Categorical(logits).sample(torch.Generator())
    assert (drawn == (1 if uniform == 0 else 4)).all()


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
