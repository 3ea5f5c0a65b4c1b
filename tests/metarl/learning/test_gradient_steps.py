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

from metarl.learning.gradient_steps import SGD, Adam, adapt, for_each_task, on_each_task

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
    """Adam as in torch when `higher` was written: ε is added to √v before the bias of v is
    corrected, so ε is divided by √(1 − β₂ᵗ) too."""

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
    """Gradients of one task, and of several at once."""
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
    """Steps with and without a graph."""
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
    """As in FOMAML, the gradient at the start is the gradient at the adapted parameters."""
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
    """Loss (θ − 3)², θ = 1, α = .1: the step gives 1.4. The derivative of the query loss θ'² is
    2 · 1.4 · 4 = 11.2 by α, and 2 · 1.4 · (1 − .1 · 2) = 2.24 by θ, to first order 2.8."""
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


def differences(kind: str, steps: int, net: nn.Module, loss_of) -> list[float]:
    """Distances of our result from torch's, per parameter, relative to the length of the steps."""
    ours, theirs_class, options = OPTIMIZERS[kind]
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    losses = [
        lambda parameters, n=n: loss_of(lambda x: functional_call(net, parameters, (x,)), n)
        for n in range(steps)
    ]
    adapted = adapt(dict(net.named_parameters()), losses, ours, allow_unused=True).parameters
    adapted = {name: p.detach().clone() for name, p in adapted.items()}
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = theirs_class(trained, **options)
    for n in range(steps):
        optimizer.zero_grad()
        loss_of(net, n).backward()
        optimizer.step()
    theirs = dict(net.named_parameters())
    for name, p in adapted.items():
        torch.testing.assert_close(p, theirs[name].detach(), rtol=0, atol=1e-12)
    return [float((theirs[name].detach() - start[name]).abs().max()) for name in start]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_frozen_parameters_stay(kind: str) -> None:
    """As with torch's optimizers, including weight decay, and with the meta-gradient of
    `higher`."""
    (x,), (y,), (query_x,), (query_y,) = tasks = data(1)
    net = network()
    net[2].requires_grad_(False)
    went = differences(kind, 3, net, lambda call, n: F.mse_loss(call(x), y))
    assert [distance > 1e-3 for distance in went] == [True, True, False, False, True, True]

    net = network()
    net[2].requires_grad_(False)
    if kind == "adam":
        return  # `higher` has an earlier Adam
    start = dict(net.named_parameters())

    def loss(parameters):
        return F.mse_loss(functional_call(net, parameters, (x,)), y)

    adapted = adapt(start, [loss] * 2, OPTIMIZERS[kind][0]).parameters
    query = F.mse_loss(functional_call(net, adapted, (query_x,)), query_y)
    ours = torch.autograd.grad(query, [p for p in net.parameters() if p.requires_grad])
    theirs = highers(net, kind, 2, tasks)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=1e-8)


@pytest.mark.parametrize("no_grad", [False, True])
def test_parameters_of_each_task_stay_frozen(no_grad: bool) -> None:
    net = network()
    net[0].requires_grad_(False)
    net[0].register_parameter("count", nn.Parameter(torch.tensor([3]), requires_grad=False))
    with torch.set_grad_enabled(not no_grad):
        start = for_each_task(dict(net.named_parameters()), 4)
        frozen = [name for name, p in start.items() if not p.requires_grad]
        assert frozen == ["0.weight", "0.bias", "0.count"]
        x, y, *_ = (part.float() for part in data(4))
        call = on_each_task(net)
        adapted = adapt(
            start, [lambda p: (call(p, x) - y).square().mean((1, 2))] * 2, SGD(learning_rate=0.1)
        ).parameters
    assert list(adapted) == list(start)
    for name in start:
        assert torch.equal(adapted[name], start[name]) == (name in frozen)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_parameter_that_a_loss_does_not_use_stays(kind: str) -> None:
    """Two heads used in turn, one unused: moments come only from a head's own steps, as in
    torch."""
    torch.manual_seed(0)
    body, *heads = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads = body, nn.ModuleList(heads)

        def forward(self, x: tuple[Tensor, int]) -> Tensor:
            return self.heads[x[1]](self.body(x[0]))

    (x,), (y,), *_ = data(1)
    head_of_step = [0, 1, 1, 0, 0]
    went = differences(
        kind, 5, Net(), lambda call, n: F.mse_loss(call((x, head_of_step[n])), y)
    )  # fmt: skip
    assert [distance > 1e-3 for distance in went] == [True] * 6 + [False] * 2


