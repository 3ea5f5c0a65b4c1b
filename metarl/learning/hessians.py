"""Hessians of policies' losses by explicit formulas, for many products at one point.

Autograd differentiates any network twice; this is for large networks of tanh layers. Nothing is
computed anew that does not depend on the vector, the matrix products may have 16-bit inputs, and
the Hessian of a loss without gradient needs two thirds of the products.

For layers z = x Wᵀ + b, h = tanh z, with R for a change along the vector (Pearlmutter 1994, "Fast
exact multiplication by the Hessian"), and with the loss's gradients δ along z and e along h:

    forward     R z = x R Wᵀ + R x Wᵀ + R b           R h = (1 − h²) R z
    backward    R δ = (1 − h²) R e − 2 h e R h        R e of the layer below = R δ W + δ R W
    products    R δᵀ x + δᵀ R x for the weights, the sum of R δ for the biases
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from metarl.nn.distributions import ActionDistribution
from metarl.nn.task_policies import Layer, TaskPolicies

PolicyLosses = Callable[[ActionDistribution], Float[Tensor, " G"]]
"""The loss of each task as a function of its policy."""


class LossHessian:
    """The Hessian of each task's loss along the parameters of its own policy, at one point.

    Inputs and results of the large matrix products are in `dtype`; activations are kept in it. The
    losses as functions of the policies' outputs are differentiated by autograd, in full precision.
    """

    def __init__(
        self,
        policies: TaskPolicies,
        parameters: Float[Tensor, "G P"],
        obs: Float[Tensor, "G M O"],
        losses: PolicyLosses,
        *,
        dtype: torch.dtype,
        stationary: bool = False,
    ) -> None:
        """Computes and keeps what all products share.

        Args:
            policies: gives the shape of the networks.
            parameters: the point.
            obs: the observations that the losses take the policies at.
            losses: the losses.
            dtype: precision of the matrix products.
            stationary: the losses have no gradient along the policies' outputs at this point.
        """
        self._policies = policies
        parts = [policies.parts(row) for row in parameters.detach()]
        self._networks = [
            _TanhNetwork(layers, x, dtype=dtype) for (layers, _), x in zip(parts, obs, strict=True)
        ]
        outputs = torch.stack([network.outputs for network in self._networks])
        log_std = [log_std for _, log_std in parts if log_std is not None]
        self._at = [outputs, *([torch.stack(log_std)[:, None]] if log_std else [])]
        with torch.enable_grad():
            policy = policies.policy.distribution_at(*(x.requires_grad_() for x in self._at))
            self._slopes = torch.autograd.grad(losses(policy).sum(), self._at, create_graph=True)
        if not stationary:
            for network, slopes in zip(self._networks, self._slopes[0].detach(), strict=True):
                network.set_slopes(slopes)

    @torch.no_grad()
    def product(self, vector: Float[Tensor, "G P"]) -> Float[Tensor, "G P"]:
        """The product of each task's Hessian and its row."""
        parts = [self._policies.parts(row) for row in vector]
        moves = [
            network.push(layers) for network, (layers, _) in zip(self._networks, parts, strict=True)
        ]
        log_std = [log_std for _, log_std in parts if log_std is not None]
        along = [
            torch.stack([move.outputs for move in moves]).to(vector.dtype),
            *([torch.stack(log_std)[:, None]] if log_std else []),
        ]
        slopes = torch.autograd.grad(self._slopes, self._at, along, retain_graph=True)
        products = [
            network.pull(slope, move)
            for network, slope, move in zip(self._networks, slopes[0], moves, strict=True)
        ]
        log_stds = slopes[1][:, 0] if log_std else [None] * len(parts)
        return torch.stack(
            [self._policies.row(*both) for both in zip(products, log_stds, strict=True)]
        )


class _Moves(NamedTuple):
    """Changes along a vector."""

    layers: Sequence[Layer]
    """The vector: changes of the parameters."""
    hidden: list[Float[Tensor, "M _"]]
    """Changes of the activations of each hidden layer."""
    outputs: Float[Tensor, "M A"]


class _TanhNetwork:
    """A network at fixed parameters and inputs, and a loss's gradients along its layers."""

    def __init__(
        self, layers: Sequence[Layer], inputs: Float[Tensor, "M O"], *, dtype: torch.dtype
    ) -> None:
        self._weights = [weight.to(dtype) for weight, _ in layers]
        self._inputs = [inputs.to(dtype)]
        """Inputs of each layer: x."""
        self._rates: list[Float[Tensor, "M _"]] = []
        """Derivatives of each hidden layer's tanh: 1 − h²."""
        self._slopes: list[Float[Tensor, "M _"]] = []
        """Gradients along the result of each layer's product: δ. Empty if the loss has none."""
        self._bends: list[Float[Tensor, "M _"]] = []
        """Rate of change of δ with the activation of each hidden layer: −2 h e."""
        for weight, (_, bias) in zip(self._weights[:-1], layers[:-1], strict=True):
            hidden = torch.tanh(self._inputs[-1] @ weight.T + bias)
            self._inputs.append(hidden.to(dtype))
            self._rates.append((1 - hidden * hidden).to(dtype))
        self.outputs = self._inputs[-1] @ self._weights[-1].T + layers[-1][1]

    def set_slopes(self, slopes: Float[Tensor, "M A"]) -> None:
        """Sets the loss's gradient along the outputs, which is 0 otherwise."""
        self._slopes = [slopes.to(self._weights[0].dtype)]
        below = zip(self._weights[1:], self._inputs[1:], self._rates, strict=True)
        for weight, hidden, rate in reversed(list(below)):
            along_hidden = self._slopes[0] @ weight
            self._bends.insert(0, -2 * hidden * along_hidden)
            self._slopes.insert(0, rate * along_hidden)

    def push(self, layers: Sequence[Layer]) -> _Moves:
        """The changes along a change of the parameters."""
        dtype, moves = self._weights[0].dtype, []
        layers = [(weight.to(dtype), bias.to(dtype)) for weight, bias in layers]
        for n, (weight, bias) in enumerate(layers):
            move = functional.linear(self._inputs[n], weight, bias)
            if n > 0:
                move.addmm_(moves[-1], self._weights[n].T)
            moves.append(move.mul_(self._rates[n]) if n < len(self._rates) else move)
        return _Moves(layers, moves[:-1], moves[-1])

    def pull(self, slopes: Float[Tensor, "M A"], moves: _Moves) -> list[Layer]:
        """The change of the loss's gradient along the parameters.

        Args:
            slopes: change of the loss's gradient along the outputs.
            moves: the other changes.
        """
        full, dtype = slopes.dtype, self._weights[0].dtype
        slopes, products = slopes.to(dtype), []
        ones = slopes.new_ones(1, len(slopes))
        for n in reversed(range(len(self._weights))):
            product = (slopes.T @ self._inputs[n]).to(full)
            if n > 0 and self._slopes:
                product += self._slopes[n].T @ moves.hidden[n - 1]
            products.insert(0, (product, (ones @ slopes)[0].to(full)))  # faster than sum
            if n > 0:
                slopes = slopes @ self._weights[n]
                if self._slopes:
                    slopes.addmm_(self._slopes[n], moves.layers[n][0])
                slopes.mul_(self._rates[n - 1])
                if self._slopes:
                    slopes.addcmul_(self._bends[n - 1], moves.hidden[n - 1])
        return products
