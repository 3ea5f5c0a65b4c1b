"""Reptile's update against a loop written from the paper, with torch's own optimizers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from agents.reptile import Reptile, ReptileConfig, draw_minibatches
from metarl.errors import NotFiniteError
from metarl.nn.encoders import MLPConfig
from tests.agents.few_shot_tasks import CPU, REGRESSION, lines, same_bits

SMALL = MLPConfig(hidden_sizes=(8,), activation="tanh")


def by_the_paper(reptile: Reptile, xs, ys, minibatches, *, serial: bool) -> nn.Module:
    """Algorithm 1: for each task φ = SGD or Adam from θ, k steps; θ ← θ + ε (φ − θ).
    Algorithm 2: θ ← θ + ε mean (φ − θ)."""
    config = reptile.config
    theta = copy.deepcopy(reptile.network)
    moves = []
    for n in range(len(xs)):
        phi = copy.deepcopy(theta)
        optimizer: torch.optim.Optimizer
        if config.inner_optimizer == "adam":
            optimizer = torch.optim.Adam(phi.parameters(), lr=0.02, betas=(0.0, 0.999))
        else:
            optimizer = torch.optim.SGD(phi.parameters(), lr=0.02)
        for rows in minibatches(n):
            optimizer.zero_grad()
            F.mse_loss(phi(xs[n, rows]), ys[n, rows]).backward()
            optimizer.step()
        move = [(p - t).detach() for p, t in zip(phi.parameters(), theta.parameters(), strict=True)]
        moves.append(move)
        if serial:
            for t, m in zip(theta.parameters(), move, strict=True):
                t.data += config.outer_step * m
    if not serial:
        for t, *ms in zip(theta.parameters(), *moves, strict=True):
            t.data += config.outer_step * torch.stack(ms).mean(0)
    return theta


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batched", [True, False])
def test_an_update_is_the_papers(batched: bool, optimizer: str) -> None:
    config = ReptileConfig.model_validate(
        {"encoder": SMALL, "batched": batched, "inner_optimizer": optimizer, "steps": 4,
         "inner_batch": 3, "outer_step": 0.3, "final_outer_step": 0.3}
    )  # fmt: skip
    reptile = config.build(REGRESSION, seed=0, device=CPU)
    batch = lines(5)
    xs = torch.cat([batch.support_x, batch.query_x], 1)
    ys = torch.cat([batch.support_y, batch.query_y], 1)

    # the minibatches that the update will draw, after those of its measurements
    generator = torch.Generator().manual_seed(7)
    draw_minibatches(5, 3, num_tasks=1, steps=4, generator=generator)
    count = 1 if not batched else 5
    drawn = [
        draw_minibatches(9, 3, num_tasks=count, steps=4, generator=generator)
        for _ in range(1 if batched else 5)
    ]

    def minibatches(task: int):
        return [rows[task] for rows in drawn[0]] if batched else [rows[0] for rows in drawn[task]]

    expected = by_the_paper(reptile, xs, ys, minibatches, serial=not batched)
    reptile.meta_update(batch, generator=torch.Generator().manual_seed(7))
    for mine, theirs in zip(reptile.network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_minibatches_show_every_example_before_any_comes_again() -> None:
    drawn = draw_minibatches(
        6, 2, num_tasks=4, steps=6, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    for first in (0, 3):
        rounds = torch.cat(drawn[first : first + 3], 1)
        assert (rounds.sort(1).values == torch.arange(6)).all()
    assert len({tuple(rows.tolist()) for rows in torch.cat(drawn, 1)}) > 1  # each task has its own


def test_the_outer_step_shrinks_in_a_straight_line() -> None:
    config = ReptileConfig(encoder=SMALL, outer_step=0.4, decay_updates=4)
    reptile = config.build(REGRESSION, seed=0, device=CPU)
    steps = [
        reptile.meta_update(lines(2), generator=torch.Generator())["outer_step"] for _ in range(6)
    ]
    assert steps == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])


def test_prediction_adapts_and_changes_nothing() -> None:
    reptile = ReptileConfig(encoder=SMALL).build(REGRESSION, seed=0, device=CPU)
    before = {name: t.clone() for name, t in reptile.state_dict().items()}
    batch = lines(20)
    outputs = reptile.predict(batch.support_x, batch.support_y, batch.query_x, after=range(21))
    assert outputs.shape == (21, 20, 4, 1)
    losses = (outputs - batch.query_y).square().mean((1, 2, 3))
    assert losses[20] < losses[0]
    again = reptile.predict(batch.support_x, batch.support_y, batch.query_x, after=range(21))
    assert torch.equal(outputs, again)
    assert same_bits(before, reptile.state_dict())


def test_what_is_not_finite_is_named_and_changes_nothing() -> None:
    reptile = ReptileConfig(encoder=SMALL).build(REGRESSION, seed=0, device=CPU)
    before = {name: t.clone() for name, t in reptile.state_dict().items()}
    batch = lines(4)
    batch.query_y[2, 1] = torch.inf
    with pytest.raises(NotFiniteError, match="the new starting point"):
        reptile.meta_update(batch, generator=torch.Generator())
    assert same_bits(before, reptile.state_dict())


def test_frozen_layers_stay() -> None:
    """Frozen layers stay in updates and in evaluation; the head learns (ANIL)."""
    config = ReptileConfig.model_validate({"encoder": SMALL, "inner_optimizer": "adam", "steps": 2})
    learner = config.build(REGRESSION, seed=0, device=CPU)
    learner.network.encoder.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in learner.network.named_parameters()}
    for seed in range(3):
        learner.meta_update(lines(5, seed=seed), generator=torch.Generator().manual_seed(seed))
    for name, p in learner.network.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("encoder"), name
    batch = lines(2)
    outputs = learner.predict(batch.support_x, batch.support_y, batch.query_x, after=[0, 2])
    assert not torch.equal(outputs[0], outputs[1])
