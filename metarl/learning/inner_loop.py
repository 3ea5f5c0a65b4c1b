"""Adaptation by gradient steps: a policy, and the steps that fit it to a task.

Finn et al. 2017, "Model-Agnostic Meta-Learning", arXiv:1703.03400, algorithm 3. Every task has
parameters of its own, a row of `G P`, and the K episodes of a task are played side by side in K
slots. What MAML-TRPO and ProMP share is here; how they learn the starting point is not. Derivatives
through the steps are those of `metarl.learning.meta_gradient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from metarl.config import Config, Fraction, Positive, Size, Widths
from metarl.errors import UserError
from metarl.learning.advantages import discounted_returns, gae, linear_baseline
from metarl.learning.meta_gradient import Unrolled
from metarl.learning.task_batch import Chunk, Experience, check_finite, ratio
from metarl.nn.distributions import ActionDistribution
from metarl.nn.policies import MLPPolicy, RunningNormalizer
from metarl.system.memory import check_memory
from metarl.types import Rollout, TimeStep, TrialShape

CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**28}
"""Activations of a layer that are worked on at once: what a processor's caches hold, and enough for
all processors of a GPU. Large tasks so come one by one, small ones many at a time."""


class InnerLoopConfig(Config):
    """The policy and how it adapts. Defaults are those of the Meta-World baselines."""

    hidden_sizes: Widths = (128, 128)
    """Tanh layers of the policy."""
    normalize_obs: bool = False
    """Scale observations by their running mean and standard deviation. Where what matters hardly
    varies, as the place of an object on a table, a policy does not see it otherwise."""
    initial_std: Positive = 1.0
    """Standard deviation of continuous actions at the start."""
    min_std: Positive = 1e-6
    """The standard deviation never falls below this."""
    learn_std: bool = True
    """Learn the standard deviation (one per action dimension), or keep `initial_std`."""

    episodes_per_step: Size = 10
    """Episodes of a task behind each gradient step, played side by side in a slot each."""
    inner_learning_rate: Positive = 0.1
    """Step size of adaptation (α)."""
    learn_inner_learning_rate: bool = False
    """Learn a step size for each parameter (Meta-SGD, Li et al. 2017, arXiv:1707.09835)."""
    first_order: bool = False
    """Take adaptation steps as constant shifts in the meta-gradient (FOMAML)."""

    discount: Fraction = 0.99
    """Per step, within an episode."""
    gae_lambda: Fraction = 1.0
    """λ of generalised advantage estimation."""

    def trial_shape(self, episodes: int, *, training: bool = False) -> TrialShape:
        """A rollout of `episodes_per_step` episodes before each gradient step, and one after all.

        Raises:
            UserError: `episodes` is no multiple of `episodes_per_step`.
        """
        del training
        side_by_side = self.episodes_per_step
        if episodes % side_by_side:
            fits = max(1, round(episodes / side_by_side)) * side_by_side
            raise UserError(
                f"a trial of {episodes} episodes does not divide into agent.episodes_per_step "
                f"{side_by_side}; the nearest that does is {fits}"
            )
        return TrialShape(slots_per_task=side_by_side, rollouts=episodes // side_by_side)

    def check_training(
        self, shape: TrialShape, *, horizon: int, num_tasks: int, num_classes: int
    ) -> None:
        """Checks that trials of this shape can be learned from.

        Raises:
            UserError: they leave no gradient step, or classes would have unequal weight.
        """
        if shape.slots_per_task * horizon < 2:
            raise UserError(
                "a task's experience of 1 step has no spread to compare it with; raise "
                "agent.episodes_per_step"
            )
        if shape.rollouts < 2:
            twice = 2 * shape.slots_per_task
            raise UserError(
                f"a trial of {shape.total_episodes} episodes leaves no inner step; use "
                f"train.episodes_per_trial {twice} or more"
            )
        check_meta_batch(num_tasks, num_classes)


def check_meta_batch(num_tasks: int, num_classes: int) -> None:
    """Checks that each class of tasks has the same weight in every meta-gradient.

    Raises:
        UserError: the classes do not divide the tasks.
    """
    if num_tasks % num_classes:
        fits = max(1, round(num_tasks / num_classes)) * num_classes
        raise UserError(
            f"train.tasks_per_trial {num_tasks} is no multiple of the {num_classes} task classes; "
            f"use {fits}"
        )


class InnerLoop(nn.Module):
    """A policy that adapts to tasks by gradient steps on what it experienced.

    Its adaptation state is one set of parameters per task, `G P`.

    Args:
        surrogate: what a gradient step ascends: `log_prob`, REINFORCE's log π · A, or `ratio`,
            π / π_acting · A, whose Hessian has less variance (Rothfuss et al. 2019,
            arXiv:1810.06784, eq. 11). Their gradients are the same at the policy that acted.
    """

    step_size: Tensor

    def __init__(
        self,
        config: InnerLoopConfig,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        surrogate: Literal["log_prob", "ratio"],
    ) -> None:
        super().__init__()
        self.config = config
        self.surrogate = surrogate
        self.policy = MLPPolicy(
            observation_space,
            action_space,
            hidden_sizes=config.hidden_sizes,
            initial_std=config.initial_std,
            min_std=config.min_std,
            learn_std=config.learn_std,
        )
        obs_size = int(observation_space.shape[0])
        self.normalizer = RunningNormalizer(obs_size) if config.normalize_obs else None
        self._adapted = {n: p for n, p in self.policy.named_parameters() if p.requires_grad}
        rate = torch.full((len(self.start()),), config.inner_learning_rate)
        if config.learn_inner_learning_rate:
            self.step_size = nn.Parameter(rate)
        else:
            self.register_buffer("step_size", rate)

    # -- parameters --------------------------------------------------------------------------------

    def start(self) -> Float[Tensor, " P"]:
        """Where adaptation starts: the policy's parameters in a row."""
        return parameters_to_vector(self._adapted.values()).detach()

    def learned(self) -> list[nn.Parameter]:
        """What the outer loop learns: the starting point, then the step sizes if they are."""
        step_sizes = [self.step_size] if isinstance(self.step_size, nn.Parameter) else []
        return [*self._adapted.values(), *step_sizes]

    def meta_parameters(self) -> Float[Tensor, " D"]:
        """All that is learned, in a row."""
        return parameters_to_vector(self.learned()).detach()

    def set_meta_parameters(self, meta: Float[Tensor, " D"]) -> None:
        """Takes over what `meta_parameters` gave, or an improvement of it."""
        vector_to_parameters(meta.clone(), self.learned())  # they become views of it

    def set_gradient(self, gradient: Float[Tensor, " D"]) -> None:
        """What an optimizer of the learned parameters steps along."""
        parameters = self.learned()
        parts = gradient.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def _named(self, parameters: Float[Tensor, " P"]) -> dict[str, Tensor]:
        parts = parameters.split([p.numel() for p in self._adapted.values()])
        named = zip(self._adapted.items(), parts, strict=True)
        return {name: part.view(original.shape) for (name, original), part in named}

    # -- acting and adapting -----------------------------------------------------------------------

    def distribution(
        self, parameters: Float[Tensor, "G P"], obs: Float[Tensor, "G M O"]
    ) -> ActionDistribution:
        """What each task's policy does at its M observations."""

        def forward(parameters: Tensor, obs: Tensor) -> tuple[Tensor, ...]:
            return functional_call(self.policy, self._named(parameters), (obs,))

        return self.policy.distribution(*vmap(forward)(parameters, obs))

    def begin_trial(self, num_slots: int) -> Float[Tensor, "G P"]:
        """The starting point, for each task."""
        start, num_tasks = self.start(), num_slots // self.config.episodes_per_step
        check_memory(
            start.nbytes * num_tasks, f"{len(start):,} parameters of each of {num_tasks:,} tasks"
        )
        return start.repeat(num_tasks, 1)

    @torch.no_grad()
    def act(
        self,
        state: Float[Tensor, "G P"],
        step: TimeStep,
        *,
        generator: torch.Generator | None,
    ) -> tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"], Float[Tensor, "G P"]]:
        """Actions by each task's own parameters, and their log-probabilities.

        The slots are those of `G` tasks side by side, however many each has.
        """
        policy = self.distribution(state, self._seen(step).unflatten(0, (len(state), -1)))
        action = policy.mode() if generator is None else policy.sample(generator)
        return action.flatten(0, 1), policy.log_prob(action).flatten(0, 1), state

    def adapt(self, state: Float[Tensor, "G P"], rollout: Rollout) -> Float[Tensor, "G P"]:
        """One gradient step on each task; no graph is kept.

        Raises:
            NotFiniteError: a task's step leads nowhere; names the task.
        """
        experience, _ = self.experience(rollout)
        size = self.chunk_size(experience)
        parts = zip(state.detach().split(size), experience.split(size), strict=True)
        gradients = [
            self.gradient(parameters.requires_grad_(), part, create_graph=False)
            for parameters, part in parts
        ]
        adapted = state - self.step_size.detach() * torch.cat(gradients)
        check_finite("the inner gradient", adapted)
        return adapted

    # -- learning ----------------------------------------------------------------------------------

    def experience(self, rollout: Rollout) -> tuple[Experience, float]:
        """A rollout as gradients need it, and the share of returns that the baseline explains.

        The baseline is fitted to each task by itself; nothing follows an episode's last step.

        Raises:
            NotFiniteError: an advantage is not; names the task.
        """
        config = self.config
        nothing_after = torch.zeros_like(rollout.reward[:, 0])
        returns = discounted_returns(
            rollout.reward,
            cut=rollout.episode_end,
            discount=config.discount,
            last_value=nothing_after,
        )
        steps = torch.arange(returns.shape[1], device=returns.device)
        time = steps.to(returns.dtype).expand_as(returns)
        value = linear_baseline(
            self._rows(rollout.seen.obs), self._rows(time), self._rows(returns)
        ).view_as(returns)
        advantage = self._rows(
            gae(
                rollout.reward,
                value,
                cut=rollout.episode_end,
                discount=config.discount,
                gae_lambda=config.gae_lambda,
                last_value=nothing_after,
            )
        )
        spread = advantage.std(1, keepdim=True) + 1e-8
        experience = Experience(
            obs=self._rows(self._seen(rollout.seen)),
            action=self._rows(rollout.action),
            log_prob=self._rows(rollout.log_prob),
            advantage=(advantage - advantage.mean(1, keepdim=True)) / spread,
        )
        check_finite("the advantage", experience.advantage)
        explained = float(1 - (returns - value).var() / returns.var().clamp(min=1e-12))
        return experience, explained

    def chunks(self, trial: Sequence[Rollout]) -> tuple[list[Chunk], float]:
        """A trial as an update needs it, and the share of returns that the baselines explain."""
        experiences, explained = zip(*(self.experience(rollout) for rollout in trial), strict=True)
        size = self.chunk_size(experiences[0])
        return Chunk.of(experiences, size), sum(explained) / len(explained)

    def gradient(
        self, parameters: Float[Tensor, "G P"], experience: Experience, *, create_graph: bool
    ) -> Float[Tensor, "G P"]:
        """Of each task's inner loss, the negative surrogate, a mean over the task's own steps."""
        log_prob = self.distribution(parameters, experience.obs).log_prob(experience.action)
        weight = log_prob if self.surrogate == "log_prob" else ratio(log_prob, experience)
        losses = -(weight * experience.advantage).mean(1)
        # the sum over tasks is no mean: a task's parameters are in its own loss only
        (gradient,) = torch.autograd.grad(losses.sum(), parameters, create_graph=create_graph)
        return gradient

    def unroll(
        self,
        meta: Float[Tensor, " D"],
        support: Sequence[Experience],
        *,
        num_tasks: int,
        differentiable: bool = True,
    ) -> Unrolled:
        """A gradient step on each of `support`, one after the other, from the starting point."""
        size = sum(p.numel() for p in self._adapted.values())
        learned = self.config.learn_inner_learning_rate
        step_size = meta[size:] if learned else self.step_size
        parameters = meta[:size].repeat(num_tasks, 1)
        starts, gradients = [], []
        for experience in support:
            starts.append(parameters.requires_grad_())
            create_graph = differentiable and not self.config.first_order
            gradients.append(self.gradient(parameters, experience, create_graph=create_graph))
            parameters = (parameters - step_size * gradients[-1]).detach()
        return Unrolled(
            adapted=parameters,
            starts=starts,
            gradients=gradients,
            step_size=step_size,
            learned_step_size=learned,
            first_order=self.config.first_order,
        )

    def unroll_chunk(
        self, meta: Float[Tensor, " D"], chunk: Chunk, *, differentiable: bool = True
    ) -> Unrolled:
        """The gradient steps of a chunk's tasks.

        Raises:
            NotFiniteError: the parameters that they lead to are not; names the task.
        """
        unrolled = self.unroll(
            meta, chunk.support, num_tasks=chunk.num_tasks, differentiable=differentiable
        )
        check_finite("the inner gradient", unrolled.adapted, first_task=chunk.first_task)
        return unrolled

    def metrics(self) -> dict[str, float]:
        """What is worth logging of the policy and the steps."""
        metrics = {"inner_learning_rate": float(self.step_size.detach().mean())}
        if not self.policy.discrete:
            log_std = self.policy.log_std.detach().clamp(min=self.policy.min_log_std)
            metrics["std"] = float(log_std.exp().mean())
        return metrics

    def update_normalizer(self, trial: Sequence[Rollout]) -> None:
        """Takes in what was seen, where observations are normalized; the policies that played the
        trial are no longer the same afterwards."""
        if self.normalizer is not None:
            for rollout in trial:
                self.normalizer.update(rollout.seen.obs)

    def chunk_size(self, experience: Experience) -> int:
        """How many tasks to work on at once."""
        per_task = experience.advantage.shape[1] * max(self.config.hidden_sizes, default=1)
        return max(1, CHUNK_ELEMENTS[experience.obs.device.type] // per_task)

    def _seen(self, step: TimeStep) -> Float[Tensor, "*batch O"]:
        """Observations as the policy sees them."""
        return step.obs if self.normalizer is None else self.normalizer(step.obs)

    def _by_task(self, values: Shaped[Tensor, " N *F"]) -> Shaped[Tensor, " G K *F"]:
        return values.unflatten(0, (-1, self.config.episodes_per_step))

    def _rows(self, values: Shaped[Tensor, "N T *F"]) -> Shaped[Tensor, "G M *F"]:
        return self._by_task(values).flatten(1, 2)
