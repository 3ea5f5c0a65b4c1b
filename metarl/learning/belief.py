"""What an agent believes about its task as a trial goes on, if it has a belief."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from pydantic import FiniteFloat

from metarl.errors import NotFiniteError, UserError
from metarl.nn.distributions import DiagonalGaussian
from metarl.system import ranks
from metarl.system.files import check_shape
from metarl.tasks import Task, goals_of
from metarl.types import Rollout

COLUMNS = 61
"""Most steps of a trial at which a belief is kept."""
FOLDS = 5
FEWEST_TASKS = 20
"""Number of tasks below which a probe's score would say little."""


@runtime_checkable
class Believer(Protocol):
    """An agent that infers a Gaussian posterior over a latent vector of its task."""

    def beliefs(self, trial: Sequence[Rollout]) -> DiagonalGaussian:
        """The posterior before each step of a trial, `N T Z`: T steps in all of its rollouts."""
        ...


def beliefs_over(agent: Believer, trial: Sequence[Rollout]) -> DiagonalGaussian:
    """The agent's beliefs over a trial, `N T Z`.

    Raises:
        UserError: they are not a Gaussian for each step of each slot.
        NotFiniteError: means or standard deviations are not finite numbers.
    """
    with torch.no_grad():
        belief = agent.beliefs(trial)
    steps = (len(trial[0].reward), sum(rollout.reward.shape[1] for rollout in trial))
    if not isinstance(belief, DiagonalGaussian):
        raise UserError(
            f"beliefs returns {type(belief).__name__}, and should return a DiagonalGaussian"
        )
    for name, values in (("mean", belief.mean), ("log_std", belief.log_std)):
        if values.ndim != 3 or tuple(values.shape[:2]) != steps or values.shape[2] == 0:
            raise UserError(
                f"beliefs returns {name} of shape {tuple(values.shape)}, and should return "
                f"{steps} and the size of the latent vector"
            )
    for name, values in (("mean", belief.mean), ("standard deviation", belief.log_std.exp())):
        if not values.isfinite().all():
            raise NotFiniteError(f"the {name} of the agent's beliefs")
    if belief.mean.shape != belief.log_std.shape:
        raise UserError("beliefs returns mean and log_std of different shapes")
    return belief


@dataclass(frozen=True, kw_only=True)
class BeliefCurve:
    """Beliefs before some steps of a trial, in C columns."""

    steps: list[int]
    """Steps of experience before each column."""
    mean: list[list[FiniteFloat]]
    """Posterior mean on the first task, C × Z."""
    std: list[list[FiniteFloat]]
    """Posterior standard deviation on the first task, C × Z."""
    mean_std: list[FiniteFloat]
    """Posterior standard deviation, a mean over tasks and latent dimensions."""
    goal_r2: list[FiniteFloat] | None = None
    """How well a linear probe of the posterior mean reads the goal of a task that it was not fitted
    to (`probe_r2`); None if tasks have no common kind of goal, or are few."""

    def __post_init__(self) -> None:
        """Checks that all columns are there, as a stored curve may be damaged."""
        columns, latent_size = len(self.steps), len(self.mean[0]) if self.mean else 0
        if not (columns and latent_size):
            raise ValueError("belief has no steps, or no numbers of a latent vector")
        for name in ("mean", "std"):
            check_shape(getattr(self, name), (columns, latent_size), name=f"belief.{name}")
        for name in ("mean_std", "goal_r2"):
            if (values := getattr(self, name)) is not None:
                check_shape(values, (columns,), name=f"belief.{name}")
        if min(self.steps) < 0 or min(self.mean_std) < 0 or min(map(min, self.std)) < 0:
            raise ValueError("belief has a negative step or standard deviation")


