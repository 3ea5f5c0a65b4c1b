"""Gradient steps that can be differentiated through, for any `nn.Module`.

    def loss(parameters):
        return F.mse_loss(functional_call(network, parameters, (x,)), y)

    adapted = adapt(dict(network.named_parameters()), [loss] * 5, SGD(learning_rate=0.1))
    F.mse_loss(functional_call(network, adapted.parameters, (query_x,)), query_y).backward()

The module is not patched, and nothing is changed in place: parameters are a dictionary of tensors,
and a step returns a new one. As with torch's optimizers, parameters that do not require a gradient
are frozen. For many tasks at once all tensors have the task as first axis: `for_each_task` expands
the parameters, `on_each_task` vectorises the module, and a loss returns one number per task. The
module must not change state in its `forward` (a BatchNorm with `track_running_stats=False` does
not).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metarl.errors import nearest

Parameters = dict[str, Tensor]
"""A module's parameters by name; those of N tasks have a leading axis N."""
Rate = float | Mapping[str, Tensor]
"""Step sizes: one for all parameters, or a (learned) tensor for each that broadcasts to it."""


@runtime_checkable
class InnerOptimizer(Protocol):
    """A rule that computes new parameters from old ones and their gradients.

    All its memory is in `state`. It never gets frozen parameters. With `allow_unused`, a step gets
    only the parameters that have a gradient, and must keep the state of the others.
    """

    def start(self, parameters: Parameters) -> Any:
        """The state before the first step."""
        ...

    def step(
        self, parameters: Parameters, gradients: Parameters, state: Any
    ) -> tuple[Parameters, Any]:
        """The parameters after a step, and the next state; the arguments stay unchanged."""
        ...


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Gradient descent, the same as `torch.optim.SGD`."""

    learning_rate: Rate
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def start(self, parameters: Parameters) -> Parameters:
        """An empty state: the first gradient becomes the first velocity."""
        return {}

    def step(
        self, parameters: Parameters, gradients: Parameters, state: Parameters
    ) -> tuple[Parameters, Parameters]:
        """θ − α v, with the velocity v = momentum · v + g."""
        moved, velocity = {}, dict(state)
        for name, p in parameters.items():
            g = gradients[name] + self.weight_decay * p if self.weight_decay else gradients[name]
            v = g
            if self.momentum:
                v = velocity[name] = self.momentum * state[name] + g if name in state else g
            direction = g + self.momentum * v if self.nesterov else v
            moved[name] = p - _rate(self.learning_rate, name, p) * direction
        return moved, velocity


@dataclass(frozen=True)
class AdamState:
    """Number of steps taken, and moments of the gradients."""

    steps: int
    mean: Parameters
    square: Parameters
    missed: Mapping[str, int] = field(default_factory=dict)
    """Number of steps at which a parameter had no gradient."""


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1), the same as `torch.optim.Adam`."""

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
        missed = dict(state.missed)
        for name in state.mean.keys() - parameters.keys():
            missed[name] = missed.get(name, 0) + 1
        moved, mean, square = {}, dict(state.mean), dict(state.square)
        for name, p in parameters.items():
            g = gradients[name] + self.weight_decay * p if self.weight_decay else gradients[name]
            mean[name] = beta1 * state.mean[name] + (1 - beta1) * g
            square[name] = beta2 * state.square[name] + (1 - beta2) * g * g
            steps = state.steps + 1 - missed.get(name, 0)
            direction = mean[name] / (1 - beta1**steps)
            spread = _root(square[name] / (1 - beta2**steps)) + self.eps
            moved[name] = p - _rate(self.learning_rate, name, p) * direction / spread
        return moved, AdamState(state.steps + 1, mean, square, missed)


