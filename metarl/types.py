"""Data types that environments, agents and evaluation exchange.

Axes, always in this order:

    N  slots (or tasks)     T  steps of a rollout     K  episodes of a task
    O  observation          A  action                 H  hidden state
    G  tasks that have several slots each             M  steps of all slots of a task
    P  parameters of a policy

few-shot learning:

    N  tasks                S  support examples       Q  query examples
    W  outputs: ways, or regressed values             C  columns of growing experience

A tensor of one time step is `N …`, a tensor of a rollout `N T …`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from metarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TimeStep:
    """All inputs of a policy at one time step (`N …`), or at all steps of a rollout (`N T …`).

    At the start of a trial the previous action and reward are zero. At the start of every later
    episode they are those of the previous episode's last step: that reward is often the only one
    that tells whether the episode succeeded.
    """

    obs: Float[Tensor, "*batch O"]
    prev_action: Float[Tensor, "*batch A"]
    """The executed action: clipped to its bounds, or one-hot where actions are discrete."""
    prev_reward: Float[Tensor, "*batch"]
    episode_start: Bool[Tensor, "*batch"]
    """True before the first action of an episode."""

    @staticmethod
    def stack(steps: list[TimeStep]) -> TimeStep:
        """T time steps (`N …`) stacked to those of one rollout (`N T …`)."""
        return TimeStep(
            **{
                field.name: torch.stack([getattr(step, field.name) for step in steps], dim=1)
                for field in fields(TimeStep)
            }
        )

    def map(self, change) -> TimeStep:
        """Time step with `change` (tensor -> tensor) applied to every field."""
        return TimeStep(**{f.name: change(getattr(self, f.name)) for f in fields(TimeStep)})


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Experience of N slots over T steps of a trial, or of a part of one."""

    seen: TimeStep
    """Inputs of the policy before each action, `N T …`."""
    action: Shaped[Tensor, "N T *A"]
    """Actions as drawn from the policy, before clipping: floats (`N T A`) or indices (`N T`)."""
    log_prob: Float[Tensor, "N T"]
    """Log-probability (or log-density) of `action`, summed over the action's dimensions."""
    reward: Float[Tensor, "N T"]
    episode_end: Bool[Tensor, "N T"]
    """True at the last step of each episode."""
    success: Bool[Tensor, "N T"]
    final_obs: Float[Tensor, "N E O"]
    """The observation after the last step of each of the E episodes that end in the rollout, before
    any reset."""
    task: Int[Tensor, " N"] | None = None
    """A number for the task of each slot; equal for equal tasks, whenever they are played."""
    first_state: Any = None
    """The agent's state before the first step, if the rollout begins within a trial."""
    following: TimeStep | None = None
    """The time step after the last (`N …`), if the trial goes on."""

    def __post_init__(self) -> None:
        shapes = {self.seen.obs.shape[:2], self.action.shape[:2], self.log_prob.shape}
        shapes |= {self.reward.shape, self.episode_end.shape, self.success.shape}
        if len(shapes) > 1:
            raise ValueError(f"the tensors of a rollout disagree about N and T: {sorted(shapes)}")

    @staticmethod
    def side_by_side(rollouts: list[Rollout]) -> Rollout:
        """Rollouts of equal length as one: the slots of the first, then those of the second, …"""
        return Rollout(**_joined(rollouts, axis=0))

    @staticmethod
    def one_after_another(rollouts: list[Rollout]) -> Rollout:
        """Successive rollouts of the same slots as one."""
        return Rollout(**_joined(rollouts, axis=1), task=rollouts[0].task)


def _joined(rollouts: list[Rollout], *, axis: int) -> dict[str, Any]:
    """The tensors of rollouts, joined along slots (0) or steps (1)."""
    seen = [rollout.seen for rollout in rollouts]
    inputs = {f.name: torch.cat([getattr(s, f.name) for s in seen], axis) for f in fields(TimeStep)}
    names = ("action", "log_prob", "reward", "episode_end", "success", "final_obs")
    outputs = {name: torch.cat([getattr(r, name) for r in rollouts], axis) for name in names}
    return {"seen": TimeStep(**inputs), **outputs}


