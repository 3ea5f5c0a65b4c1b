"""Checks that numbers are finite, made before the numbers are used."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from metarl.errors import NotFiniteError
from metarl.protocols import Learner


def is_finite(values: Tensor) -> bool:
    """True if no number is NaN or infinite.

    It is called several times a step, so a tensor in CPU memory takes only a few microseconds.
    """
    if not values.is_cpu:
        return bool(values.isfinite().all())
    array = values.detach().numpy()
    # NaN and infinity survive in the sum of squares, without a warning. The sum of large numbers
    # may overflow too; the second, slower check decides then.
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity; None if all are finite."""
    return next((name for name, tensor in tensors.items() if not is_finite(tensor)), None)


def check_weights(learner: Learner) -> None:
    """Checks that a learner's tensors are finite.

    Raises:
        NotFiniteError: a tensor is not finite; names the first.
    """
    if name := first_not_finite(learner.state_dict()):
        raise NotFiniteError(f"{name} among the agent's weights")
