"""Experience for adaptation by policy gradients: the steps of each task with their advantages, and
tasks in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metarl.errors import NotFiniteError
from metarl.learning.advantages import discounted_returns, gae, linear_baseline
from metarl.nn.distributions import ActionDistribution
from metarl.types import Rollout


class Experience(NamedTuple):
    """The M steps of each of G tasks, episode after episode; gradients are computed from it."""

    obs: Float[Tensor, "G M O"]
    action: Shaped[Tensor, "G M *A"]
    log_prob: Float[Tensor, "G M"]
    """Log-probability of the action under the policy that acted."""
    advantage: Float[Tensor, "G M"]
    """Advantages with mean 0 and standard deviation 1 over the steps of each task."""

    def split(self, size: int) -> Iterator[Experience]:
        """The experience in parts of `size` tasks."""
        return (Experience(*parts) for parts in zip(*(x.split(size) for x in self), strict=True))

    def every(self, stride: int) -> Experience:
        """The experience with every `stride`-th step only."""
        return Experience(*(x[:, ::stride] for x in self))


class Baseline(NamedTuple):
    """The returns of a rollout, and the values that the baseline gives them."""

    returns: Float[Tensor, "N T"]
    value: Float[Tensor, "N T"]


@dataclass(frozen=True)
class TaskBatch:
    """Tasks of a meta-batch that are processed together."""

    first_task: int
    """Index of the first task in the meta-batch."""
    support: list[Experience]
    """Experience of each gradient step."""
    query: Experience
    """Experience of the adapted policies, which they are evaluated on."""

    @staticmethod
    def of(experiences: Sequence[Experience], size: int) -> list[TaskBatch]:
        """The experience of all rollouts of a trial, cut into batches of `size` tasks."""
        cut = zip(*(experience.split(size) for experience in experiences), strict=True)
        return [
            TaskBatch(n * size, list(support), query) for n, (*support, query) in enumerate(cut)
        ]

    @property
    def num_tasks(self) -> int:
        """Number of tasks (G)."""
        return len(self.query.obs)

    def every(self, stride: int) -> TaskBatch:
        """Batch of these tasks that keeps every `stride`-th step."""
        support = [experience.every(stride) for experience in self.support]
        return TaskBatch(self.first_task, support, self.query.every(stride))


def ratio(policy: ActionDistribution, experience: Experience) -> Float[Tensor, "G M"]:
    """Likelihood ratio π(a|s) / π_acted(a|s) of each action."""
    return torch.exp(policy.log_prob(experience.action) - experience.log_prob)


def experience_of(
    rollout: Rollout,
    *,
    obs: Float[Tensor, "N T O"],
    slots_per_task: int,
    discount: float,
    gae_lambda: float,
) -> tuple[Experience, Baseline]:
    """The experience in a rollout, and its returns with their baseline.

    Advantages are GAE's, over a linear baseline that is fitted to each task separately; episodes do
    not bootstrap at their end. Advantages are scaled to mean 0 and standard deviation 1 within each
    task.

    Args:
        rollout: N slots over T steps.
        obs: observations of the rollout as the policy takes them.
        slots_per_task: slots of a task, which are adjacent.
        discount: discount per step, within an episode.
        gae_lambda: λ of GAE.

    Raises:
        NotFiniteError: an advantage is not finite; names the task.
    """

    def by_task(values: Shaped[Tensor, "N T *F"]) -> Shaped[Tensor, "G M *F"]:
        return values.unflatten(0, (-1, slots_per_task)).flatten(1, 2)

    nothing_after = torch.zeros_like(rollout.reward[:, 0])
    returns = discounted_returns(
        rollout.reward, cut=rollout.episode_end, discount=discount, last_value=nothing_after
    )
    steps = torch.arange(returns.shape[1], device=returns.device)
    time = steps.to(returns.dtype).expand_as(returns)
    value = linear_baseline(by_task(rollout.seen.obs), by_task(time), by_task(returns)).view_as(
        returns
    )
    advantage = by_task(
        gae(
            rollout.reward,
            value,
            cut=rollout.episode_end,
            discount=discount,
            gae_lambda=gae_lambda,
            last_value=nothing_after,
        )
    )
    spread = advantage.std(1, keepdim=True) + 1e-8
    experience = Experience(
        obs=by_task(obs),
        action=by_task(rollout.action),
        log_prob=by_task(rollout.log_prob),
        advantage=(advantage - advantage.mean(1, keepdim=True)) / spread,
    )
    check_finite("the advantage", experience.advantage)
    return experience, Baseline(returns, value)


def check_finite(what: str, values: Shaped[Tensor, "G F"], *, first_task: int = 0) -> None:
    """Checks that the rows of tasks are finite.

    Args:
        what: name of the values, for the message.
        values: one row per task.
        first_task: index of the first row's task in the meta-batch.

    Raises:
        NotFiniteError: a row is not finite; names the first such task.
    """
    finite = values.isfinite().all(1)
    if not finite.all():
        raise NotFiniteError(what, task=first_task + int((~finite).nonzero()[0]))
