"""Differentiable gradient steps against `higher`, in double precision."""

import copy
import dataclasses
from typing import Any

import higher
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from metarl.gradient_steps import SGD, Adam, adapt, for_each_task, on_each_task

OPTIMIZERS: dict[str, tuple[Any, type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (SGD(learning_rate=0.1), torch.optim.SGD, {"lr": 0.1}),
    "momentum": (
        SGD(learning_rate=0.05, momentum=0.9), torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}
    ),
    "nesterov": (
        SGD(learning_rate=0.05, momentum=0.8, nesterov=True, weight_decay=0.01),
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    ),
    "adam": (
        Adam(learning_rate=0.01, betas=(0.8, 0.99)), torch.optim.Adam,
        {"lr": 0.01, "betas": (0.8, 0.99)},
    ),
}  # fmt: skip


class EarlierAdam:
    """Adam as it was in torch when `higher` was written: ε is added to √v before the bias of v is
    corrected, so it is divided by √(1 − β₂ᵗ) too."""

    def __init__(self, adam: Adam) -> None:
        self.adam = adam
        self.start = adam.start

    def step(self, parameters, gradients, state):
        correction = 1 - self.adam.betas[1] ** (state.steps + 1)
        adam = dataclasses.replace(self.adam, eps=self.adam.eps / correction**0.5)
        return adam.step(parameters, gradients, state)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def data(num_tasks: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((num_tasks, 7, 3), (num_tasks, 7, 2), (num_tasks, 5, 3), (num_tasks, 5, 2))
    return tuple(torch.randn(size, generator=generator).double() for size in sizes)


def highers(net: nn.Module, kind: str, steps: int, tasks: tuple[Tensor, ...]) -> list[Tensor]:
    """The gradient of the mean query loss after `steps` steps, task by task."""
    _, optimizer, options = OPTIMIZERS[kind]
    net = copy.deepcopy(net)
    for x, y, query_x, query_y in zip(*tasks, strict=True):
        inner = optimizer(net.parameters(), **options)
        with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (model, steps_of):
            for _ in range(steps):
                steps_of.step(F.mse_loss(model(x), y))
            (F.mse_loss(model(query_x), query_y) / len(tasks[0])).backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_gradients_through_the_steps_are_highers(kind: str, steps: int) -> None:
    """Of one task, and of several at once."""
    net = network()
    for num_tasks in (1, 3):
        x, y, query_x, query_y = tasks = data(num_tasks)
        call = on_each_task(net)

        def loss(parameters, call=call, x=x, y=y):
            return (call(parameters, x) - y).square().mean((1, 2))

        start = for_each_task(dict(net.named_parameters()), num_tasks)
        optimizer = OPTIMIZERS[kind][0]
        if isinstance(optimizer, Adam):
            optimizer = EarlierAdam(optimizer)
        adapted = adapt(start, [loss] * steps, optimizer)
        query = (call(adapted.parameters, query_x) - query_y).square().mean()
        ours = torch.autograd.grad(query, list(net.parameters()))
        for mine, theirs in zip(ours, highers(net, kind, steps, tasks), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)
            assert theirs.abs().max() > 1e-4
        assert len(adapted.trajectory) == steps + 1
        assert [tuple(value.shape) for value in adapted.losses] == [(num_tasks,)] * steps


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_steps_are_those_of_torch(kind: str) -> None:
    """Without a graph too, where nothing is left to differentiate."""
    net = network()
    (x,), (y,), *_ = data(1)
    ours, theirs_class, options = OPTIMIZERS[kind]
    start = dict(net.named_parameters())
    before = {name: p.detach().clone() for name, p in start.items()}

    def loss(parameters):
        return F.mse_loss(functional_call(net, parameters, (x,)), y)

    adapted = adapt(start, [loss] * 4, ours, differentiable=False)
    assert not any(p.requires_grad for p in adapted.parameters.values())
    for name, p in start.items():
        torch.testing.assert_close(p.detach(), before[name], rtol=0, atol=0)
        assert p.grad is None
    optimizer = theirs_class(net.parameters(), **options)
    for _ in range(4):
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(adapted.parameters[name], p.detach(), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_first_order_passes_slopes_straight_through() -> None:
    """As FOMAML says: the slope at the start is the slope at the adapted parameters."""
    net = network()
    (x,), (y,), (query_x,), (query_y,) = data(1)
    start = dict(net.named_parameters())

    def loss(parameters):
        return F.mse_loss(functional_call(net, parameters, (x,)), y)

    adapted = adapt(start, [loss] * 3, SGD(learning_rate=0.1), first_order=True)
    query = F.mse_loss(functional_call(net, adapted.parameters, (query_x,)), query_y)
    at_start = torch.autograd.grad(query, list(start.values()))
    leaves = {name: p.detach().requires_grad_() for name, p in adapted.parameters.items()}
    again = F.mse_loss(functional_call(net, leaves, (query_x,)), query_y)
    at_end = torch.autograd.grad(again, list(leaves.values()))
    for one, other in zip(at_start, at_end, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_one_step_and_a_learned_step_size_by_hand() -> None:
    """Loss (θ − 3)², θ = 1, α = .1: the step goes to 1.4. Of the query loss θ'² the slope along α
    is 2 · 1.4 · 4 = 11.2, along θ 2 · 1.4 · (1 − .1 · 2) = 2.24, to first order 2.8."""
    for first_order, slope in ((False, 2.24), (True, 2.8)):
        theta, rate = torch.tensor(1.0, requires_grad=True), torch.tensor(0.1, requires_grad=True)
        adapted = adapt(
            {"theta": theta},
            [lambda p: (p["theta"] - 3) ** 2],
            SGD(learning_rate={"theta": rate}),
            first_order=first_order,
        )
        assert float(adapted.parameters["theta"].detach()) == pytest.approx(1.4)
        slopes = torch.autograd.grad(adapted.parameters["theta"] ** 2, [theta, rate])
        assert [float(s) for s in slopes] == pytest.approx([slope, 11.2])


def test_adam_through_units_that_were_never_active_is_finite() -> None:
    theta = torch.tensor([1.0, 2.0], requires_grad=True)
    adapted = adapt(
        {"theta": theta}, [lambda p: (p["theta"] * torch.tensor([1.0, 0.0])).square().sum()] * 2,
        Adam(learning_rate=0.1),
    )  # fmt: skip
    (slope,) = torch.autograd.grad(adapted.parameters["theta"].sum(), theta)
    assert slope.isfinite().all() and slope[1] == 1


def test_tasks_do_not_change_each_others_steps() -> None:
    """The step of a task is as long alone as among others."""
    net = network().double()
    x, y, *_ = data(6)
    call = on_each_task(net)

    def steps(rows: slice) -> Tensor:
        start = for_each_task(dict(net.named_parameters()), len(x[rows]))

        def loss(p):
            return (call(p, x[rows]) - y[rows]).square().mean((1, 2))

        return adapt(start, [loss] * 2, SGD(learning_rate=0.1)).parameters["0.weight"]

    torch.testing.assert_close(steps(slice(4, 5))[0], steps(slice(0, 6))[4], rtol=0, atol=1e-12)