class BeliefLog:
    """Collects the beliefs of an agent while it plays a set of tasks; of several slots of a task
    those of the first.
    """

    def __init__(self, agent: Believer, *, slots_per_task: int) -> None:
        self._agent, self._slots_per_task = agent, slots_per_task
        self._steps: list[int] = []
        self._means: list[torch.Tensor] = []
        self._stds: list[torch.Tensor] = []

    def keep(self, trial: Sequence[Rollout], count: int) -> None:
        """Keeps the beliefs on the first `count` tasks of a trial.

        Raises:
            UserError: the agent's beliefs are wrong.
        """
        belief = beliefs_over(self._agent, trial)
        mean, log_std = (
            values[:: self._slots_per_task][:count] for values in (belief.mean, belief.log_std)
        )
        num_steps = mean.shape[1]
        self._steps = (
            np.linspace(0, num_steps - 1, min(COLUMNS, num_steps)).round().astype(int).tolist()
        )
        self._means.append(mean[:, self._steps].cpu())
        self._stds.append(log_std[:, self._steps].exp().cpu())

    def gather(self) -> None:
        """Adds the beliefs that all ranks have kept, in their order."""
        self._means = ranks.gathered_objects(self._means)
        self._stds = ranks.gathered_objects(self._stds)

    def curve(self, tasks: Sequence[Task]) -> BeliefCurve:
        """The beliefs on all tasks, in the order in which they were played."""
        mean, std = torch.cat(self._means).double(), torch.cat(self._stds).double()
        return BeliefCurve(
            steps=self._steps,
            mean=mean[0].tolist(),
            std=std[0].tolist(),
            mean_std=std.mean((0, 2)).tolist(),
            goal_r2=_goal_r2(mean.numpy(), tasks),
        )


def _goal_r2(mean: Any, tasks: Sequence[Task]) -> list[float] | None:
    goals = goals_of(tasks)
    if goals is None or len({task.env_name for task in tasks}) > 1:
        return None
    scores = [probe_r2(column, np.asarray(goals)) for column in mean.swapaxes(0, 1)]
    known = [score for score in scores if score is not None]
    return known if len(known) == len(scores) else None


def belief_metrics(
    agent: Believer, trial: Sequence[Rollout], tasks: Sequence[Task], *, slots_per_task: int
) -> dict[str, float]:
    """Standard deviation of the posterior at the first and at the last step of a trial, and how
    well a linear probe reads the goal from its mean at the last; on the tasks of all ranks."""
    log = BeliefLog(agent, slots_per_task=slots_per_task)
    log.keep(trial, len(ranks.share_of(len(tasks))))
    log.gather()
    curve = log.curve(tasks)
    metrics = {
        "belief/std_first_step": curve.mean_std[0],
        "belief/std_last_step": curve.mean_std[-1],
    }
    if curve.goal_r2 is not None:
        metrics["belief/goal_r2"] = curve.goal_r2[-1]
    return metrics


def probe_r2(
    known: Float[np.ndarray, "N Z"], goals: Float[np.ndarray, "N P"], *, ridge: float = 1e-3
) -> float | None:
    """R² of a ridge regression from `known` to the goals, on tasks that it was not fitted to.

    The tasks are divided into five folds; each is predicted by the fit to the others. R² is 1 minus
    the ratio of the squared error to that of the mean of all goals, with all P numbers of a goal
    together; 0 or less: nothing is known. `ridge` is relative to the variance of `known`.

    Returns:
        R², or None for fewer than 20 tasks, or if all goals are the same.
    """
    num_tasks = len(known)
    spread = ((goals - goals.mean(0)) ** 2).sum()
    if num_tasks < FEWEST_TASKS or (goals == goals[0]).all():
        return None
    fold = np.arange(num_tasks) % FOLDS
    error = 0.0
    for held_out in range(FOLDS):
        fitted, tested = fold != held_out, fold == held_out
        center, scale = known[fitted].mean(0), known[fitted].std(0)
        x = (known - center) / np.where(scale > 0, scale, 1.0)
        mean = goals[fitted].mean(0)
        gram = x[fitted].T @ x[fitted] + ridge * fitted.sum() * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x[fitted].T @ (goals[fitted] - mean))
        error += ((goals[tested] - mean - x[tested] @ weights) ** 2).sum()
    return float(1 - error / spread)
