"""Two-hot values: a target's own distribution has the target as its mean, and least loss."""

import pytest
import torch

from metarl.learning.two_hot import NUM_BINS, bins, symexp, symlog, two_hot_loss, two_hot_mean

RETURNS = torch.tensor([-5000.0, -1.0, -1e-3, 0.0, 0.3, 7.0, 123.4, 2e6], dtype=torch.float64)


def test_symexp_inverts_symlog() -> None:
    torch.testing.assert_close(symexp(symlog(RETURNS)), RETURNS)
    assert symlog(torch.tensor(torch.e - 1)).item() == pytest.approx(1)


def test_a_distribution_learns_its_targets_and_their_mean() -> None:
    logits = torch.zeros(len(RETURNS), NUM_BINS, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(two_hot_mean(logits), torch.zeros_like(RETURNS))  # exactly centred
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        two_hot_loss(logits, RETURNS).backward()
        optimizer.step()
    # The bins next to a target are a quarter apart in symlog; what is left elsewhere weighs little.
    torch.testing.assert_close(
        symlog(two_hot_mean(logits.detach())), symlog(RETURNS), rtol=0, atol=0.02
    )


def test_the_mean_of_noisy_targets_is_learned() -> None:
    """Unlike a regression on symlog(x), whose exponential is below the mean."""
    targets = torch.tensor([0.0, 100.0], dtype=torch.float64)
    logits = torch.zeros(1, NUM_BINS, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(500):
        optimizer.zero_grad()
        two_hot_loss(logits.expand(2, -1), targets).backward()
        optimizer.step()
    assert two_hot_mean(logits).item() == pytest.approx(50, rel=0.02)


def test_returns_beyond_the_bins_count_as_the_last() -> None:
    largest = bins(RETURNS)[-1]
    logits = torch.zeros(1, NUM_BINS, dtype=torch.float64)
    torch.testing.assert_close(
        two_hot_loss(logits, 2 * largest[None]), two_hot_loss(logits, largest[None])
    )
