"""Policies that only act: random ones, official scripts, and those of Stable-Baselines3 models.

They have the agent interface of `metarl.rollout.trial.run_trial`, but do not adapt, so the episodes
of a trial differ by chance alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from metaworld.policies import ENV_POLICY_MAP
from stable_baselines3 import PPO, SAC
from torch import Tensor
from torch.nn import functional

from envs.metaworld.official import MetaWorldTask, set_official_task
from envs.metaworld.snapshots import official
from metarl.errors import UserError
from metarl.nn.distributions import Categorical, DiagonalGaussian
from metarl.protocols import Agent
from metarl.tasks import Task
from metarl.types import Rollout, TimeStep

S = TypeVar("S")
Act = tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"], S]
Scripts = tuple[Any, ...]
"""One official policy per slot."""
GOAL = slice(36, 39)
"""Slice of an official observation that holds the goal, if it is visible."""


class ActsOnly(Agent[S], Protocol[S]):
    """An agent that neither adapts nor learns, and so has no parameters to store."""

    def adapt(self, state: S, rollout: Rollout) -> S:
        """The unchanged state."""
        del rollout
        return state

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """Raises an error, because there is nothing to train.

        Raises:
            UserError: always.
        """
        raise UserError(f"{type(self).__name__} only acts; there is nothing in it to train")

    def state_dict(self) -> dict[str, Tensor]:
        """An empty dictionary."""
        return {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Does nothing."""
        del tensors


class RandomPolicy(ActsOnly[None]):
    """A policy with uniform actions, in the box or over the discrete actions.

    Raises:
        UserError: the box has no bounds.
    """

    def __init__(self, action_space: spaces.Box | spaces.Discrete) -> None:
        self.device = torch.device("cpu")
        self._num_actions = 0
        if isinstance(action_space, spaces.Discrete):
            self._num_actions = int(action_space.n)
            self._log_prob = -math.log(self._num_actions)
            return
        if not action_space.is_bounded():
            raise UserError("no action is uniform in a box without bounds; give it bounds")
        kind = torch.get_default_dtype()
        self._low = torch.as_tensor(action_space.low, dtype=kind).flatten()
        self._width = torch.as_tensor(action_space.high, dtype=kind).flatten() - self._low
        self._log_prob = -float(self._width.log().sum())

    def begin_trial(self, num_slots: int) -> None:
        """Nothing is remembered."""
        del num_slots

    def act(self, state: None, step: TimeStep, *, generator: torch.Generator | None) -> Act[None]:
        """A random action.

        Raises:
            UserError: there is no generator; a uniform policy has no mode.
        """
        del state
        if generator is None:
            raise UserError("a random policy has no likeliest action; play it sampled, not greedy")
        num_slots = len(step.obs)
        if self._num_actions:
            action = torch.randint(self._num_actions, (num_slots,), generator=generator)
        else:
            shape = (num_slots, len(self._low))
            share = torch.rand(shape, generator=generator, dtype=self._low.dtype)
            action = self._low + self._width * share
        return action, torch.full((num_slots,), self._log_prob), None


