"""MAML, FOMAML and Meta-SGD: meta-gradients against `higher`, in double precision."""

import copy
from typing import Any

import higher
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.maml import MAML, MAMLConfig
from metarl.errors import NotFiniteError
from metarl.learning.few_shot import task_losses
from metarl.nn.encoders import Conv4Config, MLPConfig
from metarl.types import FewShotBatch, FewShotShape
from tests.agents.few_shot_tasks import CLASSIFICATION, CPU, REGRESSION, clusters, lines, same_bits

GENERATOR = torch.Generator()


def loss(output: Tensor, target: Tensor) -> Tensor:
    if target.is_floating_point():
        return F.mse_loss(output, target)
    return F.cross_entropy(output, target)


def meta_gradient(maml: MAML, batch: FewShotBatch) -> list[Tensor]:
    """The gradient of a meta-update, with tasks in chunks as configured."""
    gradients: list[Tensor] = []

    def keep(*_: Any) -> None:
        gradients.extend(p.grad.clone() for p in maml.learned.parameters() if p.grad is not None)

    handle = maml.optimizer.register_step_pre_hook(keep)
    maml.meta_update(batch, generator=GENERATOR)
    handle.remove()
    return gradients


def highers(maml: MAML, batch: FewShotBatch) -> list[Tensor]:
    """The meta-gradient through `higher`, task by task."""
    config, net = maml.config, copy.deepcopy(maml.learned.network)
    rates = [copy.deepcopy(rate.detach()).requires_grad_() for rate in maml.learned.rates]
    parameters = list(net.parameters())
    for n in range(len(batch)):
        sx, sy, qx, qy = (
            t[n] for t in (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
        )
        options: dict[str, Any] = {"lr": config.inner_learning_rate, "momentum": config.momentum}
        optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, **options)
        with higher.innerloop_ctx(
            net, optimizer, copy_initial_weights=False, track_higher_grads=not config.first_order
        ) as (model, steps):
            losses = []
            for step in range(config.steps):
                if rates:
                    fast = list(model.parameters(time=-1))
                    slopes = torch.autograd.grad(loss(model(sx), sy), fast, create_graph=True)
                    moved = [
                        p - config.inner_learning_rate * rate * g
                        for p, rate, g in zip(fast, rates, slopes, strict=True)
                    ]
                    model.update_params(moved)
                else:
                    steps.step(loss(model(sx), sy))
                if config.every_step or step == config.steps - 1:
                    losses.append(loss(model(qx, sx), qy))
            total = torch.stack(losses).mean() / len(batch)
            if config.first_order:
                slopes = torch.autograd.grad(total, list(model.parameters()))
                for p, g in zip(parameters, slopes, strict=True):
                    p.grad = g if p.grad is None else p.grad + g
            else:
                total.backward()
    gradients = [*parameters, *rates]
    return [p.grad for p in gradients if p.grad is not None]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"learn_inner_learning_rate": True},
        {"every_step": True},
        {"first_order": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["classes", "lines"])
def test_meta_gradients_are_highers(kind: str, options: dict[str, Any], steps: int) -> None:
    shape, batch = (CLASSIFICATION, clusters(5)) if kind == "classes" else (REGRESSION, lines(5))
    config = MAMLConfig(
        encoder=MLPConfig(hidden_sizes=(8, 8)), inner_learning_rate=0.1, steps=steps,
        tasks_at_once=2, max_gradient_norm=1e9, **options,
    )  # fmt: skip
    maml = config.build(shape, seed=3, device=CPU)
    expected = highers(maml, batch)
    ours = meta_gradient(maml, batch)
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("batch_norm", ["transductive", "support", "none"])
def test_meta_gradients_of_images_are_highers(batch_norm: str) -> None:
    shape = FewShotShape(input_shape=(1, 16, 16), num_outputs=3, classification=True)
    encoder = Conv4Config.model_validate({"filters": 4, "batch_norm": batch_norm})
    config = MAMLConfig(encoder=encoder, inner_learning_rate=0.1, steps=2, tasks_at_once=2)
    maml = config.build(shape, seed=3, device=CPU)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 15, 1, 16, 16, generator=generator).double()
    y = torch.arange(3).repeat(3, 5)
    batch = FewShotBatch(support_x=x[:, :6], support_y=y[:, :6], query_x=x[:, 6:], query_y=y[:, 6:])
    expected = highers(maml, batch)
    for mine, theirs in zip(meta_gradient(maml, batch), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)


