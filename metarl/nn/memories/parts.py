"""What memories of several heads share."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

CHUNK = 64
"""Steps that linear memories process by one product of matrices."""


def by_head(x: Float[Tensor, "N T D"], heads: int) -> Float[Tensor, "N heads T W"]:
    """The units of each head."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
