"""Parts of optimizers: checked steps, decaying step sizes, and optimizer state as named tensors, so
that checkpoints hold tensors only."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from metarl.config import Config, Count, Positive
from metarl.errors import NotFiniteError, UserError, printable
from metarl.system import ranks

PREFIX = "optimizer."
"""Prefix of the names of an optimizer's tensors."""
SCHEDULED = {"learning_rate": "lr", "entropy_coef": "entropy_coef"}
"""What changes from update to update, and where a parameter group holds it, if it has it."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Adam's state for each parameter that it has updated."""


def optimizer_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that only further training needs, not acting."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}


def section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, by their names without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def state_dict(
    optimizer: torch.optim.Optimizer, module: nn.Module, *, prefix: str = ""
) -> dict[str, Tensor]:
    """Scheduled values and moments of an optimizer; moments are named after their parameters.

    Args:
        prefix: tells this optimizer's tensors from those of another, such as `policy.`.
    """
    prefix = PREFIX + prefix
    group = optimizer.param_groups[0]
    tensors = {
        prefix + name: torch.tensor(group[key], dtype=torch.float64)
        for name, key in SCHEDULED.items()
        if key in group
    }
    for name, parameter in module.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"{prefix}{key}.{name}"] = tensor
    return tensors


def load_state_dict(
    optimizer: torch.optim.Adam, module: nn.Module, tensors: dict[str, Tensor], *, prefix: str = ""
) -> None:
    """Loads what `state_dict` returned.

    Raises:
        UserError: a tensor does not fit this module's Adam; nothing is loaded.
    """
    prefix = PREFIX + prefix
    parameters = dict(module.named_parameters())
    moments = section(tensors, prefix)
    group = optimizer.param_groups[0]
    scheduled = {key: float(moments.pop(name)) for name, key in SCHEDULED.items() if key in group}
    for name, key in SCHEDULED.items():
        if scheduled.get(key, 0) < 0:
            raise UserError(f"{prefix}{name} is {scheduled[key]}")
    state: dict[str, dict[str, Tensor]] = {}
    for key_and_name, tensor in moments.items():
        key, _, name = key_and_name.partition(".")
        if key not in MOMENTS or name not in parameters:
            known = printable(prefix + key_and_name, limit=200)
            raise UserError(f"it has a tensor {known}, which belongs to no parameter here")
        # A fused Adam counts in float32, another one in torch's default precision.
        counts = tensor.dtype if tensor.is_floating_point() else None
        like = torch.zeros((), dtype=counts) if key == "step" else parameters[name]
        if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            raise UserError(
                f"{prefix}{key_and_name} is {tuple(tensor.shape)} of {tensor.dtype}, and should be "
                f"{tuple(like.shape)} of {like.dtype}"
            )
        if key != "exp_avg" and (tensor < 0).any():
            raise UserError(f"{prefix}{key_and_name} is negative")
        state.setdefault(name, {})[key] = tensor.clone()
    for name, found in state.items():
        if missing := set(MOMENTS) - found.keys():
            raise UserError(f"it has no tensor {prefix}{min(missing)}.{name}")
    group.update(scheduled)
    optimizer.state.clear()
    optimizer.state.update({parameters[name]: found for name, found in state.items()})


def checked_step(optimizer: torch.optim.Optimizer, *, max_norm: float = math.inf) -> float:
    """Takes a step along the accumulated gradients of all ranks, and clears them.

    Returns:
        The norm of the gradients before they are clipped to `max_norm`.

    Raises:
        NotFiniteError: a gradient is NaN or infinite; no step is taken.
    """
    ranks.sum_gradients(p for group in optimizer.param_groups for p in group["params"])
    gradients = [
        p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    if not norm.isfinite():
        optimizer.zero_grad()
        raise NotFiniteError("the gradient")
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(norm)


class OuterAdamConfig(Config):
    """The step size of the outer Adam: constant, or decaying."""

    learning_rate: Positive = 1e-3
    """Step size of the outer Adam."""
    final_learning_rate: Annotated[float, Field(ge=0, lt=1e30)] | None = None
    """Final step size, reached along half a cosine; if not given, the step size is constant."""
    decay_updates: Count = 10_000
    """Outer updates until `final_learning_rate` is reached."""

    def decay(self, optimizer: torch.optim.Adam) -> None:
        """Sets the step size of the next update from the number of updates so far."""
        states = list(optimizer.state.values())
        done = int(states[0]["step"]) if states else 0
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate_after(done)

    def learning_rate_after(self, updates: int) -> float:
        """The step size after a number of updates: `learning_rate` at 0, `final_learning_rate` from
        `decay_updates` on."""
        start, end = self.learning_rate, self.final_learning_rate
        if end is None:
            return start
        left = 1 - min(updates / self.decay_updates, 1)
        return end + (start - end) * (1 - math.cos(math.pi * left)) / 2
