"""Small few-shot tasks for tests: clusters in the plane, and lines."""

import torch

from metarl.types import FewShotBatch, FewShotShape

CLASSIFICATION = FewShotShape(input_shape=(4,), num_outputs=3, classification=True)
REGRESSION = FewShotShape(input_shape=(1,), num_outputs=1, classification=False)
CPU = torch.device("cpu")


def clusters(num_tasks: int, *, shots: int = 2, queries: int = 3, seed: int = 0) -> FewShotBatch:
    """Three classes around random centres in 4 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_tasks, 3, 1, 4, generator=generator)
    noise = torch.randn(num_tasks, 3, shots + queries, 4, generator=generator)
    x = (centres + 0.3 * noise).to(torch.get_default_dtype())
    label = torch.arange(3).expand(num_tasks, -1)
    return FewShotBatch(
        support_x=x[:, :, :shots].flatten(1, 2),
        support_y=label.repeat_interleave(shots, 1),
        query_x=x[:, :, shots:].flatten(1, 2),
        query_y=label.repeat_interleave(queries, 1),
    )


def lines(num_tasks: int, *, shots: int = 5, queries: int = 4, seed: int = 0) -> FewShotBatch:
    """y = a x with a random slope."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.randn(num_tasks, 1, 1, generator=generator)
    x = torch.randn(num_tasks, shots + queries, 1, generator=generator)
    x, y = (t.to(torch.get_default_dtype()) for t in (x, slope * x))
    return FewShotBatch(
        support_x=x[:, :shots], support_y=y[:, :shots], query_x=x[:, shots:], query_y=y[:, shots:]
    )


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