def _rate(rate: Rate, name: str, parameter: Tensor) -> float | Tensor:
    if not isinstance(rate, Mapping):
        return rate
    if name not in rate:
        raise ValueError(
            f"learning_rate has no step size for the parameter {name}; give one for each parameter "
            f"that moves, or one number for all.{nearest(name, rate)}"
        )
    step_size, shape = torch.as_tensor(rate[name]), parameter.shape
    # Axes from the right must have size 1 or the parameter's size: else the step would change the
    # parameter's shape.
    fits = zip(reversed(step_size.shape), reversed(shape), strict=False)
    if step_size.dim() > len(shape) or any(a not in (1, b) for a, b in fits):
        raise ValueError(
            f"the step size for {name} has shape {tuple(step_size.shape)}, which does not "
            f"broadcast to the parameter's {tuple(shape)}"
        )
    return rate[name]


def _root(square: Tensor) -> Tensor:
    """√v with derivative 0 at 0, where units that were never active would give NaN."""
    positive = square > 0
    return torch.where(positive, square, 1).sqrt() * positive


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """Result of a sequence of gradient steps."""

    trajectory: list[Parameters]
    """Parameters before the first step and after each step, e.g. for a loss at every step."""
    losses: list[Float[Tensor, "*N"]]
    """Loss of each step, at the parameters before the step."""

    @property
    def parameters(self) -> Parameters:
        """The parameters after the last step."""
        return self.trajectory[-1]


def adapt(
    parameters: Mapping[str, Tensor],
    losses: Sequence[Callable[[Parameters], Float[Tensor, "*N"]]],
    optimizer: InnerOptimizer,
    *,
    first_order: bool = False,
    differentiable: bool = True,
    allow_unused: bool = False,
) -> Adapted:
    """Takes one gradient step on each of `losses`, which are functions of the parameters.

    Args:
        parameters: the starting point, of one task, or of N tasks with a leading axis N. Parameters
            that do not require a gradient are frozen: losses get them, and no step moves them.
        losses: the loss of each step, e.g. the same loss repeated, or one minibatch each. It
            returns a scalar, or the losses of N tasks, each a function of its own parameters only.
        optimizer: rule for the steps: `SGD`, `Adam`, or one of your own.
        first_order: treat the gradients as constants, so that derivatives pass through a step
            unchanged (FOMAML).
        differentiable: keep the graph, so that functions of the result can be differentiated with
            respect to the start (and to learned step sizes). Without it memory does not grow with
            the number of steps, and the result does not require gradients.
        allow_unused: accept losses that do not use every parameter. A step leaves unused parameters
            unchanged, whatever the momentum or weight decay, as torch's optimizers do.

    Raises:
        ValueError: all parameters are frozen, a loss is not one number per task, or the optimizer
            lacks a step size or returns parameters of other names or shapes.
        RuntimeError: a loss does not use the parameters.
    """
    keep = differentiable and not first_order
    here = dict(parameters)
    moving = [name for name, p in here.items() if p.requires_grad]
    if losses and not moving:
        raise ValueError(
            "no parameter requires a gradient, so none would move; call requires_grad_() on those "
            "to adapt (detach() and differentiable=False give tensors without)"
        )
    trajectory, values = [here], []
    state = optimizer.start({name: here[name] for name in moving})
    for number, loss in enumerate(losses, 1):
        at = {
            name: p if keep and p.requires_grad else p.detach().requires_grad_()
            for name, p in here.items()
            if name in moving
        }
        with torch.enable_grad():
            value = loss(here | at)
            _check_value(value, at, f"the loss of step {number}")
            # The losses are summed, not averaged: a task's parameters are in its own loss only, so
            # each task gets the same gradient as alone, however many tasks there are.
            slopes = torch.autograd.grad(
                value.sum(), list(at.values()), create_graph=keep, allow_unused=True
            )
        gradients = {name: g for name, g in zip(at, slopes, strict=True) if g is not None}
        unused = [name for name in at if name not in gradients]
        if unused and not (allow_unused and gradients):
            raise RuntimeError(_unused(unused, f"the loss of step {number}", all=not gradients))
        with torch.set_grad_enabled(differentiable):
            moved, state = optimizer.step(
                {name: here[name] for name in gradients}, gradients, state
            )
        _check_moved(moved, {name: here[name] for name in gradients})
        here = here | moved
        trajectory.append(here)
        values.append(value if keep else value.detach())
    return Adapted(trajectory=trajectory, losses=values)


