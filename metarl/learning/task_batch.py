"""What adaptation by gradient steps learns from: the steps of each task, and tasks in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metarl.errors import NotFiniteError


class Experience(NamedTuple):
    """What gradients are computed from: the M steps of each of G tasks, all episodes in a row."""

    obs: Float[Tensor, "G M O"]
    action: Shaped[Tensor, "G M *A"]
    log_prob: Float[Tensor, "G M"]
    """Of the policy that acted."""
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


def ratio(log_prob: Float[Tensor, "G M"], experience: Experience) -> Float[Tensor, "G M"]:
    """How much likelier each action has become since the policy acted."""
    return torch.exp(log_prob - experience.log_prob)


def check_finite(what: str, values: Shaped[Tensor, "G F"], *, first_task: int = 0) -> None:
    """Checks the rows of tasks, of which the first is `first_task` of the meta-batch.

    Raises:
        NotFiniteError: names the first task whose row is not finite.
    """
    finite = values.isfinite().all(1)
    if not finite.all():
        raise NotFiniteError(what, task=first_task + int((~finite).nonzero()[0]))
