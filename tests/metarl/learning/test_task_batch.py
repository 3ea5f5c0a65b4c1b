"""Experience from rollouts: assignment of steps and advantages to tasks."""

from typing import Any

import pytest
import torch

from metarl.errors import NotFiniteError
from metarl.learning.advantages import explained_variance
from metarl.learning.task_batch import Experience, experience_of
from metarl.types import Rollout, TimeStep

OBS, ACTIONS, TASKS, EPISODES, HORIZON = 3, 2, 4, 5, 6
STEPS = EPISODES * HORIZON

pytestmark = pytest.mark.usefixtures("double_precision")


def new_rollout(*, slots: int = TASKS * EPISODES, seed: int = 0, **changes: Any) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    end = torch.zeros(slots, HORIZON, dtype=torch.bool)
    end[:, -1] = True
    obs = torch.randn(slots, HORIZON, OBS, generator=generator)
    values = {
        "seen": TimeStep(
            obs=obs,
            prev_action=torch.zeros(slots, HORIZON, ACTIONS),
            prev_reward=torch.zeros(slots, HORIZON),
            episode_start=end.roll(1, dims=1),
        ),
        "action": torch.randn(slots, HORIZON, ACTIONS, generator=generator),
        "log_prob": torch.zeros(slots, HORIZON),
        "reward": torch.randn(slots, HORIZON, generator=generator) ** 3,
        "episode_end": end,
        "success": torch.zeros_like(end),
        "final_obs": obs[:, -1:],
        **changes,
    }
    return Rollout(**values)


def experience(rollout: Rollout) -> tuple[Experience, float]:
    return experience_of(
        rollout, obs=rollout.seen.obs, slots_per_task=EPISODES, discount=0.99, gae_lambda=1.0
    )


def test_a_task_is_its_own_slots() -> None:
    """The slots of a task are adjacent: 0 to K − 1 are the first task's."""
    numbers = torch.arange(TASKS * EPISODES * HORIZON).view(-1, HORIZON).double()
    found, _ = experience(new_rollout(log_prob=numbers))
    assert torch.equal(found.log_prob, numbers.view(TASKS, STEPS))


def test_advantages_are_divided_by_the_standard_deviation_of_their_task() -> None:
    rollout = new_rollout()
    scale = torch.arange(1, TASKS + 1).repeat_interleave(EPISODES)[:, None]
    plain, _ = experience(rollout)
    scaled, _ = experience(new_rollout(reward=rollout.reward * scale))
    torch.testing.assert_close(plain.advantage.std(1), torch.ones(TASKS), atol=1e-6, rtol=0)
    torch.testing.assert_close(plain.advantage.mean(1), torch.zeros(TASKS), atol=1e-12, rtol=0)
    # If divided by the variance, they would shrink with the scale of the rewards.
    torch.testing.assert_close(plain.advantage, scaled.advantage, rtol=1e-3, atol=1e-3)


def test_a_reward_reaches_no_other_task() -> None:
    reward = torch.zeros(TASKS * EPISODES, HORIZON)
    reward[0, -1] = 1.0
    found, baseline = experience(new_rollout(reward=reward))
    assert found.advantage[0].any() and not found.advantage[1:].any()
    assert explained_variance(*baseline) <= 1


def test_a_task_whose_advantage_is_not_finite_is_named() -> None:
    reward = new_rollout().reward.clone()
    reward[2 * EPISODES + 1, 3] = float("inf")
    with pytest.raises(NotFiniteError, match=r"the advantage is not finite \(task 2\)"):
        experience(new_rollout(reward=reward))