class ScriptedPolicy(ActsOnly[Scripts]):
    """Meta-World's official scripted policies, which see the goal: an upper reference.

    The goal, which the observation hides, is filled in. Actions are deterministic; their
    log-probability is 0.

    Args:
        tasks: tasks of the trial; each is played by the same number of slots.

    Raises:
        UserError: a task is not from Meta-World, or there is none.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            raise UserError("a scripted policy needs the tasks that it is to play; give one")
        self.device = torch.device("cpu")
        self._names, self._goals = zip(
            *((t.env_name, official_goal(t)) for t in tasks), strict=True
        )

    def begin_trial(self, num_slots: int) -> Scripts:
        """Creates a script for each slot.

        Raises:
            UserError: the number of slots is no multiple of the number of tasks.
        """
        if num_slots % len(self._names):
            raise UserError(
                f"{num_slots} slots cannot be shared equally by {len(self._names)} tasks"
            )
        return tuple(self._script(task) for task in self._task_of_each(num_slots))

    def act(
        self, state: Scripts, step: TimeStep, *, generator: torch.Generator | None
    ) -> Act[Scripts]:
        """The scripts' actions; a new episode starts a new script."""
        del generator
        played = self._task_of_each(len(state))
        starts = step.episode_start.tolist()
        scripts = tuple(
            self._script(task) if start else script
            for task, start, script in zip(played, starts, state, strict=True)
        )
        observations = step.obs.double().cpu().numpy().copy()
        observations[:, GOAL] = np.stack([self._goals[task] for task in played])
        actions = [s.get_action(seen) for s, seen in zip(scripts, observations, strict=True)]
        action = torch.as_tensor(np.stack(actions), dtype=step.obs.dtype)
        return action, torch.zeros(len(scripts)), scripts

    def _task_of_each(self, num_slots: int) -> list[int]:
        return [slot * len(self._names) // num_slots for slot in range(num_slots)]

    def _script(self, task: int) -> Any:
        return ENV_POLICY_MAP[self._names[task]]()


def official_goal(task: Task) -> Float[np.ndarray, " 3"]:
    """Position of a Meta-World task's goal (m), which the observation hides.

    Raises:
        UserError: the task is not from Meta-World.
    """
    if not isinstance(task, MetaWorldTask):
        raise UserError(f"only Meta-World has scripted policies, {task.env_name} has none")
    env: Any = official(task.env_name).env
    set_official_task(env, task)
    env.reset()
    # A copy, because in some classes it is a view of the simulation.
    return np.array(env._target_pos)


class SB3Policy(ActsOnly[None]):
    """The current policy of a Stable-Baselines3 model; it changes as the model learns.

    Actions are drawn from the given generator, not from torch's global one.

    Args:
        model: a model without state-dependent exploration.
        normalize: function applied to the model's observations first, such as
            `VecNormalize.normalize_obs`.
    """

    def __init__(
        self, model: PPO | SAC, normalize: Callable[[np.ndarray], Any] = np.asarray
    ) -> None:
        self.device = model.device
        self._model, self._normalize = model, normalize

    def begin_trial(self, num_slots: int) -> None:
        """Nothing is remembered."""
        del num_slots

    @torch.no_grad()
    def act(self, state: None, step: TimeStep, *, generator: torch.Generator | None) -> Act[None]:
        """An action of the model's policy; without a generator, its deterministic action."""
        del state
        seen = self._normalize(step.obs.cpu().numpy())
        obs, _ = self._model.policy.obs_to_tensor(seen)
        assert isinstance(obs, Tensor)
        if isinstance(self._model, SAC):
            return self._squashed(self._model, obs, generator)
        parameters: Any = self._model.policy.get_distribution(obs).distribution
        policy = (
            Categorical(parameters.logits)
            if isinstance(self._model.action_space, spaces.Discrete)
            else DiagonalGaussian(parameters.mean, parameters.stddev.log())
        )
        action = policy.mode() if generator is None else policy.sample(generator)
        return action, policy.log_prob(action), None

    def _squashed(self, model: SAC, obs: Tensor, generator: torch.Generator | None) -> Act[None]:
        """An action within the bounds: tanh of a normal variable u, scaled to the bounds."""
        mean, log_std, _ = model.actor.get_action_dist_params(obs)
        policy = DiagonalGaussian(mean, log_std)
        u = policy.mode() if generator is None else policy.sample(generator)
        # log(1 - tanh² u), in the form that does not cancel.
        log_slope = 2 * (math.log(2) - u - functional.softplus(-2 * u))
        low, high = (torch.as_tensor(bound) for bound in _bounds(model.action_space))
        half = ((high - low) / 2).to(u)
        action = low.to(u) + half * (u.tanh() + 1)
        return action, policy.log_prob(u) - (log_slope + half.log()).sum(-1), None


def _bounds(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(space, spaces.Box)
    return space.low, space.high
