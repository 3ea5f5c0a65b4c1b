"""Protocols of task distributions and learners: all that training and evaluation rely on.

An `Agent` acts in the environments of a `TaskDistribution`; a `FewShotLearner` is given labelled
examples of a `FewShotDistribution`. A run only requires that either is a `Learner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from torch import Tensor

from metarl.tasks import TaskSet
from metarl.types import FewShotBatch, FewShotShape, Rollout, TimeStep, TrialShape

S = TypeVar("S")


@runtime_checkable
class TaskVectorEnv(Protocol):
    """A `gymnasium.vector.VectorEnv` of N slots, each of which plays a given task.

    Autoreset is `SAME_STEP`: a slot that ends an episode starts the next one of the same task.
    The `info` of every step has `success` (N,) and `final_obs` (N, O), the observations that
    followed the step before any reset. All episodes are `horizon` steps long.
    """

    num_envs: int
    horizon: int
    single_observation_space: spaces.Box
    single_action_space: spaces.Box | spaces.Discrete

    def set_tasks(self, tasks: Sequence[Any]) -> None:
        """Gives each slot its task; takes effect at the next `reset`."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts a trial; returns the first observations and an info dictionary."""
        ...

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all slots; returns observation, reward, terminated, truncated and info of each."""
        ...

    def close(self) -> None:
        """Frees the resources of the environment."""
        ...


@runtime_checkable
class DeviceVectorEnv(TaskVectorEnv, Protocol):
    """A `TaskVectorEnv` on a device: it takes and returns torch tensors on that device."""

    device: torch.device


@runtime_checkable
class TaskDistribution(Protocol):
    """Training tasks, held-out tasks, and the environments that play them.

    Optional attributes: `reward_version` (str), if rewards have versions; `protocol`, the
    `metarl.types.EvaluationProtocol` that its documentation prescribes; `module_hash`, SHA-256 of
    the user's module that defines it.
    """

    name: str
    train: TaskSet[Any]
    test: TaskSet[Any]
    horizon: int
    """Steps in an episode."""

    def make_env(self, num_slots: int) -> TaskVectorEnv:
        """A vector environment whose slots play training tasks until `set_tasks` changes them."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A model that learns across tasks and can be saved: an `Agent` or a `FewShotLearner`."""

    device: torch.device

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that a bit-exact resume needs."""
        ...

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        ...


@runtime_checkable
class Agent(Learner, Protocol[S]):
    """A model that adapts to a task within a trial and learns across trials.

    `S` is the state that adaptation changes, with leading axis N: a hidden state, or one set of
    parameters per task.
    """

    def begin_trial(self, num_slots: int) -> S:
        """The state of an agent before any experience with its tasks."""
        ...

    def act(
        self, state: S, step: TimeStep, *, generator: torch.Generator | None
    ) -> tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"], S]:
        """Action, its log-probability and the next state; without a generator the mode is taken."""
        ...

    def adapt(self, state: S, rollout: Rollout) -> S:
        """The state after adaptation to a whole rollout."""
        ...

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """One step of the outer learning; returns metrics to log."""
        ...


@runtime_checkable
class AgentConfig(Protocol):
    """The `agent` section of an experiment: a `metarl.config.Config` with these methods.

    If it has a class method `small()`, which returns a config whose agent learns within moments,
    `train.py --check` tries a user's tasks with this agent too. If it has `learns_within_trials`,
    True, its agent also learns from a part of a trial (`train.rollout_steps`). If it has
    `learns_on_ranks`, True, its agent learns from the rollouts of its own rank, and sums what it
    learns over ranks (`metarl.system.ranks`); any other is given those of all ranks. If it has
    `discrete_actions`, False, its agent plays with continuous actions only.
    """

    @property
    def kind(self) -> str:
        """Name of the algorithm: that of its entry point, or `FILE.py:CLASS`."""
        ...

    def build(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> Agent[Any]:
        """A new agent, whose weights follow from `seed`."""
        ...

    def trial_shape(self, episodes: int, *, training: bool = False) -> TrialShape:
        """The layout of a trial of `episodes` episodes.

        Raises:
            UserError: the agent cannot play that number of episodes.
        """
        ...

    def check_training(
        self, shape: TrialShape, *, horizon: int, num_tasks: int, num_classes: int
    ) -> None:
        """Checks that the agent can learn from trials of this shape.

        Raises:
            UserError: it cannot.
        """
        ...


@runtime_checkable
class DistributionConfig(Protocol):
    """The `env` section of an experiment: a `metarl.config.Config` with this method."""

    @property
    def kind(self) -> str:
        """Name of the distribution: that of its entry point."""
        ...

    def build(self) -> TaskDistribution:
        """The task distribution.

        Raises:
            UserError: it cannot be built from these values.
        """
        ...


@runtime_checkable
class EpisodeSampler(Protocol):
    """One split of a few-shot distribution."""

    content_hash: str
    """Hash that is equal for the same tasks or images; identifies the split in every result."""

    def sample(
        self, num_tasks: int, rng: np.random.Generator, *, shots: int | None = None
    ) -> FewShotBatch:
        """Draws tasks and examples of them; `shots` replaces the distribution's own number."""
        ...


@runtime_checkable
class FewShotDistribution(Protocol):
    """Training tasks and held-out tasks, each given by a few labelled examples."""

    name: str
    shape: FewShotShape
    shots: int
    """Support examples of a task: per class, or in total where a function is regressed."""
    train: EpisodeSampler
    test: EpisodeSampler


@runtime_checkable
class FewShotLearner(Learner, Protocol):
    """A model that predicts the query of a task from its support, and learns this across tasks."""

    default_steps: int
    """Gradient steps on a task in evaluation; 0 for a learner that takes none."""

    def predict(
        self,
        support_x: Float[Tensor, "N S *F"],
        support_y: Shaped[Tensor, "N S *W"],
        query_x: Float[Tensor, "N Q *F"],
        *,
        after: Sequence[int],
    ) -> Float[Tensor, "C N Q W"]:
        """Logits or regressed values after each of C numbers of gradient steps, in rising order.

        A learner that takes no steps returns the same values C times.
        """
        ...

    def meta_update(self, batch: FewShotBatch, *, generator: torch.Generator) -> dict[str, float]:
        """One step of the outer learning; returns metrics to log, which include `loss` and
        `accuracy` of the query."""
        ...


@runtime_checkable
class FewShotLearnerConfig(Protocol):
    """The `agent` section of few-shot learning: a `metarl.config.Config` with this method."""

    @property
    def kind(self) -> str:
        """Name of the algorithm: that of its entry point, or `FILE.py:CLASS`."""
        ...

    def build(self, shape: FewShotShape, *, seed: int, device: torch.device) -> FewShotLearner:
        """A new learner, whose weights follow from `seed`."""
        ...


@runtime_checkable
class FewShotDistributionConfig(Protocol):
    """The `env` section of few-shot learning: a `metarl.config.Config` with these methods."""

    @property
    def kind(self) -> str:
        """Name of the distribution: that of its entry point."""
        ...

    def build(self) -> FewShotDistribution:
        """The distribution.

        Raises:
            UserError: it cannot be built from these values.
        """
        ...

    def as_judged(self) -> FewShotDistributionConfig:
        """The config of the distribution that learners are evaluated on."""
        ...
