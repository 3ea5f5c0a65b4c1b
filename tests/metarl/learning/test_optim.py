"""Optimizer state that Adam loads."""

import pytest
import torch

from metarl.errors import UserError
from metarl.learning.optim import load_state_dict, state_dict


def stepped(module: torch.nn.Module) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(module.parameters(), lr=0.5)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp_avg.nothing": torch.zeros(2)}, "optimizer.exp_avg.nothing, which belongs to no"),
        ({"momentum.weight": torch.zeros(3, 2)}, "optimizer.momentum.weight, which belongs to no"),
        ({"exp_avg.weight": torch.zeros(2, 3)}, "exp_avg.weight is .2, 3. of torch.float32, and"),
        ({"exp_avg.weight": torch.zeros(3, 2).double()}, "of torch.float64, and should be"),
        ({"step.bias": torch.tensor(1)}, "step.bias is .. of torch.int64"),
        ({"step.bias": torch.tensor(-1.0)}, "step.bias is negative"),
        ({"exp_avg_sq.bias": torch.tensor([0.0, -1e-9, 0.0])}, "exp_avg_sq.bias is negative"),
        ({"exp_avg_sq.bias": None}, "it has no tensor optimizer.exp_avg_sq.bias"),
        ({"learning_rate": torch.tensor(-1.0)}, "learning_rate is -1"),
    ],
)
def test_moments_that_are_not_of_these_parameters_are_named(
    change: dict[str, torch.Tensor | None], message: str
) -> None:
    module = torch.nn.Linear(2, 3)
    saved = state_dict(stepped(module), module)
    changed = {**saved, **{f"optimizer.{name}": tensor for name, tensor in change.items()}}
    optimizer = stepped(module)
    before = {k: t.clone() for k, t in state_dict(optimizer, module).items()}
    with pytest.raises(UserError, match=message):
        load_state_dict(optimizer, module, {k: t for k, t in changed.items() if t is not None})
    after = state_dict(optimizer, module)
    assert all(torch.equal(after[name], before[name]) for name in before), "nothing is taken over"
    load_state_dict(optimizer, module, saved)
