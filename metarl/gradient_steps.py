"""Gradient steps that can be differentiated through, for any `nn.Module`.

    def loss(parameters):
        return F.mse_loss(functional_call(network, parameters, (x,)), y)

    adapted = adapt(dict(network.named_parameters()), [loss] * 5, SGD(learning_rate=0.1))
    F.mse_loss(functional_call(network, adapted.parameters, (query_x,)), query_y).backward()

Nothing is patched and nothing is changed in place: parameters are a dictionary of tensors, and a
step makes a new one. Many tasks at once are the same with tensors that have the task as first axis:
`for_each_task` copies the parameters, `on_each_task` vectorises the module, and a loss gives one
number per task. A module may hold no state that its `forward` changes (a BatchNorm with
`track_running_stats=False` does not).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

Parameters = dict[str, Tensor]
"""A module's parameters by name; of N tasks, each with a leading axis N."""
Rate = float | Mapping[str, Tensor]
"""A step size: one for all, or for each parameter a tensor that broadcasts to it (learned ones)."""


@runtime_checkable
class InnerOptimizer(Protocol):
    """What makes new parameters of old ones and their gradients; `state` is all it remembers."""

    def start(self, parameters: Parameters) -> Any:
        """The state before the first step."""
        ...

    def step(
        self, parameters: Parameters, gradients: Parameters, state: Any
    ) -> tuple[Parameters, Any]:
        """The parameters after a step, and the next state. Changes none of its arguments."""
        ...


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Gradient descent, as `torch.optim.SGD`."""

    learning_rate: Rate
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def start(self, parameters: Parameters) -> Parameters:
        """No velocity yet: the first gradient is the first velocity."""
        return {}

    def step(
        self, parameters: Parameters, gradients: Parameters, state: Parameters
    ) -> tuple[Parameters, Parameters]:
        """θ − α v, with the velocity v = momentum · v + g."""
        moved, velocity = {}, {}
        for name, p in parameters.items():
            g = gradients[name] + self.weight_decay * p if self.weight_decay else gradients[name]
            v = g
            if self.momentum:
                v = velocity[name] = self.momentum * state[name] + g if state else g
            direction = g + self.momentum * v if self.nesterov else v
            moved[name] = p - _rate(self.learning_rate, name) * direction
        return moved, velocity


@dataclass(frozen=True)
class AdamState:
    """How many steps were taken, and the moments of the gradients so far."""

    steps: int
    mean: Parameters
    square: Parameters


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1), as `torch.optim.Adam`."""

    learning_rate: Rate
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def start(self, parameters: Parameters) -> AdamState:
        """Moments of zero."""
        zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
        return AdamState(0, zeros, zeros)

    def step(
        self, parameters: Parameters, gradients: Parameters, state: AdamState
    ) -> tuple[Parameters, AdamState]:
        """θ − α m̂ / (√v̂ + ε)."""
        beta1, beta2 = self.betas
        steps = state.steps + 1
        moved, mean, square = {}, {}, {}
        for name, p in parameters.items():
            g = gradients[name] + self.weight_decay * p if self.weight_decay else gradients[name]
            mean[name] = beta1 * state.mean[name] + (1 - beta1) * g
            square[name] = beta2 * state.square[name] + (1 - beta2) * g * g
            direction = mean[name] / (1 - beta1**steps)
            spread = _root(square[name] / (1 - beta2**steps)) + self.eps
            moved[name] = p - _rate(self.learning_rate, name) * direction / spread
        return moved, AdamState(steps, mean, square)


def _rate(rate: Rate, name: str) -> float | Tensor:
    return rate[name] if isinstance(rate, Mapping) else rate


def _root(square: Tensor) -> Tensor:
    """√v with slope 0 at 0, where units that never were active would give NaN."""
    positive = square > 0
    return torch.where(positive, square, 1).sqrt() * positive


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """Where gradient steps led."""

    trajectory: list[Parameters]
    """Before the first step, after it, … after the last: a loss on each makes per-step losses."""
    losses: list[Float[Tensor, "*N"]]
    """What each step descended, where it began."""

    @property
    def parameters(self) -> Parameters:
        """After the last step."""
        return self.trajectory[-1]


def adapt(
    parameters: Mapping[str, Tensor],
    losses: Sequence[Callable[[Parameters], Float[Tensor, "*N"]]],
    optimizer: InnerOptimizer,
    *,
    first_order: bool = False,
    differentiable: bool = True,
) -> Adapted:
    """A gradient step along each of `losses`, as functions of the parameters.

    Args:
        parameters: where to start: those of one task, or of N tasks with a leading axis N.
        losses: what each step descends: the same again and again, or a minibatch each. Gives a
            scalar, or the losses of N tasks, each of which depends on its own parameters only.
        optimizer: makes the steps; `SGD`, `Adam`, or one of yours.
        first_order: take the gradients as constants, so that derivatives pass straight through a
            step (FOMAML).
        differentiable: keep the graph, so that what is computed of the result can be differentiated
            with respect to the start (and to learned step sizes). Without it memory does not grow.
    """
    keep = differentiable and not first_order
    here = dict(parameters)
    trajectory, values, state = [here], [], optimizer.start(here)
    for loss in losses:
        at = {
            name: p if keep and p.requires_grad else p.detach().requires_grad_()
            for name, p in here.items()
        }
        with torch.enable_grad():
            value = loss(at)
            # A sum over tasks and no mean: a task's parameters are in its own loss only, so each
            # gets the gradient that it would have got alone, however many there are.
            slopes = torch.autograd.grad(value.sum(), list(at.values()), create_graph=keep)
        gradients = dict(zip(at, slopes, strict=True))
        with torch.set_grad_enabled(differentiable):
            here, state = optimizer.step(here, gradients, state)
        trajectory.append(here)
        values.append(value if keep else value.detach())
    return Adapted(trajectory=trajectory, losses=values)


def for_each_task(parameters: Mapping[str, Tensor], num_tasks: int) -> Parameters:
    """The same parameters for each of N tasks, without copying them."""
    return {name: p.expand(num_tasks, *p.shape) for name, p in parameters.items()}


def on_each_task(module: nn.Module, *, shared: bool = False) -> Callable[..., Tensor]:
    """The module as a function of parameters and inputs that both have a leading axis of tasks.

    Args:
        module: what is called.
        shared: the parameters are those of the module for every task, and have no such axis.
    """

    def call(parameters: Parameters, *inputs: Any) -> Tensor:
        return functional_call(module, parameters, inputs)

    def batched(parameters: Parameters, *inputs: Any) -> Tensor:
        axes = (None if shared else 0, *(None if x is None else 0 for x in inputs))
        return vmap(call, in_dims=axes)(parameters, *inputs)

    return batched
