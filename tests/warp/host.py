"""A guard against copies of tensors to the host."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

WAYS = ("cpu", "numpy", "tolist", "item", "__array__", "__float__", "__int__")


@contextmanager
def forbidden_on_host() -> Iterator[None]:
    """Within this context, tensors appear to be on a device, and copying their numbers to the host
    fails."""

    def forbid(way):
        def fail(*_, **__):
            raise AssertionError(f"Tensor.{way} passes through the host")

        return fail

    with ExitStack() as stack:
        # CPU tensors would be read in place.
        stack.enter_context(patch.object(torch.Tensor, "is_cpu", False))
        for way in WAYS:
            stack.enter_context(patch.object(torch.Tensor, way, forbid(way)))
        yield