@dataclass(frozen=True, kw_only=True)
class TrialShape:
    """Layout of a trial's episodes over slots, time and rollouts."""

    slots_per_task: int = 1
    """Episodes of one task that are played in parallel, in adjacent slots."""
    episodes: int = 1
    """Consecutive episodes of each slot in a rollout."""
    rollouts: int = 1
    """Rollouts of a trial; the agent adapts after each but the last."""
    rollout_steps: int | None = None
    """Steps after which training learns from a rollout, before the rollout goes on; None if it is
    played whole."""

    @property
    def total_episodes(self) -> int:
        """Episodes on each task in a trial."""
        return self.slots_per_task * self.episodes * self.rollouts


@dataclass(frozen=True, kw_only=True)
class AdaptationCurve:
    """Scores of one trial on each of N tasks, in C columns of growing experience.

    If episodes of a task are played in parallel, a score is the mean over them.
    """

    env_names: list[str]
    """The task class of each row."""
    experience: list[int]
    """Episodes of experience with the task before each column."""
    scores: dict[str, Float[Tensor, "N C"]]
    """Scores by measure. In reinforcement learning: `return`, the undiscounted sum of an episode's
    rewards; `success_any`, 1 if any of its steps was a success; `success_last`, 1 if its last step
    was."""


@dataclass(frozen=True, kw_only=True)
class FewShotShape:
    """Sizes of inputs and outputs that a few-shot learner is built for."""

    input_shape: tuple[int, ...]
    """Shape of one example: (features,), or (channels, height, width)."""
    num_outputs: int
    """Number of ways, or of values to regress."""
    classification: bool
    train_ways: int | None = None
    """Number of ways in training; None if it is the same."""

    def head_size(self) -> int:
        """`num_outputs`, for a learner that has one output per class.

        Raises:
            UserError: training has another number of ways.
        """
        if self.train_ways not in (None, self.num_outputs):
            raise UserError(
                f"env.train_ways {self.train_ways} needs agent.kind prototypical or matching; "
                f"others have an output for each of the {self.num_outputs} env.ways"
            )
        return self.num_outputs


@dataclass(frozen=True, kw_only=True)
class FewShotBatch:
    """N few-shot tasks: examples to adapt on (support), and examples to be evaluated on (query)."""

    support_x: Float[Tensor, "N S *F"]
    support_y: Shaped[Tensor, "N S *W"]
    """Labels 0 … W - 1 (`N S`, integers), or values to regress (`N S W`)."""
    query_x: Float[Tensor, "N Q *F"]
    query_y: Shaped[Tensor, "N Q *W"]

    def __len__(self) -> int:
        return len(self.support_x)

    def __getitem__(self, rows: slice) -> FewShotBatch:
        return FewShotBatch(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to(self, device: torch.device) -> FewShotBatch:
        """Copy of the batch on another device."""
        return FewShotBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class FewShotCurve:
    """Scores of a learner on the queries of N tasks, in C columns of growing experience."""

    axis: Literal["gradient steps", "shots"]
    """Unit of experience, which grows from column to column."""
    experience: list[int]
    """Amount of experience in each column."""
    scores: dict[str, Float[Tensor, "N C"]]
    """Scores by measure: `loss` (cross-entropy in nats, or squared error), and `accuracy` in
    classification."""


class EvaluationProtocol(NamedTuple):
    """Evaluation that a benchmark's own documentation prescribes."""

    name: str
    adaptation_episodes: int
    """Episodes of each task that the agent adapts on."""
    test_episodes: int
    """Episodes after those, which are scored."""
    goals: int
    """Number of tasks of each class; the first ones are taken."""
