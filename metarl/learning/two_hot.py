"""Values of very different size as distributions over fixed bins (Hafner et al. 2023, DreamerV3).

arXiv:2301.04104, "Robust predictions": bins are spaced evenly in symlog(x) = sign(x) log(1 + |x|),
the two bins around a target share it, and the prediction is the mean over bins.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NUM_BINS = 127
LARGEST = 15.0
"""Symlog of the largest bin: returns of more than three million."""


def symlog(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def bins(like: Tensor) -> Float[Tensor, " B"]:
    """The bins, as returns: symexp of evenly spaced numbers, 0 in the middle."""
    return symexp(
        torch.linspace(-LARGEST, LARGEST, NUM_BINS, dtype=torch.float64, device=like.device)
    ).to(like.dtype)


def two_hot_mean(logits: Float[Tensor, "*batch B"]) -> Float[Tensor, "*batch"]:
    """The mean of the distributions, summed from both ends so that large bins cancel exactly."""
    weighted = logits.softmax(-1) * bins(logits)
    half = NUM_BINS // 2
    return (weighted[..., : half + 1] + weighted[..., half:].flip(-1)).sum(-1)


def two_hot_loss(
    logits: Float[Tensor, "*batch B"], target: Float[Tensor, "*batch"]
) -> Float[Tensor, ""]:
    """Cross-entropy from the two-hot targets, a mean over the batch (nats).

    A target between two bins is shared so that its mean is the target itself.
    """
    where = bins(target)
    target = target.clamp(where[0], where[-1])
    above = torch.searchsorted(where, target.contiguous(), right=True).clamp(1, NUM_BINS - 1)
    low, high = where[above - 1], where[above]
    share = (target - low) / (high - low)
    log_prob = logits.log_softmax(-1)
    below, above = (log_prob.gather(-1, i[..., None])[..., 0] for i in (above - 1, above))
    return -((1 - share) * below + share * above).mean()
