"""Returns and advantages against Stable-Baselines3, sums by hand, and least squares."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from metarl.learning.advantages import discounted_returns, gae, linear_baseline


def test_returns_by_hand() -> None:
    reward = torch.tensor([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]])
    cut = torch.tensor([[False, False, False], [False, True, False]])
    returns = discounted_returns(reward, cut=cut, discount=0.5, last_value=torch.tensor([8.0, 0.0]))
    # 4 + .5·8 = 8, 2 + .5·8 = 6, 1 + .5·6 = 4; the second slot is cut after 20.
    assert returns.tolist() == [[4.0, 6.0, 8.0], [20.0, 20.0, 40.0]]


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (2, 3)])
def test_returns_leave_their_inputs_as_they_are(shape: tuple[int, int]) -> None:
    """Also where a transpose needs no copy."""
    reward, last_value = torch.ones(shape), torch.ones(shape[0])
    cut = torch.zeros(shape, dtype=torch.bool)
    returns = discounted_returns(reward, cut=cut, discount=0.5, last_value=last_value)
    assert (returns[:, -1] == 1.5).all() and returns.is_contiguous()
    assert (reward == 1).all() and (last_value == 1).all()


def test_gae_and_returns_equal_stable_baselines3() -> None:
    rng = np.random.default_rng(0)
    slots, steps = 3, 50
    reward, value = rng.normal(size=(2, slots, steps)).astype(np.float32)
    last_value = rng.normal(size=slots).astype(np.float32)
    cut = rng.random((slots, steps)) < 0.1
    buffer = RolloutBuffer(
        steps, spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)),
        gae_lambda=0.9, gamma=0.97, n_envs=slots,
    )  # fmt: skip
    starts = np.concatenate([np.zeros((slots, 1), bool), cut[:, :-1]], axis=1)
    for t in range(steps):
        zeros = np.zeros((slots, 1), np.float32)
        buffer.add(zeros, zeros, reward[:, t], starts[:, t], torch.tensor(value[:, t]),
                   torch.zeros(slots))  # fmt: skip
    buffer.compute_returns_and_advantage(torch.tensor(last_value), dones=cut[:, -1])

    ours = gae(
        torch.tensor(reward),
        torch.tensor(value),
        cut=torch.tensor(cut),
        discount=0.97,
        gae_lambda=0.9,
        last_value=torch.tensor(last_value),
    )
    np.testing.assert_allclose(ours.T.numpy(), buffer.advantages, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose((ours + torch.tensor(value)).T.numpy(), buffer.returns,
                               rtol=1e-5, atol=1e-6)  # fmt: skip


def test_linear_baseline_finds_what_its_features_can_express() -> None:
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(2, 40, 3, generator=generator)
    time = torch.arange(40.0).expand(2, 40)
    # Each group has its own weights; a joint fit could not express this.
    returns = torch.stack([obs[0, :, 0] - 2 * obs[0, :, 1] ** 2 + 3, time[1] / 100 * 5 - 1])
    fitted = linear_baseline(obs, time, returns, regularization=1e-9)
    torch.testing.assert_close(fitted, returns, atol=1e-4, rtol=1e-4)
