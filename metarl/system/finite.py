"""Whether numbers are finite, asked before anything is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from metarl.errors import NotFiniteError
from metarl.protocols import Learner


def is_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite. Of a processor's memory it takes a few microseconds, as
    it is asked several times a step."""
    if not values.is_cpu:
        return bool(values.isfinite().all())
    array = values.detach().numpy()
    # A NaN or an infinity survives the sum of squares, without a warning; so may what is large.
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity; None where there is none."""
    return next((name for name, tensor in tensors.items() if not is_finite(tensor)), None)


def check_weights(learner: Learner) -> None:
    """Checks that what a learner has learned can be used.

    Raises:
        NotFiniteError: naming the first of its tensors that is not finite.
    """
    if name := first_not_finite(learner.state_dict()):
        raise NotFiniteError(f"{name} among the agent's weights")