def test_adam_can_be_the_inner_optimizer() -> None:
    """Adam's first step has the length of its step size for every parameter with a gradient."""
    maml = MAMLConfig(inner_optimizer="adam", inner_learning_rate=0.01).build(
        REGRESSION, seed=0, device=CPU
    )
    adapted = maml.adapt(lines(2), steps=1, differentiable=False)
    before, after = (p["head.weight"] for p in adapted.trajectory)
    torch.testing.assert_close((after - before).abs().amax(), torch.tensor(0.01), rtol=1e-3, atol=0)


def test_prediction_adapts_and_changes_nothing() -> None:
    maml = MAMLConfig(inner_learning_rate=0.02).build(REGRESSION, seed=0, device=CPU)
    before = {name: t.clone() for name, t in maml.state_dict().items()}
    batch = lines(20)
    outputs = maml.predict(batch.support_x, batch.support_y, batch.query_x, after=range(11))
    assert outputs.shape == (11, 20, 4, 1) and not outputs.requires_grad
    losses = torch.stack([task_losses(output, batch.query_y) for output in outputs])
    assert (losses[10] < losses[0]).float().mean() > 0.8
    assert same_bits(before, maml.state_dict())


def test_it_learns_to_adapt_and_the_same_seed_learns_the_same() -> None:
    def learn() -> MAML:
        maml = MAMLConfig(learning_rate=1e-2, inner_learning_rate=0.3).build(
            CLASSIFICATION, seed=0, device=CPU
        )
        for n in range(60):
            maml.meta_update(clusters(16, seed=n), generator=GENERATOR)
        return maml

    maml = learn()
    batch = clusters(100, seed=1000)
    outputs = maml.predict(batch.support_x, batch.support_y, batch.query_x, after=(0, 1))
    accuracy = (outputs.argmax(-1) == batch.query_y).float().mean((1, 2))
    assert accuracy[0] < 0.45 and accuracy[1] > 0.75
    assert same_bits(maml.state_dict(), learn().state_dict())


def test_without_adapting_in_training_no_step_is_taken() -> None:
    config = MAMLConfig(adapt_in_training=False, every_step=True)
    maml = config.build(REGRESSION, seed=0, device=CPU)
    maml.adapt = lambda batch, steps, differentiable, adapt=maml.adapt: (  # type: ignore[method-assign]
        adapt(batch, steps=steps, differentiable=differentiable) if steps == 0 else pytest.fail()
    )
    maml.meta_update(lines(4), generator=GENERATOR)


def test_what_is_not_finite_is_named_and_changes_nothing() -> None:
    maml = MAMLConfig().build(REGRESSION, seed=0, device=CPU)
    maml.meta_update(lines(4), generator=GENERATOR)
    before = {name: t.clone() for name, t in maml.state_dict().items()}
    batch = lines(4)
    batch.query_y[2, 1] = torch.nan
    with pytest.raises(NotFiniteError, match="the gradient is not finite"):
        maml.meta_update(batch, generator=GENERATOR)
    assert same_bits(before, maml.state_dict())
    maml.meta_update(lines(4), generator=GENERATOR)


def test_the_step_size_goes_where_it_is_told() -> None:
    config = MAMLConfig(learning_rate=1e-2, final_learning_rate=1e-4, decay_updates=10)
    maml = config.build(REGRESSION, seed=0, device=CPU)
    rates = []
    for n in range(12):
        rates.append(maml.optimizer.param_groups[0]["lr"])
        maml.meta_update(lines(2, seed=n), generator=GENERATOR)
    assert rates[0] == 1e-2 and rates[5] == pytest.approx((1e-2 + 1e-4) / 2)
    assert rates[10] == rates[11] == pytest.approx(1e-4)


def test_frozen_layers_stay() -> None:
    """Frozen layers stay in updates and in evaluation; the head learns (ANIL)."""
    config = MAMLConfig.model_validate(
        {"encoder": MLPConfig(hidden_sizes=(8,)), "learn_inner_learning_rate": True, "steps": 2}
    )
    learner = config.build(REGRESSION, seed=0, device=CPU)
    learner.learned.network.encoder.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in learner.learned.network.named_parameters()}
    for seed in range(3):
        learner.meta_update(lines(5, seed=seed), generator=torch.Generator().manual_seed(seed))
    for name, p in learner.learned.network.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("encoder"), name
    batch = lines(2)
    outputs = learner.predict(batch.support_x, batch.support_y, batch.query_x, after=[0, 2])
    assert not torch.equal(outputs[0], outputs[1])
