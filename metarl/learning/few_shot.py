"""Losses of few-shot learning, and what else is measured of a learner's predictions."""

from __future__ import annotations

from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

MEASURES = ("loss", "accuracy")
"""Of the query; what else a learner measures is about its update."""


def task_losses(
    output: Float[Tensor, "N B W"], target: Shaped[Tensor, "N B *W"]
) -> Float[Tensor, " N"]:
    """Of each task, the mean over its examples: cross-entropy where targets are labels (in nats),
    else squared error (the mean over what is regressed)."""
    if target.is_floating_point():
        return (output - target).square().mean((1, 2))
    return F.cross_entropy(output.transpose(1, 2), target, reduction="none").mean(1)


def task_accuracies(
    output: Float[Tensor, "N B W"], target: Int[Tensor, "N B"]
) -> Float[Tensor, " N"]:
    """Of each task, the share of examples whose largest output is their label's."""
    return (output.argmax(-1) == target).to(output.dtype).mean(1)


def scores(
    output: Float[Tensor, "N B W"], target: Shaped[Tensor, "N B *W"]
) -> dict[str, Float[Tensor, " N"]]:
    """`loss`, and `accuracy` where targets are labels, of each task."""
    measured = {"loss": task_losses(output, target)}
    if not target.is_floating_point():
        measured["accuracy"] = task_accuracies(output, target)
    return measured
