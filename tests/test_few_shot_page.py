"""The page on few-shot learning is right: its Python runs, its configs and flags exist."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "few_shot.md").read_text()


def test_the_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block, "docs/few_shot.md", "exec"), names)
        network = names["network"]
        if "curve" not in block:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert len(names["adapted"].trajectory) == 6
    assert names["curve"].scores["loss"].shape == (600, 3) and len(names["loss"].low) == 3


def test_the_files_that_it_names_are_there() -> None:
    for name in re.findall(r"configs/\w+\.yaml|tests/[\w/]+\.py|results/[\w/]+\.\w+", PAGE):
        assert (ROOT / name).exists(), name
