"""Every test runs with the shapes and types in the signatures checked."""

import os

# Before torch is imported: the tests run in several processes, one core each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

install_import_hook(["metarl", "envs", "agents", "train", "evaluate"], "beartype.beartype")


@pytest.fixture
def double_precision() -> Iterator[None]:
    """New tensors are float64, to tell an error from rounding."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
