"""A guard that lets no tensor pass to the host."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

WAYS = ("cpu", "numpy", "tolist", "item", "__array__", "__float__", "__int__")


@contextmanager
def forbidden_on_host() -> Iterator[None]:
    """While this lasts, tensors pass for a device's, and what would bring their numbers to the host
    fails."""

    def forbid(way):
        def fail(*_, **__):
            raise AssertionError(f"Tensor.{way} passes through the host")

        return fail

    with ExitStack() as stack:
        # In a processor's memory they would be looked at there.
        stack.enter_context(patch.object(torch.Tensor, "is_cpu", False))
        for way in WAYS:
            stack.enter_context(patch.object(torch.Tensor, way, forbid(way)))
        yield
