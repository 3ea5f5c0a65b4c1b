"""What passes between environments, agents and evaluation.

Axes, always in this order:

    N  slots (or tasks)     T  steps of a rollout     K  episodes of a task
    O  observation          A  action                 H  hidden state
    G  tasks that have several slots each             M  steps of all slots of a task
    P  parameters of a policy

few-shot learning:

    N  tasks                S  support examples       Q  query examples
    W  outputs: ways, or what is regressed            C  columns of growing experience

A tensor of one moment is `N …`, a tensor of a rollout `N T …`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from metarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TimeStep:
    """All that a policy may see before it acts; of one moment (`N …`) or of a rollout (`N T …`).

    At the start of a trial the previous action and reward are zero. At the start of every later
    episode they are those of the last step of the episode before: that reward is often the only
    one that tells whether the episode went well.
    """

    obs: Float[Tensor, "*batch O"]
    prev_action: Float[Tensor, "*batch A"]
    """The action that was executed (clipped to its bounds); one-hot where actions are discrete."""
    prev_reward: Float[Tensor, "*batch"]
    episode_start: Bool[Tensor, "*batch"]
    """True where no action of this episode was taken yet."""

    @staticmethod
    def stack(steps: list[TimeStep]) -> TimeStep:
        """T moments (`N …`) as those of one rollout (`N T …`)."""
        return TimeStep(
            **{
                field.name: torch.stack([getattr(step, field.name) for step in steps], dim=1)
                for field in fields(TimeStep)
            }
        )

    def map(self, change) -> TimeStep:
        """The same time step with `change` (tensor -> tensor) applied to every field."""
        return TimeStep(**{f.name: change(getattr(self, f.name)) for f in fields(TimeStep)})


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What was seen while a trial, or a part of one, was played in N slots for T steps."""

    seen: TimeStep
    """What the policy saw before each action, `N T …`."""
    action: Shaped[Tensor, "N T *A"]
    """As drawn from the policy, before clipping: floats (`N T A`) or indices (`N T`)."""
    log_prob: Float[Tensor, "N T"]
    """Log-probability (density) of `action`, summed over the action's dimensions."""
    reward: Float[Tensor, "N T"]
    episode_end: Bool[Tensor, "N T"]
    """True where this step was the last of its episode."""
    success: Bool[Tensor, "N T"]
    final_obs: Float[Tensor, "N O"]
    """The observation that followed the last step, before any reset."""

    def __post_init__(self) -> None:
        shapes = {self.seen.obs.shape[:2], self.action.shape[:2], self.log_prob.shape}
        shapes |= {self.reward.shape, self.episode_end.shape, self.success.shape}
        if len(shapes) > 1:
            raise ValueError(f"the tensors of a rollout disagree about N and T: {sorted(shapes)}")

    @staticmethod
    def side_by_side(rollouts: list[Rollout]) -> Rollout:
        """Rollouts of as many steps as one: the slots of the first, then those of the second, …"""

        def join(parts: list[Any]) -> dict[str, Tensor]:
            names = [field.name for field in fields(parts[0]) if field.name != "seen"]
            return {name: torch.cat([getattr(part, name) for part in parts]) for name in names}

        seen = TimeStep(**join([rollout.seen for rollout in rollouts]))
        return Rollout(seen=seen, **join(rollouts))


@dataclass(frozen=True, kw_only=True)
class TrialShape:
    """How the episodes of a trial are laid out: in slots, in time and in rollouts."""

    slots_per_task: int = 1
    """Episodes of one task that are played side by side; its slots stand side by side too."""
    episodes: int = 1
    """Consecutive episodes of each slot in a rollout."""
    rollouts: int = 1
    """The agent adapts after each but the last."""

    @property
    def total_episodes(self) -> int:
        """Episodes of experience with a task that a trial holds."""
        return self.slots_per_task * self.episodes * self.rollouts


@dataclass(frozen=True, kw_only=True)
class AdaptationCurve:
    """How one trial on each of N tasks went, in C columns of growing experience.

    Where episodes are played side by side, a score is the mean over them.
    """

    env_names: list[str]
    """The task class of each row."""
    experience: list[int]
    """Episodes of experience with the task before each column."""
    scores: dict[str, Float[Tensor, "N C"]]
    """By measure; in reinforcement learning these are `return`, the undiscounted sum of rewards of
    an episode, `success_any`, 1 where any step of it was a success, and `success_last`, 1 where the
    last step was."""


@dataclass(frozen=True, kw_only=True)
class FewShotShape:
    """What a few-shot learner has to be built for."""

    input_shape: tuple[int, ...]
    """Of one example: (features,), or (channels, height, width)."""
    num_outputs: int
    """Ways, or numbers to regress."""
    classification: bool
    train_ways: int | None = None
    """Ways in training; None where they are the same."""

    def head_size(self) -> int:
        """`num_outputs`, for a learner that has an output for each class.

        Raises:
            UserError: training has other ways.
        """
        if self.train_ways not in (None, self.num_outputs):
            raise UserError(
                f"env.train_ways {self.train_ways} needs agent.kind prototypical or matching; "
                f"others have an output for each of the {self.num_outputs} env.ways"
            )
        return self.num_outputs


@dataclass(frozen=True, kw_only=True)
class FewShotBatch:
    """N few-shot tasks: examples to adapt on (support), and others to be judged on (query)."""

    support_x: Float[Tensor, "N S *F"]
    support_y: Shaped[Tensor, "N S *W"]
    """Labels 0 … W - 1 (`N S`, integers), or what is to be regressed (`N S W`)."""
    query_x: Float[Tensor, "N Q *F"]
    query_y: Shaped[Tensor, "N Q *W"]

    def __len__(self) -> int:
        return len(self.support_x)

    def __getitem__(self, rows: slice) -> FewShotBatch:
        return FewShotBatch(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to(self, device: torch.device) -> FewShotBatch:
        """The same tasks elsewhere."""
        return FewShotBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class FewShotCurve:
    """How a learner did on the queries of N tasks, in C columns of growing experience."""

    axis: Literal["gradient steps", "shots"]
    """What grows from column to column."""
    experience: list[int]
    """How much of it there was in each column."""
    scores: dict[str, Float[Tensor, "N C"]]
    """By measure: `loss` (cross-entropy in nats, or squared error), and `accuracy` of classes."""


class EvaluationProtocol(NamedTuple):
    """How a benchmark's own documentation says that agents are evaluated on it."""

    name: str
    adaptation_episodes: int
    """Episodes that the agent adapts on, of each task."""
    test_episodes: int
    """Episodes after those, which are judged."""
    goals: int
    """Tasks of each class, the first ones."""
