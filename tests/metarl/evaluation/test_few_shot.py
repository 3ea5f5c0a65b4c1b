"""Few-shot losses and accuracies by hand, curves over steps and shots, and encoders' BatchNorm."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from agents.maml import MAMLConfig
from agents.prototypical import PrototypicalConfig
from envs.few_shot import GlyphsConfig, SinusoidConfig
from metarl.errors import UserError
from metarl.evaluation.few_shot import (
    few_shot_curve,
    milestones,
    nearest_neighbour,
    nearest_neighbour_curve,
    summarize_few_shot,
)
from metarl.learning.few_shot import task_accuracies, task_losses
from metarl.nn.encoders import BatchNorm, Conv4Config, ConvBlock, Encoder, MLPConfig
from metarl.training.iteration import Iteration, update_metrics
from metarl.types import FewShotBatch, FewShotCurve

CPU = torch.device("cpu")


def test_losses_and_accuracies_by_hand() -> None:
    output = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]], [[5.0, 0.0], [5.0, 0.0]]])
    target = torch.tensor([[0, 1], [0, 1]])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert float(task_losses(output, target)[0]) == pytest.approx(expected)
    assert task_accuracies(output, target).tolist() == [1.0, 0.5]  # among equals the first counts
    values = torch.tensor([[[1.0], [3.0]]])
    assert task_losses(values, torch.tensor([[[0.0], [1.0]]])).tolist() == [2.5]


def test_the_nearest_neighbour_by_hand() -> None:
    batch = FewShotBatch(
        support_x=torch.tensor([[[0.0, 0.0], [4.0, 0.0]]]),
        support_y=torch.tensor([[1, 0]]),
        query_x=torch.tensor([[[1.0, 1.0], [3.0, 2.0], [4.0, 9.0]]]),
        query_y=torch.tensor([[1, 0, 1]]),
    )
    assert nearest_neighbour(batch, 2).argmax(-1).tolist() == [[1, 0, 0]]
    assert task_accuracies(nearest_neighbour(batch, 2), batch.query_y).tolist() == pytest.approx(
        [2 / 3]
    )


def test_a_curve_over_gradient_steps_and_one_over_shots() -> None:
    distribution = SinusoidConfig(num_train_tasks=10, num_test_tasks=60, test_queries=20).build()
    maml = MAMLConfig(evaluation_steps=3).build(distribution.shape, seed=0, device=CPU)
    by_steps = few_shot_curve(
        maml, distribution.test, axis="gradient steps", shots=[10], num_tasks=50
    )
    assert by_steps.axis == "gradient steps" and by_steps.experience == [0, 1, 2, 3]
    assert set(by_steps.scores) == {"loss"} and by_steps.scores["loss"].shape == (50, 4)
    by_shots = few_shot_curve(maml, distribution.test, axis="shots", shots=[2, 10], num_tasks=50)
    assert by_shots.experience == [2, 10]
    # ten shots after all steps are in the last columns of both, on the same tasks
    assert torch.equal(by_shots.scores["loss"][:, 1], by_steps.scores["loss"][:, 3])


def test_a_learner_without_gradient_steps_has_one_column_of_them() -> None:
    distribution = GlyphsConfig(num_train_classes=5, num_test_classes=5, test_queries=3).build()
    learner = PrototypicalConfig(encoder=Conv4Config(filters=4)).build(
        distribution.shape, seed=0, device=CPU
    )
    curve = few_shot_curve(
        learner, distribution.test, axis="gradient steps", shots=[1], num_tasks=20
    )
    assert curve.experience == [0] and set(curve.scores) == {"loss", "accuracy"}
    shots = few_shot_curve(learner, distribution.test, axis="shots", shots=[1, 5], num_tasks=20)
    pixels = nearest_neighbour_curve(distribution.test, 5, shots=[1, 5], num_tasks=20)
    assert shots.scores["accuracy"].shape == pixels.scores["accuracy"].shape == (20, 2)
    assert torch.equal(curve.scores["loss"][:, 0], shots.scores["loss"][:, 0])


def test_intervals_are_over_tasks() -> None:
    scores = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (900, 2)))
    curve = FewShotCurve(axis="shots", experience=[1, 5], scores={"loss": scores})
    estimate = summarize_few_shot(curve)["loss"]
    half_width = 1.96 * scores.std(0) / 30
    torch.testing.assert_close(torch.tensor(estimate.value).double(), scores.mean(0))
    for bound, sign in ((estimate.low, -1), (estimate.high, 1)):
        expected = scores.mean(0) + sign * half_width
        torch.testing.assert_close(torch.tensor(bound).double(), expected, rtol=0, atol=0.02)


def test_milestones() -> None:
    assert milestones(0) == [0]
    assert milestones(5) == [0, 1, 2, 3, 4, 5]
    assert milestones(32) == [0, 1, 2, 3, 4, 5, 10, 20, 32]


def test_an_iteration_follows_from_seed_and_number() -> None:
    distribution = SinusoidConfig(num_train_tasks=100).build()

    def play(iteration: int) -> dict[str, float]:
        maml = MAMLConfig().build(distribution.shape, seed=0, device=CPU)
        step = Iteration(1, iteration, CPU)
        learned = [
            maml.meta_update(distribution.train.sample(4, step.task_rng), generator=step.generator)
            for _ in range(3)
        ]
        return update_metrics(learned)

    assert play(2) == play(2) != play(3)
    assert set(play(0)) == {"train/loss", "update/gradient_norm"}


# -- encoders --------------------------------------------------------------------------------------


def test_batch_norm_uses_the_statistics_of_the_first_examples() -> None:
    norm = BatchNorm(3)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 2.0])
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    for reference in (4, 6):
        seen = x[:reference]
        expected = (x - seen.mean(0)) / (seen.var(0, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(norm(x, reference), expected * norm.weight + norm.bias)


@pytest.mark.parametrize("before", [1, 2, 3], ids="{} channels".format)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("size", [(7, 6), (3, 3), (1, 4)], ids=str)
def test_conv_block_is_that_of_torchs_layers(
    before: int, normalize: bool, size: tuple[int, int]
) -> None:
    """Values, and first and second derivatives of parameters and images, with negative scales in
    some channels, for both implementations of convolution."""
    torch.manual_seed(0)
    block = ConvBlock(before, 20, normalize=normalize).double()
    if block.norm is not None:
        block.norm.weight.data, block.norm.bias.data = torch.randn(2, 20).double()
    images = torch.randn(6, before, *size).double().requires_grad_()

    def usual(x: torch.Tensor, reference: int) -> torch.Tensor:
        x = block.convolution(x)
        if block.norm is not None:
            seen = x[:reference].transpose(0, 1).flatten(1)
            mean, std = seen.mean(1), (seen.var(1, correction=0) + 1e-5).sqrt()
            x = (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
            x = x * block.norm.weight.view(-1, 1, 1) + block.norm.bias.view(-1, 1, 1)
        return F.max_pool2d(x.relu(), 2) if min(x.shape[-2:]) > 1 else x.relu()

    inputs = [images, *block.parameters()]
    for reference in (4, 6):
        found = []
        for call in (block, usual):
            out = call(images, reference)
            slopes = torch.autograd.grad(out.pow(3).sum(), inputs, create_graph=True)
            length = torch.stack([slope.square().sum() for slope in slopes]).sum()
            found.append([out, *slopes, *torch.autograd.grad(length, inputs)])
        # A bias before BatchNorm has no gradient, except for rounding errors of large numbers.
        largest = max(float(tensor.detach().abs().max()) for tensor in found[1])
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12 * largest)


def encoders(batch_norm: str) -> list[tuple[Encoder, tuple[int, ...]]]:
    conv = Conv4Config.model_validate({"filters": 4, "batch_norm": batch_norm})
    mlp = MLPConfig.model_validate({"hidden_sizes": (8, 8), "batch_norm": batch_norm})
    return [
        (conv.build((1, 28, 28)), (1, 28, 28)),
        (conv.build((1, 8, 8)), (1, 8, 8)),
        (mlp.build((1, 8, 8)), (1, 8, 8)),
        (mlp.build((5,)), (5,)),
    ]


def test_only_a_transductive_encoder_looks_at_the_other_queries() -> None:
    for batch_norm, looks in (("transductive", True), ("support", False), ("none", False)):
        for encoder, shape in encoders(batch_norm):
            generator = torch.Generator().manual_seed(0)
            support = torch.rand(5, *shape, generator=generator)
            query = torch.rand(6, *shape, generator=generator)
            together = encoder(query, support)
            assert together.shape == (6, encoder.size)
            one = torch.cat([query[:1], query[:1]])  # BatchNorm needs more than one
            alone = encoder(one, support)[0]
            assert torch.allclose(together[0], alone, atol=1e-5) != looks
            # and the support matters only if its statistics are used
            other = encoder(query, torch.rand(5, *shape, generator=generator))
            assert torch.allclose(together, other, atol=1e-5) == (batch_norm != "support")


def test_conv4_is_for_images() -> None:
    with pytest.raises(UserError, match=r"need agent\.encoder\.kind mlp"):
        Conv4Config().build((3,))