def test_what_cannot_be_descended_is_said() -> None:
    net = nn.ModuleDict({"used": nn.Linear(3, 3), "aux": nn.Linear(3, 3)})
    net.forward = lambda x: net["used"](x)
    x = torch.randn(5, 3)

    def call(parameters):
        return functional_call(net, parameters, (x,))

    def refused(error, match: str, loss, *, start=None, rate: Any = 0.1, **options) -> None:
        start = dict(net.named_parameters()) if start is None else start
        with pytest.raises(error, match=match):
            adapt(start, [loss], SGD(learning_rate=rate), **options)

    refused(
        RuntimeError, r"loss of step 1 does not use aux.weight, aux.bias; pass allow_unused=True",
        lambda p: call(p).square().mean(),
    )  # fmt: skip
    for allow in (False, True):
        refused(
            RuntimeError, "uses none of the parameters that it is given",
            lambda p: net(x).square().mean(), differentiable=False, allow_unused=allow,
        )  # fmt: skip
    refused(
        RuntimeError, "does not depend on the parameters", lambda p: call(p).detach().square().sum()
    )
    refused(ValueError, r"has shape \(5, 3\); give a scalar", lambda p: call(p).square())
    refused(ValueError, r"has shape \(5,\); give a scalar", lambda p: call(p).square().mean(1))
    refused(ValueError, "is a float; it must be a tensor", lambda p: float(call(p).detach().sum()))
    values = {name: p.detach() for name, p in net.named_parameters()}
    refused(
        ValueError, r"no parameter requires a gradient.*requires_grad_\(\)",
        lambda p: call(p).square().mean(), start=values,
    )  # fmt: skip
    assert adapt(values, [], SGD(learning_rate=0.1)).parameters == values

    used = {name: p for name, p in net.named_parameters() if name.startswith("used")}
    rates = {"used.weight": torch.tensor(0.1), "used.bais": torch.tensor(0.1)}
    refused(
        ValueError, r"no step size for the parameter used.bias; .* Did you mean used.bais",
        lambda p: call(p).square().mean(), start=used, rate=rates,
    )  # fmt: skip
    for shape in ((2,), (4, 3)):
        refused(
            ValueError, rf"step size for used.bias has shape \({shape[0]},.*parameter's \(3,\)",
            lambda p: call(p).square().mean(), start=used,
            rate={"used.weight": torch.tensor(0.1), "used.bias": torch.ones(shape)},
        )  # fmt: skip


def test_an_optimizer_must_return_the_parameters_it_was_given() -> None:
    class Forgetful:
        def __init__(self, moved: dict[str, Tensor]) -> None:
            self.moved = moved

        def start(self, parameters):
            return None

        def step(self, parameters, gradients, state):
            return self.moved, state

    start = {"a": torch.ones(2, requires_grad=True), "b": torch.ones(1, requires_grad=True)}
    losses = [lambda p: p["a"].sum() + p["b"].sum()]
    with pytest.raises(ValueError, match=r"it differs in b$"):
        adapt(start, losses, Forgetful({"a": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"made b of shape \(2,\) from \(1,\)"):
        adapt(start, losses, Forgetful({"a": torch.ones(2), "b": torch.ones(2)}))


def test_dropout_is_drawn_for_each_task_or_once_for_all() -> None:
    net = nn.Sequential(nn.Dropout(0.5))
    x = torch.ones(6, 30, 3)
    with pytest.raises(RuntimeError, match=r"randomness='different' .* or 'same'"):
        on_each_task(net)({}, x)
    masks = on_each_task(net, randomness="same")({}, x)
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    masks = on_each_task(net, randomness="different")({}, x)
    assert len({mask.numpy().tobytes() for mask in masks}) == 6
    assert torch.equal(on_each_task(net.eval())({}, x), x)


@pytest.mark.parametrize(
    ("layer", "buffer"),
    [
        (nn.BatchNorm1d(3), "num_batches_tracked"),
        (nn.InstanceNorm1d(5, track_running_stats=True), "running_mean"),
    ],
)
def test_a_module_that_changes_its_buffers_is_refused(layer: nn.Module, buffer: str) -> None:
    net = nn.Sequential(layer)
    start = for_each_task(dict(net.named_parameters()), 4)
    with pytest.raises(RuntimeError, match=rf"changes its buffers \(.*{buffer}.*track_running_st"):
        on_each_task(net)(start, torch.ones(4, 5, 3))
    assert on_each_task(net.eval())(start, torch.ones(4, 5, 3)).shape == (4, 5, 3)


def test_adam_through_units_that_were_never_active_is_finite() -> None:
    theta = torch.tensor([1.0, 2.0], requires_grad=True)
    adapted = adapt(
        {"theta": theta}, [lambda p: (p["theta"] * torch.tensor([1.0, 0.0])).square().sum()] * 2,
        Adam(learning_rate=0.1),
    )  # fmt: skip
    (slope,) = torch.autograd.grad(adapted.parameters["theta"].sum(), theta)
    assert slope.isfinite().all() and slope[1] == 1


def test_tasks_do_not_change_each_others_steps() -> None:
    """The step of a task alone equals its step among others."""
    net = network().double()
    x, y, *_ = data(6)
    call = on_each_task(net)

    def steps(rows: slice) -> Tensor:
        start = for_each_task(dict(net.named_parameters()), len(x[rows]))

        def loss(p):
            return (call(p, x[rows]) - y[rows]).square().mean((1, 2))

        return adapt(start, [loss] * 2, SGD(learning_rate=0.1)).parameters["0.weight"]

    torch.testing.assert_close(steps(slice(4, 5))[0], steps(slice(0, 6))[4], rtol=0, atol=1e-12)