def _check_value(value: object, parameters: Parameters, what: str) -> None:
    """Checks that a loss is one number, or one number per task of the parameters."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} is a {type(value).__name__}; it must be a tensor")
    if value.numel() != 1 and any(value.shape != p.shape[:1] for p in parameters.values()):
        raise ValueError(
            f"{what} has shape {tuple(value.shape)}; give a scalar, or for parameters of N tasks "
            "(leading axis N) one number for each: the mean over the task's examples"
        )
    if not value.requires_grad:
        raise RuntimeError(
            f"{what} does not depend on the parameters; compute it from those that it is given, "
            "with functional_call, and not under torch.no_grad, torch.inference_mode or detach"
        )


def _unused(names: list[str], what: str, *, all: bool) -> str:
    if all:
        return (
            f"{what} uses none of the parameters that it is given; call the network with them: "
            "functional_call(network, parameters, inputs)"
        )
    return (
        f"{what} does not use {', '.join(names)}; pass allow_unused=True to adapt, which leaves "
        "what a loss does not use where it is, or freeze it with requires_grad_(False)"
    )


def _check_moved(moved: Parameters, before: Parameters) -> None:
    """Checks that a step returned parameters of the same names and shapes."""
    if moved.keys() != before.keys():
        names = ", ".join(sorted(moved.keys() ^ before.keys()))
        raise ValueError(f"a step must return the parameters it was given; it differs in {names}")
    for name, p in moved.items():
        if p.shape != before[name].shape:
            raise ValueError(
                f"a step made {name} of shape {tuple(p.shape)} from {tuple(before[name].shape)}"
            )


def for_each_task(parameters: Mapping[str, Tensor], num_tasks: int) -> Parameters:
    """The parameters, expanded to N tasks without a copy; frozen ones stay frozen."""
    with torch.enable_grad():  # Under torch.no_grad all would become frozen.
        return {name: p.expand(num_tasks, *p.shape) for name, p in parameters.items()}


def on_each_task(
    module: nn.Module,
    *,
    shared: bool = False,
    randomness: Literal["error", "different", "same"] = "error",
) -> Callable[..., Tensor]:
    """The module as a function of parameters and inputs that both have a leading axis of tasks.

    Args:
        module: the network to vectorise.
        shared: all tasks share the parameters, which then have no axis of tasks.
        randomness: treatment of random draws in the module, such as dropout masks: `different` for
            each task, the `same` for all, or an `error`.

    The returned function raises RuntimeError if the module draws at random while `randomness` is
    `error`, or if it changes its buffers.
    """

    def call(parameters: Parameters, *inputs: Any) -> Tensor:
        return functional_call(module, parameters, inputs)

    def batched(parameters: Parameters, *inputs: Any) -> Tensor:
        axes = (None if shared else 0, *(None if x is None else 0 for x in inputs))
        versions = {name: buffer._version for name, buffer in module.named_buffers()}
        try:
            return vmap(call, in_dims=axes, randomness=randomness)(parameters, *inputs)
        except RuntimeError as error:
            if randomness == "error" and "random" in str(error):
                raise RuntimeError(
                    "the module draws at random, as dropout does: pass on_each_task "
                    "randomness='different' (for each task) or 'same' (for all), or call eval() "
                    "on the module"
                ) from error
            changed = [n for n, b in module.named_buffers() if b._version != versions[n]]
            if changed or (versions and "in place" in str(error)):
                raise RuntimeError(
                    f"the module changes its buffers ({', '.join(changed or versions)}), of which "
                    "tasks have none of their own: make BatchNorm with track_running_stats=False, "
                    "or call eval() on the module"
                ) from error
            raise

    return batched
