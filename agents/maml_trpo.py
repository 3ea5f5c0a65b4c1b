"""MAML-TRPO: learns a starting point from which few policy-gradient steps fit a policy to a task.

Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
arXiv:1703.03400, algorithm 3, with TRPO (Schulman et al. 2015, arXiv:1502.05477) as outer learner.
The adapted policies of the tasks are functions of the common starting point; TRPO moves that point
so that their returns rise, while their mean KL to the old ones stays within a trust region.

    act          with the task's own parameters φ, which start at θ; its episodes run in parallel
    adapt        φ ← φ − α ∘ ∇ inner_loss(φ) on the episodes that were just played; act; adapt; …
    objective    `surrogate` on the last episodes, a mean over tasks, as a function of θ through all
                 gradient steps; `mean_kl` of the adapted policies, a mean over tasks, ≤ `max_kl`
    update       θ along the natural gradient (`conjugate_gradient` on `KLCurvature`), by the first
                 step length of `line_search` that raises the surrogate within the trust region
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from metarl.config import Positive, Size
from metarl.errors import NotFiniteError, UserError
from metarl.learning import optim
from metarl.learning.adaptation import AdaptationConfig, check_meta_batch
from metarl.learning.advantages import explained_variance
from metarl.learning.hessians import LossHessian
from metarl.learning.inner_loop import HessianProduct, InnerLoop, Unrolled, hessian_product
from metarl.learning.task_batch import Baseline, Experience, TaskBatch, experience_of, ratio
from metarl.nn.distributions import ActionDistribution, kl_divergence
from metarl.system import ranks
from metarl.system.hardware import has_fast_bfloat16
from metarl.types import Rollout, TimeStep, TrialShape


class MAMLTRPOConfig(AdaptationConfig):
    """MAML-TRPO. Defaults are those of the Meta-World baselines unless stated otherwise."""

    learns_on_ranks: ClassVar[bool] = True
    """See `metarl.protocols.AgentConfig`."""

    kind: Literal["maml_trpo"] = "maml_trpo"

    adapt_in_training: bool = True
    """Learn a starting point for adaptation. If false, one policy is trained on all tasks and takes
    gradient steps in evaluation only: the baseline of meta-learning."""

    max_kl: Positive = 0.01
    """Trust region: mean KL of the adapted policies to those that acted, in nats."""
    cg_iterations: Size = 10
    """Conjugate-gradient iterations for the natural gradient."""
    cg_damping: Annotated[float, Field(ge=0)] = 0.01
    """Number added to the diagonal of the KL's Hessian. Published: 1e-5, with which small batches
    give a natural gradient that is too long in directions without data."""
    curvature_stride: Size = 1
    """Stride of the environment steps that the KL's Hessian is computed from (TRPO, appendix C). It
    affects only the direction and the first step length that is tried: gradient, surrogate and KL,
    which decide whether a step is accepted, use all steps."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Inputs of the large matrix products in second derivatives: those of the KL, and those of
    adaptation in the gradient. With `bfloat16` updates of a network of 512 x 2 units took two
    fifths of the time. Gradient steps, losses, and surrogate and KL, which decide whether a step is
    accepted, are in float32. Without effect on a GPU, and on processors without instructions for
    it."""
    line_search_steps: Size = 15
    """Maximum number of step lengths that the line search tries."""
    line_search_shrink: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Ratio of each step length to the previous one."""

    @classmethod
    def small(cls) -> MAMLTRPOConfig:
        """A config whose agent plays and learns within moments, to check a user's tasks."""
        return cls(hidden_sizes=(8,), episodes_per_step=2)

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
        """A rollout before each gradient step, and one at the end; a single rollout if training
        takes no gradient steps.

        Raises:
            UserError: `episodes` is not a multiple of `episodes_per_step`.
        """
        shape = super().trial_shape(episodes)
        if training and not self.adapt_in_training:
            return TrialShape(slots_per_task=shape.slots_per_task)
        return shape

    def check_training(
        self, shape: TrialShape, *, horizon: int, num_tasks: int, num_classes: int
    ) -> None:
        """Checks that the agent can learn from trials of this shape.

        Raises:
            UserError: a trial has no gradient step, classes would have unequal weight, or the
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
    """REINFORCE's loss −log π(a|s) · A of each task, a mean over the task's steps; adaptation takes
    a gradient step on it (Finn et al. 2017, eq. 4 and algorithm 3, line 6)."""
    return -(policy.log_prob(experience.action) * experience.advantage).mean(1)


def surrogate(policy: ActionDistribution, query: Experience) -> Float[Tensor, " G"]:
    """TRPO's surrogate π(a|s) / π_acted(a|s) · A of each task, a mean over its steps: the expected
    gain over the policy that acted, by importance sampling (Schulman et al. 2015, eq. 14)."""
    return (ratio(policy, query) * query.advantage).mean(1)


def mean_kl(old: ActionDistribution, new: ActionDistribution) -> Float[Tensor, " G"]:
    """KL(old ‖ new) in nats of each task's policies, a mean over the visited states (Schulman et
    al. 2015, eq. 12)."""
    return kl_divergence(old, new).mean(1)


def kl_from_itself(policy: ActionDistribution) -> Float[Tensor, " G"]:
    """`mean_kl` from the policy as it is, a constant, to the policy: 0, and so is its gradient."""
    return mean_kl(policy.detach(), policy)


# -- TRPO's step -----------------------------------------------------------------------------------


class KLCurvature:
    """The Hessian of the mean KL from the current adapted policies, on the experience in `batches`.

    The KL from a policy to itself has zero gradient. Its Hessian along the meta-parameters is
    therefore exactly Jᵀ F J, with the Jacobian J of adaptation and the Hessian F along the adapted
    parameters: the term with the second derivatives of adaptation vanishes. With first-order
    gradients J is taken for the identity (times what it passes on), as everywhere then.
    """

    def __init__(
        self,
        inner_loop: InnerLoop,
        meta: Float[Tensor, " D"],
        batches: Sequence[TaskBatch],
        *,
        damping: float,
        products: torch.dtype | None = None,
        unrolled: Sequence[Unrolled] = (),
    ) -> None:
        """Computes and keeps what all products with vectors share.

        Args:
            inner_loop: takes the gradient steps.
            meta: the meta-parameters.
            batches: the experience.
            damping: number added to the diagonal.
            unrolled: the gradient steps on each of `batches`, if they were taken before.
            products: precision of the matrix products, by the explicit formulas of `LossHessian`;
                None if autograd computes them.
        """
        self._damping = damping
        self._num_tasks = ranks.summed(sum(batch.num_tasks for batch in batches))
        self._unrolled = list(unrolled) or [
            inner_loop.unroll(meta, batch, products=products) for batch in batches
        ]
        self._kl = [
            self._kl_hessian(inner_loop, unrolled.adapted, batch.query, products)
            for unrolled, batch in zip(self._unrolled, batches, strict=True)
        ]

    @staticmethod
    def _kl_hessian(
        inner_loop: InnerLoop,
        adapted: Float[Tensor, "G P"],
        query: Experience,
        products: torch.dtype | None,
    ) -> HessianProduct:
        """Products with F."""
        policies = inner_loop.policies
        if products is not None:
            return LossHessian(
                policies, adapted, query.obs, kl_from_itself, dtype=products, stationary=True
            ).product
        kl = kl_from_itself(policies.distribution(adapted.requires_grad_(), query.obs)).sum()
        (slopes,) = torch.autograd.grad(kl, adapted, create_graph=True)
        return partial(hessian_product, slopes, adapted)

    def product(self, vector: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """The product of the damped Hessian and a vector."""
        total = torch.zeros_like(vector)
        for unrolled, kl in zip(self._unrolled, self._kl, strict=True):
            total += unrolled.pull(kl(unrolled.push(vector)))
        return ranks.summed(total) / self._num_tasks + self._damping * vector


def conjugate_gradient(
    product: Callable[[Float[Tensor, " D"]], Float[Tensor, " D"]],
    target: Float[Tensor, " D"],
    *,
    iterations: int,
    tolerance: float = 1e-10,
) -> Float[Tensor, " D"]:
    """Solution x of Ax ≈ target, for a symmetric positive definite A (Hestenes and Stiefel 1952).

    With the KL's Hessian as A and the gradient as target, x is the natural gradient (Schulman et
    al. 2015, appendix C).

    Args:
        product: v ↦ Av.
        target: right-hand side.
        iterations: maximum number of iterations.
        tolerance: squared norm of the residual at which the iteration stops early.
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
        The accepted point, or `start` if none is accepted; the number of points tried; the fraction
        of the step that was taken, 0 if none.
    """
    for tried in range(max_tries):
        fraction = shrink**tried
        candidate = start + fraction * step
        if accepts(candidate):
            return candidate, tried + 1, fraction
    return start, max_tries, 0.0


# -- the agent -------------------------------------------------------------------------------------


class MAMLTRPO:
    """The MAML-TRPO agent. Its adaptation state is one set of policy parameters per task, `G P`."""

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
        short = config.products == "bfloat16" and device.type == "cpu" and has_fast_bfloat16(device)
        self._products = torch.bfloat16 if short else None

    # -- acting and adapting -----------------------------------------------------------------------

    def begin_trial(self, num_slots: int) -> Float[Tensor, "G P"]:
        """The starting point, repeated for each task."""
        return self.policies.start_of_each(num_slots // self.config.episodes_per_step)

    def act(
        self, state: Float[Tensor, "G P"], step: TimeStep, *, generator: torch.Generator | None
    ) -> tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"], Float[Tensor, "G P"]]:
        """Actions of each task's own policy (the mode without a generator), log-probabilities, and
        the unchanged state."""
        action, log_prob = self.policies.act(state, step.obs, generator=generator)
        return action, log_prob, state

    def adapt(self, state: Float[Tensor, "G P"], rollout: Rollout) -> Float[Tensor, "G P"]:
        """One gradient step on each task: φ − α ∘ ∇ inner_loss(φ) (algorithm 3, line 7).

        Raises:
            NotFiniteError: a task's adapted parameters are not finite; names the task.
        """
        experience, _ = self.experience(rollout)
        return self.inner_loop.step(state, experience)

    def experience(self, rollout: Rollout) -> tuple[Experience, Baseline]:
        """The steps of each task with their advantages (GAE over a linear baseline per task,
        normalised within the task), and the returns with that baseline."""
        return experience_of(
            rollout,
            obs=self.policies.scaled(rollout.seen.obs),
            slots_per_task=self.config.episodes_per_step,
            discount=self.config.discount,
            gae_lambda=self.config.gae_lambda,
        )

    # -- learning ----------------------------------------------------------------------------------

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """One TRPO step on the adapted policies.

        `trial` has a rollout before each gradient step, and one at the end.

        Raises:
            NotFiniteError: an intermediate result is NaN or infinite; the parameters are unchanged.
        """
        del generator
        config, policies = self.config, self.policies
        experiences, baselines = zip(*(self.experience(rollout) for rollout in trial), strict=True)
        batches = TaskBatch.of(experiences, self.inner_loop.batch_size(experiences[0]))
        meta = policies.meta_parameters()

        before, gradient, acted, unrolled = self._surrogate_and_gradient(meta, batches)
        curvature = KLCurvature(
            self.inner_loop, meta, [batch.every(config.curvature_stride) for batch in batches],
            damping=config.cg_damping, products=self._products, unrolled=unrolled,
        )  # fmt: skip
        direction = conjugate_gradient(curvature.product, gradient, iterations=config.cg_iterations)
        # Twice the KL, to second order, and the damping's share.
        squared_length = direction @ curvature.product(direction)
        del curvature, unrolled  # frees the graphs
        # The clamp keeps the step 0 where the gradient is 0, e.g. if all rewards are equal.
        step = torch.sqrt(2 * config.max_kl / squared_length.clamp(min=1e-30)) * direction
        if not step.isfinite().all():
            raise NotFiniteError("the natural gradient")

        after, kl = before, 0.0

        def accepts(candidate: Float[Tensor, " D"]) -> bool:
            nonlocal after, kl
            after, kl = self._surrogate_and_kl(candidate, batches, acted)
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
            "explained_variance": sum(explained_variance(*b) for b in baselines) / len(baselines),
            **policies.metrics(),
        }

    def _surrogate_and_gradient(
        self, meta: Float[Tensor, " D"], batches: Sequence[TaskBatch]
    ) -> tuple[float, Float[Tensor, " D"], list[ActionDistribution], list[Unrolled]]:
        """The surrogate, its gradient through all gradient steps, the policies that acted, and the
        gradient steps, if the curvature is taken on the same experience."""
        total, gradient, acted, kept = 0.0, torch.zeros_like(meta), [], []
        for batch in batches:
            unrolled = self.inner_loop.unroll(meta, batch, products=self._products)
            adapted = unrolled.adapted.requires_grad_()
            policy = self.policies.distribution(adapted, batch.query.obs)
            gained = surrogate(policy, batch.query).sum()
            (slopes,) = torch.autograd.grad(gained, adapted)
            total += float(gained.detach())
            gradient += unrolled.pull(slopes)
            acted.append(policy.detach())
            if self.config.curvature_stride == 1:
                kept.append(unrolled)
        num_tasks = ranks.summed(sum(batch.num_tasks for batch in batches))
        gradient = ranks.summed(gradient)
        if not gradient.isfinite().all():
            raise NotFiniteError("the meta-gradient")
        return ranks.summed(total) / num_tasks, gradient / num_tasks, acted, kept

    def _surrogate_and_kl(
        self,
        meta: Float[Tensor, " D"],
        batches: Sequence[TaskBatch],
        acted: Sequence[ActionDistribution],
    ) -> tuple[float, float]:
        """The surrogate at `meta`, and the KL (nats) from the policies that acted to the adapted
        policies there; NaN where a step is so long that adapted parameters are not finite."""
        total, kl = 0.0, 0.0
        try:
            for batch, old in zip(batches, acted, strict=True):
                unrolled = self.inner_loop.unroll(meta, batch, differentiable=False)
                with torch.no_grad():
                    policy = self.policies.distribution(unrolled.adapted, batch.query.obs)
                    total += float(surrogate(policy, batch.query).sum())
                    kl += float(mean_kl(old, policy).sum())
        except NotFiniteError:  # a shorter step may work
            total, kl = math.nan, math.nan
        num_tasks = ranks.summed(sum(batch.num_tasks for batch in batches))
        return ranks.summed(total) / num_tasks, ranks.summed(kl) / num_tasks

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Policy, normalizer and step sizes: all that a bit-exact resume needs."""
        # Stored checkpoints have this prefix.
        return {f"inner_loop.{name}": t for name, t in self.policies.state_dict().items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.policies.load_state_dict(optim.section(tensors, "inner_loop."))
