"""Optimizer state as named tensors, so that checkpoints hold tensors only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def state_dict(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Step size and moments, named after the parameters that they belong to."""
    rate = torch.tensor(optimizer.param_groups[0]["lr"], dtype=torch.float64)
    tensors = {"optimizer.learning_rate": rate}
    for name, parameter in module.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = tensor
    return tensors


def load_state_dict(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Takes over what `state_dict` gave."""
    parameters = dict(module.named_parameters())
    moments = section(tensors, "optimizer.")
    optimizer.param_groups[0]["lr"] = float(moments.pop("learning_rate"))
    optimizer.state.clear()
    for key_and_name, tensor in moments.items():
        key, _, name = key_and_name.partition(".")
        optimizer.state[parameters[name]][key] = tensor.clone()
