"""Losses and accuracies of few-shot predictions."""

from __future__ import annotations

from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

MEASURES = ("loss", "accuracy")
"""Names of the metrics of the query; all other metrics of a learner describe its update."""


def task_losses(
    output: Float[Tensor, "N B W"], target: Shaped[Tensor, "N B *W"]
) -> Float[Tensor, " N"]:
    """Loss of each task, a mean over its examples: cross-entropy in nats for labels, else squared
    error, also a mean over the W regressed values."""
    if target.is_floating_point():
        return (output - target).square().mean((1, 2))
    return F.cross_entropy(output.transpose(1, 2), target, reduction="none").mean(1)


def task_accuracies(
    output: Float[Tensor, "N B W"], target: Int[Tensor, "N B"]
) -> Float[Tensor, " N"]:
    """Accuracy of each task: the share of examples whose largest output is that of their label."""
    return (output.argmax(-1) == target).to(output.dtype).mean(1)


def scores(
    output: Float[Tensor, "N B W"], target: Shaped[Tensor, "N B *W"]
) -> dict[str, Float[Tensor, " N"]]:
    """`loss` of each task, and its `accuracy` where targets are labels."""
    measured = {"loss": task_losses(output, target)}
    if not target.is_floating_point():
        measured["accuracy"] = task_accuracies(output, target)
    return measured
