"""Whether numbers are finite, asked before anything is made of them."""

from __future__ import annotations

import math

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


def check_weights(learner: Learner) -> None:
    """Checks that what a learner has learned can be used.

    Raises:
        NotFiniteError: naming the first of its tensors that is not finite.
    """
    for name, tensor in learner.state_dict().items():
        if not is_finite(tensor):
            raise NotFiniteError(f"{name} among the agent's weights")
