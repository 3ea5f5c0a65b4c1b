"""Configuration of all tests: shapes and types in signatures are checked."""

import os

# Before torch is imported, as tests run in several processes, with one core each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

CHECKED = ["metarl", "envs", "agents", "train", "evaluate", "benchmarks.bandit_learners"]
install_import_hook(CHECKED, "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs tests with minutes of learning first, so that none of them is still running at the
    end."""
    items.sort(key=lambda item: "learning" not in item.path.name)


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Makes new tensors float64, to distinguish errors from rounding."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of five iterations; runs go to a temporary folder."""
    from tests.runs import ITERATION_STEPS, TINY

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY % (5 * ITERATION_STEPS, 2))
    return path
