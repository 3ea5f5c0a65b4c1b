"""Gradient steps on many tasks from a common starting point, and derivatives through them.

Every task has its own parameters, a row of `G P`. A step on one task, φ = θ − α ∘ ∇L(θ), has the
Jacobian I − diag(α) H with the symmetric Hessian H of the inner loss L. Derivatives through a chain
of steps therefore need only Hessian-vector products: J v (`Unrolled.push`) for curvature products
of the outer loss, and Jᵀ s (`Unrolled.pull`) for its gradient. Each step has a graph of its own,
and no third derivative of L is ever taken.

The algorithm chooses the loss: it is an argument here. docs/differentiation.md says when
`metarl.learning.gradient_steps` is the better choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.learning.hessians import LossHessian
from metarl.learning.task_batch import Experience, TaskBatch, check_finite
from metarl.nn.distributions import ActionDistribution
from metarl.nn.task_policies import TaskPolicies

BATCH_ELEMENTS = {"cpu": 2**20, "cuda": 2**28}
"""Activations of a layer in one batch: as many as fit into a CPU's caches, or as keep a whole GPU
busy. Large tasks are thus processed one at a time, small ones many at once."""

TaskLosses = Callable[[Float[Tensor, "G P"]], Float[Tensor, " G"]]
"""The loss of each task as a function of its own parameters only."""
HessianProduct = Callable[[Float[Tensor, "G P"]], Float[Tensor, "G P"]]
"""The product of the Hessian of each task's loss, at one point, and a vector."""
InnerLoss = Callable[[ActionDistribution, Experience], Float[Tensor, " G"]]
"""The loss of each task as a function of its policy at the steps of its experience."""


# -- gradient steps and their derivatives, for any loss --------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Unrolled:
    """Gradient steps from a common starting point on G tasks, ready for derivatives.

    The meta-parameters are one vector (D): the starting point (P), followed by the step sizes (P)
    if they are learned.
    """

    adapted: Float[Tensor, "G P"]
    starts: list[Float[Tensor, "G P"]]
    """The parameters before each step."""
    gradients: list[Float[Tensor, "G P"]]
    """The gradients of the inner loss at `starts`."""
    hessians: list[HessianProduct]
    """Products with the Hessians of the inner loss at `starts`."""
    step_size: Float[Tensor, " P"]
    learned_step_size: bool
    first_order: bool

    def push(self, direction: Float[Tensor, " D"]) -> Float[Tensor, "G P"]:
        """Change of each task's adapted parameters along a change of the meta-parameters: J v."""
        size = self.adapted.shape[1]
        move = direction[:size].expand_as(self.adapted)
        for hessian, gradient in zip(self.hessians, self.gradients, strict=True):
            if not self.first_order:
                move = move - self.step_size * hessian(move)
            if self.learned_step_size:
                move = move - direction[size:] * gradient.detach()
        return move

    def pull(
        self,
        slopes: Float[Tensor, "G P"],
        at_starts: Sequence[Float[Tensor, "G P"]] | None = None,
    ) -> Float[Tensor, " D"]:
        """Gradient along the meta-parameters, from gradients along each task's adapted parameters:
        Jᵀ s, summed over tasks.

        Args:
            slopes: gradients along the adapted parameters.
            at_starts: gradients along the parameters in `starts`, if the objective depends on them.
        """
        step_size_slope = torch.zeros_like(self.step_size)
        for n in reversed(range(len(self.starts))):
            step_size_slope = step_size_slope - (self.gradients[n].detach() * slopes).sum(0)
            if not self.first_order:
                slopes = slopes - self.hessians[n](self.step_size * slopes)
            if at_starts is not None:
                slopes = slopes + at_starts[n]
        start_slope = slopes.sum(0)
        if self.learned_step_size:
            return torch.cat([start_slope, step_size_slope])
        return start_slope


def unroll(
    meta: Float[Tensor, " D"],
    losses: Sequence[TaskLosses],
    *,
    num_tasks: int,
    step_size: Float[Tensor, " P"] | None,
    first_order: bool = False,
    differentiable: bool = True,
    hessians: Sequence[Callable[[Float[Tensor, "G P"]], HessianProduct]] | None = None,
) -> Unrolled:
    """Takes one gradient step on each of `losses` in turn, from the starting point.

    Args:
        meta: the starting point, followed by the step sizes if they are learned.
        losses: the loss of the first step, of the second, …
        num_tasks: G.
        step_size: step size of each parameter; None if step sizes are learned and in `meta`.
        first_order: treat gradients as constants (FOMAML).
        differentiable: keep what `push` and `pull` need.
        hessians: functions from the point to products with the Hessian of each loss; None if
            autograd differentiates the gradients.
    """
    learned = step_size is None
    size = len(meta) // 2 if learned else len(meta)
    step_size = meta[size:] if learned else step_size
    parameters = meta[:size].repeat(num_tasks, 1)
    starts, gradients, products = [], [], []
    curved = differentiable and not first_order
    for n, loss in enumerate(losses):
        starts.append(parameters.requires_grad_())
        create_graph = curved and hessians is None
        gradients.append(task_gradients(loss, parameters, create_graph=create_graph))
        if hessians and curved:
            products.append(hessians[n](parameters))
        else:
            products.append(partial(hessian_product, gradients[-1], parameters))
        parameters = (parameters - step_size * gradients[-1]).detach()
    return Unrolled(
        adapted=parameters,
        starts=starts,
        gradients=gradients,
        hessians=products,
        step_size=step_size,
        learned_step_size=learned,
        first_order=first_order,
    )


