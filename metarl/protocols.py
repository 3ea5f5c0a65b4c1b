"""What a task distribution and what learns from it are: all that training and evaluation rely on.

An `Agent` acts in the environments of a `TaskDistribution`; a `FewShotLearner` is shown labelled
examples of a `FewShotDistribution`. A run needs no more of either than that it is a `Learner`.
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
    `info` of every step has `success` (N,) and `final_obs` (N, O), the observations that truly
    followed the step, before any reset. All episodes are `horizon` steps long.
    """

    num_envs: int
    horizon: int
    single_observation_space: spaces.Box
    single_action_space: spaces.Box | spaces.Discrete

    def set_tasks(self, tasks: Sequence[Any]) -> None:
        """Gives each slot its task; takes effect at the next `reset`."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts a trial: first observations and an info dictionary."""
        ...

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Observation, reward, terminated, truncated and info, each for N slots."""
        ...

    def close(self) -> None:
        """Frees what the environment holds."""
        ...


@runtime_checkable
class DeviceVectorEnv(TaskVectorEnv, Protocol):
    """A `TaskVectorEnv` on a device: it takes and gives torch tensors that lie there."""

    device: torch.device


@runtime_checkable
class TaskDistribution(Protocol):
    """Training tasks, held-out tasks, and the environments that play them.

    It may have besides: `reward_version` (str), where rewards have versions; `protocol`, a
    `metarl.types.EvaluationProtocol` that its documentation prescribes; `module_hash`, SHA-256 of a
    user's module that it comes from.
    """

    name: str
    train: TaskSet[Any]
    test: TaskSet[Any]
    horizon: int
    """Steps in an episode."""

    def make_env(self, num_slots: int) -> TaskVectorEnv:
        """Slots that play training tasks until `set_tasks` says otherwise."""
        ...


@runtime_checkable
class Learner(Protocol):
    """What learns across tasks and can be saved; an `Agent` or a `FewShotLearner`."""

    device: torch.device

    def state_dict(self) -> dict[str, Tensor]:
        """All that a bit-exact resume needs."""
        ...

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Takes over what `state_dict` gave."""
        ...


@runtime_checkable
class Agent(Learner, Protocol[S]):
    """What adapts to a task within a trial and learns across trials.

    `S` is what adaptation changes, with leading axis N: a hidden state, or one set of parameters
    per task.
    """

    def begin_trial(self, num_slots: int) -> S:
        """The state of an agent that knows nothing of its task yet."""
        ...

    def act(
        self, state: S, step: TimeStep, *, generator: torch.Generator | None
    ) -> tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"], S]:
        """Action, its log-probability and the next state; without a generator, the mode."""
        ...

    def adapt(self, state: S, rollout: Rollout) -> S:
        """The state after learning from a whole rollout."""
        ...

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """One step of the outer learning; returns metrics to log."""
        ...


@runtime_checkable
class AgentConfig(Protocol):
    """The `agent` section of an experiment: a `metarl.config.Config` with these methods."""

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
        """The layout of a trial of so many episodes.

        Raises:
            UserError: the agent cannot play that number.
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
    """Equal for the same tasks or images; names the split in every result."""

    def sample(
        self, num_tasks: int, rng: np.random.Generator, *, shots: int | None = None
    ) -> FewShotBatch:
        """Draws tasks, and examples of them; `shots` in place of the distribution's own."""
        ...


@runtime_checkable
class FewShotDistribution(Protocol):
    """Tasks to learn from and held-out ones, each given by a few labelled examples."""

    name: str
    shape: FewShotShape
    shots: int
    """Support examples of a task: of each class, or in all where a function is regressed."""
    train: EpisodeSampler
    test: EpisodeSampler


@runtime_checkable
class FewShotLearner(Learner, Protocol):
    """What predicts the query of a task from its support, and learns across tasks to do so."""

    default_steps: int
    """Gradient steps that it takes on a task in evaluation; 0 of a learner that takes none."""

    def predict(
        self,
        support_x: Float[Tensor, "N S *F"],
        support_y: Shaped[Tensor, "N S *W"],
        query_x: Float[Tensor, "N Q *F"],
        *,
        after: Sequence[int],
    ) -> Float[Tensor, "C N Q W"]:
        """Logits or regressed values after each of C numbers of gradient steps, in rising order; of
        a learner that takes none always the same."""
        ...

    def meta_update(self, batch: FewShotBatch, *, generator: torch.Generator) -> dict[str, float]:
        """One step of the outer learning; returns metrics to log, `loss` and `accuracy` of the
        query among them."""
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
        """The config whose distribution learners are judged on."""
        ...
