"""Experience that adaptation by policy gradients learns from: the steps of each task, with
advantages, and tasks in chunks."""

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
    """The M steps of each of G tasks, all episodes in a row: what gradients are computed from."""

    obs: Float[Tensor, "G M O"]
    action: Shaped[Tensor, "G M *A"]
    log_prob: Float[Tensor, "G M"]
    """Log-probability of the action by the policy that acted."""
    advantage: Float[Tensor, "G M"]
    """With mean 0 and standard deviation 1 over the steps of a task."""

    def split(self, size: int) -> Iterator[Experience]:
        """The tasks, `size` at a time."""
        return (Experience(*parts) for parts in zip(*(x.split(size) for x in self), strict=True))

    def every(self, stride: int) -> Experience:
        """Every `stride`-th step."""
        return Experience(*(x[:, ::stride] for x in self))


@dataclass(frozen=True)
class Chunk:
    """Some tasks of a trial: as many as are worked on at once."""

    first_task: int
    support: list[Experience]
    """Behind each gradient step."""
    query: Experience
    """Played by the adapted policies, which are judged on it."""

    @staticmethod
    def of(experiences: Sequence[Experience], size: int) -> list[Chunk]:
        """The experiences from all rollouts of a trial, cut into chunks of `size` tasks."""
        cut = zip(*(experience.split(size) for experience in experiences), strict=True)
        return [Chunk(n * size, list(support), query) for n, (*support, query) in enumerate(cut)]

    @property
    def num_tasks(self) -> int:
        """How many they are."""
        return len(self.query.obs)

    def every(self, stride: int) -> Chunk:
        """The same tasks with every `stride`-th step."""
        support = [experience.every(stride) for experience in self.support]
        return Chunk(self.first_task, support, self.query.every(stride))


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
) -> tuple[Experience, float]:
    """A rollout as gradients need it, and the share of returns that the baseline explains.

    Advantages are GAE's, over a linear baseline that is fitted to each task by itself; nothing
    follows an episode's last step. They are brought to mean 0 and standard deviation 1 in each
    task.

    Args:
        obs: observations of the rollout as the policy sees them.
        slots_per_task: slots of a task, which stand side by side.
        discount: per step, within an episode.
        gae_lambda: λ of GAE.

    Raises:
        NotFiniteError: an advantage is not; names the task.
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
    explained = float(1 - (returns - value).var() / returns.var().clamp(min=1e-12))
    return experience, explained


def check_finite(what: str, values: Shaped[Tensor, "G F"], *, first_task: int = 0) -> None:
    """Checks the rows of tasks, of which the first is `first_task` of the meta-batch.

    Raises:
        NotFiniteError: names the first task whose row is not finite.
    """
    finite = values.isfinite().all(1)
    if not finite.all():
        raise NotFiniteError(what, task=first_task + int((~finite).nonzero()[0]))