def task_gradients(
    losses: TaskLosses, parameters: Float[Tensor, "G P"], *, create_graph: bool
) -> Float[Tensor, "G P"]:
    """The gradient of each task's loss along its own parameters."""
    # The losses are summed, not averaged: a task's parameters are in its own loss only.
    total = losses(parameters).sum()
    (gradients,) = torch.autograd.grad(total, parameters, create_graph=create_graph)
    return gradients


def hessian_product(
    gradient: Float[Tensor, "G P"], point: Float[Tensor, "G P"], vector: Float[Tensor, "G P"]
) -> Float[Tensor, "G P"]:
    """H v for each row, where `gradient` is the gradient of a scalar of each row of `point`."""
    (product,) = torch.autograd.grad(gradient, point, vector, retain_graph=True)
    return product


# -- gradient steps of policies on their experience ------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InnerLoop:
    """Gradient steps of policies on their experience, in batches of tasks."""

    policies: TaskPolicies
    loss: InnerLoss
    """The loss of a gradient step: that of each task, from its own experience."""
    first_order: bool = False

    def step(
        self, parameters: Float[Tensor, "G P"], experience: Experience
    ) -> Float[Tensor, "G P"]:
        """The parameters after one step: θ − α ∘ ∇L(θ); no graph is kept.

        Raises:
            NotFiniteError: a task's new parameters are not finite; names the task.
        """
        size = self.batch_size(experience)
        parts = zip(parameters.detach().split(size), experience.split(size), strict=True)
        gradients = [
            task_gradients(self._on(part), start.requires_grad_(), create_graph=False)
            for start, part in parts
        ]
        adapted = parameters - self.policies.step_size.detach() * torch.cat(gradients)
        check_finite("the inner gradient", adapted)
        return adapted

    def unroll(
        self,
        meta: Float[Tensor, " D"],
        batch: TaskBatch,
        *,
        differentiable: bool = True,
        products: torch.dtype | None = None,
    ) -> Unrolled:
        """Takes the gradient steps of a batch's tasks on their support, from the starting point.

        Args:
            meta: the meta-parameters.
            batch: the tasks.
            differentiable: keep what derivatives through the steps need.
            products: precision of the matrix products in these derivatives, by the explicit
                formulas of `LossHessian`; None if autograd computes them.

        Raises:
            NotFiniteError: a task's adapted parameters are not finite; names the task.
        """
        unrolled = unroll(
            meta,
            [self._on(part) for part in batch.support],
            num_tasks=batch.num_tasks,
            step_size=None if self.policies.learn_step_size else self.policies.step_size,
            first_order=self.first_order,
            differentiable=differentiable,
            hessians=products and [self._hessian(part, products) for part in batch.support],
        )
        check_finite("the inner gradient", unrolled.adapted, first_task=batch.first_task)
        return unrolled

    def batch_size(self, experience: Experience) -> int:
        """The number of tasks to process at once."""
        per_task = experience.advantage.shape[1] * self.policies.widest
        return max(1, BATCH_ELEMENTS[experience.obs.device.type] // per_task)

    def _on(self, experience: Experience) -> TaskLosses:
        return partial(self._losses, experience=experience)

    def _losses(
        self, parameters: Float[Tensor, "G P"], *, experience: Experience
    ) -> Float[Tensor, " G"]:
        return self.loss(self.policies.distribution(parameters, experience.obs), experience)

    def _hessian(
        self, experience: Experience, dtype: torch.dtype
    ) -> Callable[[Float[Tensor, "G P"]], HessianProduct]:
        """Function from the point to products with the Hessian of the loss on the experience."""

        def at(parameters: Float[Tensor, "G P"]) -> HessianProduct:
            return LossHessian(
                self.policies,
                parameters,
                experience.obs,
                lambda policy: self.loss(policy, experience),
                dtype=dtype,
            ).product

        return at
