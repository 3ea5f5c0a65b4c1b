"""Adaptation curves from rollouts: scores of each task, episode by episode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.types import AdaptationCurve, Rollout


def adaptation_curve(
    trial: Sequence[Rollout], env_names: Sequence[str], *, slots_per_task: int = 1
) -> AdaptationCurve:
    """Scores of each task in each episode of a trial, in the order of play.

    Raises:
        ValueError: episodes do not end at the same steps in all slots, or not with the trial.
    """
    reward = torch.cat([rollout.reward for rollout in trial], dim=1)
    success = torch.cat([rollout.success for rollout in trial], dim=1)
    episode_end = torch.cat([rollout.episode_end for rollout in trial], dim=1)
    if not (episode_end == episode_end[:1]).all() or not episode_end[:, -1].all():
        raise ValueError("episodes must end at the same steps in every slot, and with the trial")
    horizon = int(episode_end[0].nonzero()[0]) + 1

    def by_task(scores: Tensor) -> Float[Tensor, "N C"]:
        return scores.double().unflatten(0, (-1, slots_per_task)).mean(1)

    by_episode = success.unflatten(1, (-1, horizon))
    returns = by_task(reward.double().unflatten(1, (-1, horizon)).sum(-1))
    return AdaptationCurve(
        env_names=list(env_names),
        experience=[slots_per_task * column for column in range(returns.shape[1])],
        scores={
            "return": returns,
            "success_any": by_task(by_episode.any(-1)),
            "success_last": by_task(by_episode[..., -1]),
        },
    )


def join(curves: Sequence[AdaptationCurve]) -> AdaptationCurve:
    """The curves of several batches of tasks as one curve."""
    return AdaptationCurve(
        env_names=[name for curve in curves for name in curve.env_names],
        experience=curves[0].experience,
        scores={m: torch.cat([curve.scores[m] for curve in curves]) for m in curves[0].scores},
    )


def first_rows(curve: AdaptationCurve, count: int) -> AdaptationCurve:
    """The curve of the first `count` tasks."""
    return AdaptationCurve(
        env_names=curve.env_names[:count],
        experience=curve.experience,
        scores={measure: scores[:count] for measure, scores in curve.scores.items()},
    )
