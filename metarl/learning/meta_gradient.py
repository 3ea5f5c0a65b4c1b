"""Derivatives through gradient steps from a common starting point.

A gradient step on one task, φ = θ − α ∘ ∇L(θ), has the Jacobian I − diag(α) H with the symmetric
Hessian H of L. So derivatives through a chain of steps take nothing but Hessian-vector products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Unrolled:
    """Gradient steps from a common starting point on G tasks, ready for derivatives.

    The meta-parameters are one vector: the starting point (P), and after it the step sizes (P) if
    they are learned.
    """

    adapted: Float[Tensor, "G P"]
    starts: list[Float[Tensor, "G P"]]
    """Where each step began."""
    gradients: list[Float[Tensor, "G P"]]
    """Of the inner loss in `starts`, with their graphs."""
    step_size: Float[Tensor, " P"]
    learned_step_size: bool
    first_order: bool

    def push(self, direction: Float[Tensor, " D"]) -> Float[Tensor, "G P"]:
        """How the adapted parameters of each task move when the meta-parameters do: J v."""
        size = self.adapted.shape[1]
        move = direction[:size].expand_as(self.adapted)
        for start, gradient in zip(self.starts, self.gradients, strict=True):
            if not self.first_order:
                move = move - self.step_size * hessian_product(gradient, start, move)
            if self.learned_step_size:
                move = move - direction[size:] * gradient.detach()
        return move

    def pull(
        self,
        slopes: Float[Tensor, "G P"],
        at_starts: Sequence[Float[Tensor, "G P"]] | None = None,
    ) -> Float[Tensor, " D"]:
        """Slopes along each task's adapted parameters, and along those in `starts` where given, as
        slopes along the meta-parameters: Jᵀ s, summed over tasks."""
        step_size_slope = torch.zeros_like(self.step_size)
        for n in reversed(range(len(self.starts))):
            start, gradient = self.starts[n], self.gradients[n]
            step_size_slope = step_size_slope - (gradient.detach() * slopes).sum(0)
            if not self.first_order:
                slopes = slopes - hessian_product(gradient, start, self.step_size * slopes)
            if at_starts is not None:
                slopes = slopes + at_starts[n]
        start_slope = slopes.sum(0)
        if self.learned_step_size:
            return torch.cat([start_slope, step_size_slope])
        return start_slope


def hessian_product(
    gradient: Float[Tensor, "G P"], point: Float[Tensor, "G P"], vector: Float[Tensor, "G P"]
) -> Float[Tensor, "G P"]:
    """H v for each row, where `gradient` is that of a scalar of each row of `point`."""
    (product,) = torch.autograd.grad(gradient, point, vector, retain_graph=True)
    return product
