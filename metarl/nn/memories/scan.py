"""The linear recurrence h_t = a_t h_(t-1) + b_t over all steps, in parallel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def linear_scan(
    decay: Float[Tensor, "N T D"], added: Float[Tensor, "N T D"], first: Float[Tensor, "N D"]
) -> Float[Tensor, "N T D"]:
    """h_t = decay_t h_(t-1) + added_t for t = 1 … T, elementwise, with h_0 = `first`.

    log₂ T operations on whole tensors (Hillis and Steele 1986; Martin and Cundy 2018,
    arXiv:1709.04057).
    """
    reached = torch.cat([added[:, :1] + decay[:, :1] * first[:, None], added[:, 1:]], dim=1)
    span = 1
    while span < decay.shape[1]:
        # Each entry covers the `span` steps up to its own; now also those of the entry before them.
        further = reached[:, span:] + decay[:, span:] * reached[:, :-span]
        reached = torch.cat([reached[:, :span], further], dim=1)
        decay = torch.cat([decay[:, :span], decay[:, span:] * decay[:, :-span]], dim=1)
        span *= 2
    return reached
