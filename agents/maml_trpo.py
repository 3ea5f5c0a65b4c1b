"""MAML-TRPO: a starting point from which few policy-gradient steps fit a policy to a task.

Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
arXiv:1703.03400, algorithm 3, with TRPO (Schulman et al. 2015, arXiv:1502.05477) as outer learner.
The tasks' policies after adaptation are functions of the common starting point; TRPO moves that
point so that they earn more, while none of them moves further than a trust region allows.

    act          by the task's own parameters φ, which start at θ; its episodes run side by side
    adapt        φ ← φ − α ∘ ∇ inner_loss(φ) on the episodes that were just played; act; adapt; …
    objective    `surrogate` on the last episodes, a mean over tasks, as a function of θ through all
                 gradient steps; `mean_kl` of the adapted policies, a mean over tasks, ≤ `max_kl`
    update       θ along the natural gradient (`conjugate_gradient` on `KLCurvature`), as far as
                 `line_search` finds that the surrogate rises and the KL holds
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from metarl.config import Positive, Size
from metarl.errors import NotFiniteError, UserError
from metarl.learning import optim
from metarl.learning.adaptation import AdaptationConfig, check_meta_batch
from metarl.learning.inner_loop import InnerLoop, Unrolled, hessian_product
from metarl.learning.task_batch import Chunk, Experience, experience_of, ratio
from metarl.nn.distributions import ActionDistribution, kl_divergence
from metarl.types import Rollout, TimeStep, TrialShape


class MAMLTRPOConfig(AdaptationConfig):
    """MAML-TRPO. Defaults are those of the Meta-World baselines where not said otherwise."""

    kind: Literal["maml_trpo"] = "maml_trpo"

    adapt_in_training: bool = True
    """Learn a starting point for adaptation. If not, one policy is trained on all tasks, and
    gradient steps are taken at test time only: the baseline that meta-learning has to beat."""

    max_kl: Positive = 0.01
    """Trust region: mean KL of the adapted policies to those that acted, in nats."""
    cg_iterations: Size = 10
    """Conjugate-gradient steps towards the natural gradient."""
    cg_damping: Annotated[float, Field(ge=0)] = 0.01
    """Added to the diagonal of the KL's Hessian. Published: 1e-5, which on small batches lets the
    natural gradient run off along directions that no data speaks of."""
    curvature_stride: Size = 1
    """Every so many steps of experience go into that Hessian (TRPO's appendix C). It decides the
    direction, and how long a step is tried first; gradient, surrogate, KL and so what is accepted
    are of all steps."""
    line_search_steps: Size = 15
    """Step lengths that are tried."""
    line_search_shrink: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Each is so much of the one before."""

    def build(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> MAMLTRPO:
        """A new agent."""
        return MAMLTRPO(self, observation_space, action_space, seed=seed, device=device)

    def trial_shape(self, episodes: int, *, training: bool = False) -> TrialShape:
        """A rollout before each gradient step, and one after all of them; a single rollout where
        training takes no gradient step.

        Raises:
            UserError: `episodes` is no multiple of `episodes_per_step`.
        """
        shape = super().trial_shape(episodes)
        if training and not self.adapt_in_training:
            return TrialShape(slots_per_task=shape.slots_per_task)
        return shape

    def check_training(
        self, shape: TrialShape, *, horizon: int, num_tasks: int, num_classes: int
    ) -> None:
        """Checks that trials of this shape can be learned from.

        Raises:
            UserError: they leave no gradient step, classes would have unequal weight, or the
                stride skips whole episodes.
        """
        if self.curvature_stride >= max(horizon, 2):
            raise UserError(
                f"agent.curvature_stride {self.curvature_stride} must be below the horizon "
                f"{horizon}"
            )
        if self.adapt_in_training:
            super().check_training(
                shape, horizon=horizon, num_tasks=num_tasks, num_classes=num_classes
            )
        else:
            check_meta_batch(num_tasks, num_classes)


# -- losses ----------------------------------------------------------------------------------------


def inner_loss(policy: ActionDistribution, experience: Experience) -> Float[Tensor, " G"]:
    """REINFORCE's loss −log π(a|s) · A of each task, a mean over the task's own steps: adaptation
    is one step of policy gradient along it (Finn et al. 2017, eq. 4 and algorithm 3, line 6)."""
    return -(policy.log_prob(experience.action) * experience.advantage).mean(1)


def surrogate(policy: ActionDistribution, query: Experience) -> Float[Tensor, " G"]:
    """TRPO's surrogate π(a|s) / π_acted(a|s) · A of each task, a mean over its steps: what a policy
    earns more than the one that acted, by importance sampling (Schulman et al. 2015, eq. 14)."""
    return (ratio(policy, query) * query.advantage).mean(1)


def mean_kl(old: ActionDistribution, new: ActionDistribution) -> Float[Tensor, " G"]:
    """KL(old ‖ new) of each task's policies, a mean over the states that were seen (Schulman et al.
    2015, eq. 12), in nats."""
    return kl_divergence(old, new).mean(1)


# -- TRPO's step -----------------------------------------------------------------------------------


class KLCurvature:
    """The Hessian of the mean KL of adapted policies to themselves, on the experience in `chunks`.

    Where a policy stands the KL to it has no slope. So its Hessian along the meta-parameters is
    Jᵀ F J, with the Jacobian J of adaptation and the Hessian F along the adapted parameters, and
    nothing is lost by leaving out the second derivatives of adaptation: the product is exact.
    """

    def __init__(
        self,
        inner_loop: InnerLoop,
        meta: Float[Tensor, " D"],
        chunks: Sequence[Chunk],
        *,
        damping: float,
    ) -> None:
        self._damping = damping
        self._num_tasks = sum(chunk.num_tasks for chunk in chunks)
        self._unrolled: list[Unrolled] = []
        self._slopes: list[Float[Tensor, "G P"]] = []
        for chunk in chunks:
            unrolled = inner_loop.unroll(meta, chunk)
            adapted = unrolled.adapted.requires_grad_()
            policy = inner_loop.policies.distribution(adapted, chunk.query.obs)
            kl = mean_kl(policy.detach(), policy).sum()
            (slopes,) = torch.autograd.grad(kl, adapted, create_graph=True)
            self._unrolled.append(unrolled)
            self._slopes.append(slopes)

    def product(self, vector: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """The Hessian, and the damping on its diagonal, times a vector."""
        total = torch.zeros_like(vector)
        for unrolled, slopes in zip(self._unrolled, self._slopes, strict=True):
            moved = hessian_product(slopes, unrolled.adapted, unrolled.push(vector))
            total += unrolled.pull(moved)
        return total / self._num_tasks + self._damping * vector


def conjugate_gradient(
    product: Callable[[Float[Tensor, " D"]], Float[Tensor, " D"]],
    target: Float[Tensor, " D"],
    *,
    iterations: int,
    tolerance: float = 1e-10,
) -> Float[Tensor, " D"]:
    """x with Ax ≈ target, for a symmetric positive definite A (Hestenes and Stiefel 1952).

    Of the KL's Hessian A and the gradient it makes the natural gradient (Schulman et al. 2015,
    appendix C).

    Args:
        product: v ↦ Av.
        iterations: at most so many.
        tolerance: of the squared norm of the residual, at which it stops early.
    """
    solution = torch.zeros_like(target)
    residual = direction = target
    squared_norm = residual @ residual
    for _ in range(iterations):
        if squared_norm < tolerance:
            break
        image = product(direction)
        step = squared_norm / (direction @ image)
        solution = solution + step * direction
        residual = residual - step * image
        previous, squared_norm = squared_norm, residual @ residual
        direction = residual + squared_norm / previous * direction
    return solution


def line_search(
    accepts: Callable[[Float[Tensor, " D"]], bool],
    start: Float[Tensor, " D"],
    step: Float[Tensor, " D"],
    *,
    shrink: float,
    max_tries: int,
) -> tuple[Float[Tensor, " D"], int, float]:
    """The first acceptable of start + step, start + shrink·step, start + shrink²·step, …

    Returns:
        The accepted point, or `start` where none is; how many were tried; the fraction of the step
        that was taken, 0 where none.
    """
    for tried in range(max_tries):
        fraction = shrink**tried
        candidate = start + fraction * step
        if accepts(candidate):
            return candidate, tried + 1, fraction
    return start, max_tries, 0.0


# -- the agent -------------------------------------------------------------------------------------


class MAMLTRPO:
    """The agent. Its adaptation state is a set of policy parameters for each task, `G P`."""

    def __init__(
        self,
        config: MAMLTRPOConfig,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config = config
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policies = config.build_policies(observation_space, action_space).to(device)
        self.inner_loop = InnerLoop(
            policies=self.policies, loss=inner_loss, first_order=config.first_order
        )

    # -- acting and adapting -----------------------------------------------------------------------

    def begin_trial(self, num_slots: int) -> Float[Tensor, "G P"]:
        """The starting point, for each task."""
        return self.policies.start_of_each(num_slots // self.config.episodes_per_step)

    def act(
        self, state: Float[Tensor, "G P"], step: TimeStep, *, generator: torch.Generator | None
    ) -> tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"], Float[Tensor, "G P"]]:
        """Actions by each task's own policy (the mode without a generator), log-probabilities."""
        action, log_prob = self.policies.act(state, step.obs, generator=generator)
        return action, log_prob, state

    def adapt(self, state: Float[Tensor, "G P"], rollout: Rollout) -> Float[Tensor, "G P"]:
        """One gradient step on each task: φ − α ∘ ∇ inner_loss(φ) (algorithm 3, line 7).

        Raises:
            NotFiniteError: a task's step leads nowhere; names the task.
        """
        experience, _ = self.experience(rollout)
        return self.inner_loop.step(state, experience)

    def experience(self, rollout: Rollout) -> tuple[Experience, float]:
        """The steps of each task with their advantages (GAE over a linear baseline of each task,
        normalised within the task), and the share of returns that the baseline explains."""
        return experience_of(
            rollout,
            obs=self.policies.scaled(rollout.seen.obs),
            slots_per_task=self.config.episodes_per_step,
            discount=self.config.discount,
            gae_lambda=self.config.gae_lambda,
        )

    # -- learning ----------------------------------------------------------------------------------

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """TRPO on the policies as they are after adaptation.

        `trial` is a rollout before each gradient step, and one after all of them.

        Raises:
            NotFiniteError: something is NaN or infinite; the parameters are as before.
        """
        del generator
        config, policies = self.config, self.policies
        experiences, explained = zip(*(self.experience(rollout) for rollout in trial), strict=True)
        chunks = Chunk.of(experiences, self.inner_loop.chunk_size(experiences[0]))
        meta = policies.meta_parameters()

        before, gradient, acted = self._surrogate_and_gradient(meta, chunks)
        curvature = KLCurvature(
            self.inner_loop, meta, [chunk.every(config.curvature_stride) for chunk in chunks],
            damping=config.cg_damping,
        )  # fmt: skip
        direction = conjugate_gradient(curvature.product, gradient, iterations=config.cg_iterations)
        squared_length = direction @ curvature.product(direction)  # twice the KL, to second order
        del curvature  # and with it the graphs
        # without any slope (no reward differs from another) there is no step either
        step = torch.sqrt(2 * config.max_kl / squared_length.clamp(min=1e-30)) * direction
        if not step.isfinite().all():
            raise NotFiniteError("the natural gradient")

        after, kl = before, 0.0

        def accepts(candidate: Float[Tensor, " D"]) -> bool:
            nonlocal after, kl
            try:
                after, kl = self._surrogate_and_kl(candidate, chunks, acted)
            except NotFiniteError:  # too far; a shorter step may do
                after, kl = math.nan, math.nan
            return after > before and kl <= config.max_kl

        meta, tried, fraction = line_search(
            accepts,
            meta,
            step,
            shrink=config.line_search_shrink,
            max_tries=config.line_search_steps,
        )
        if not math.isfinite(after) or not math.isfinite(kl):
            raise NotFiniteError("the KL or the surrogate, however short the step,")
        policies.set_meta_parameters(meta)
        for rollout in trial:
            policies.update_normalizer(rollout.seen.obs)
        return {
            "surrogate_before": before,
            "surrogate_after": after if fraction else before,
            "kl": kl if fraction else 0.0,
            "line_search_steps": tried,
            "accepted": float(fraction > 0),
            "step_fraction": fraction,
            "gradient_norm": float(gradient.norm()),
            "step_norm": fraction * float(step.norm()),
            "explained_variance": sum(explained) / len(explained),
            **policies.metrics(),
        }

    def _surrogate_and_gradient(
        self, meta: Float[Tensor, " D"], chunks: Sequence[Chunk]
    ) -> tuple[float, Float[Tensor, " D"], list[ActionDistribution]]:
        """The surrogate, its gradient through the gradient steps, and the policies that acted."""
        total, gradient, acted = 0.0, torch.zeros_like(meta), []
        for chunk in chunks:
            unrolled = self.inner_loop.unroll(meta, chunk)
            adapted = unrolled.adapted.requires_grad_()
            policy = self.policies.distribution(adapted, chunk.query.obs)
            gained = surrogate(policy, chunk.query).sum()
            (slopes,) = torch.autograd.grad(gained, adapted)
            total += float(gained.detach())
            gradient += unrolled.pull(slopes)
            acted.append(policy.detach())
        num_tasks = sum(chunk.num_tasks for chunk in chunks)
        if not gradient.isfinite().all():
            raise NotFiniteError("the meta-gradient")
        return total / num_tasks, gradient / num_tasks, acted

    def _surrogate_and_kl(
        self,
        meta: Float[Tensor, " D"],
        chunks: Sequence[Chunk],
        acted: Sequence[ActionDistribution],
    ) -> tuple[float, float]:
        """The surrogate elsewhere, and the KL of the adapted policies there to those that acted
        (nats)."""
        total, kl = 0.0, 0.0
        for chunk, old in zip(chunks, acted, strict=True):
            unrolled = self.inner_loop.unroll(meta, chunk, differentiable=False)
            with torch.no_grad():
                policy = self.policies.distribution(unrolled.adapted, chunk.query.obs)
                total += float(surrogate(policy, chunk.query).sum())
                kl += float(mean_kl(old, policy).sum())
        num_tasks = sum(chunk.num_tasks for chunk in chunks)
        return total / num_tasks, kl / num_tasks

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """The policy and the step sizes: all that a bit-exact resume needs."""
        # the prefix is that of all stored checkpoints
        return {f"inner_loop.{name}": t for name, t in self.policies.state_dict().items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Takes over what `state_dict` gave."""
        self.policies.load_state_dict(optim.section(tensors, "inner_loop."))
