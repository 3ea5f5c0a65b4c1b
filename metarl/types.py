"""What passes between environments, agents and evaluation.

Axes, always in this order:

    N  slots (or tasks)     T  steps of a rollout     K  episodes of a trial
    O  observation          A  action                 H  hidden state

A tensor of one moment is `N …`, a tensor of a rollout `N T …`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


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


@dataclass(frozen=True, kw_only=True)
class AdaptationCurve:
    """How N tasks went, episode by episode of one trial each; column k came after k episodes."""

    env_names: list[str]
    """The task class of each row."""
    returns: Float[Tensor, "N K"]
    """Undiscounted sum of rewards of an episode."""
    success_any: Bool[Tensor, "N K"]
    """Whether any step of the episode was a success."""
    success_last: Bool[Tensor, "N K"]
    """Whether the last step of the episode was a success."""
