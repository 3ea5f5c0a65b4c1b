"""Prototypical Networks: prototypes and distances by hand."""

import math

import pytest
import torch

from agents.prototypical import (
    PrototypicalConfig,
    cosine_distance,
    prototypes,
    squared_distance,
)
from metarl.errors import UserError
from metarl.nn.encoders import MLPConfig
from tests.agents.few_shot_tasks import CLASSIFICATION, CPU, REGRESSION, clusters


def test_prototypes_by_hand() -> None:
    """Labels in any order: class 0 has (0, 2) and (4, 0), class 1 has only (1, 1)."""
    embedded = torch.tensor([[[0.0, 2.0], [1.0, 1.0], [4.0, 0.0]]])
    centres = prototypes(embedded, torch.tensor([[0, 1, 0]]))
    assert centres.tolist() == [[[2.0, 1.0], [1.0, 1.0]]]


def test_distances_by_hand() -> None:
    query = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    centres = torch.tensor([[[2.0, 1.0], [3.0, 0.0]]])
    assert squared_distance(query, centres).tolist() == [[[5.0, 9.0], [10.0, 16.0]]]
    cosine = cosine_distance(query[:, 1:], centres)[0, 0].tolist()
    assert cosine == pytest.approx([1 - 10 / (5 * math.sqrt(5)), 1 - 3 / 5])


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_logits_are_those_of_a_loop(distance: str) -> None:
    config = PrototypicalConfig.model_validate(
        {"encoder": MLPConfig(hidden_sizes=(6,)), "distance": distance, "cosine_scale": 3.0}
    )
    learner = config.build(CLASSIFICATION, seed=0, device=CPU)
    batch = clusters(4)
    logits = learner.logits(batch.support_x, batch.support_y, batch.query_x)
    for n in range(4):
        support = learner.encoder(batch.support_x[n])
        for q, x in enumerate(batch.query_x[n]):
            embedded = learner.encoder(x[None])[0]
            for way in range(3):
                centre = support[batch.support_y[n] == way].mean(0)
                if distance == "euclidean":
                    expected = -float((embedded - centre).square().sum())
                else:
                    expected = -3 * float(1 - torch.cosine_similarity(embedded, centre, dim=0))
                assert float(logits[n, q, way].detach()) == pytest.approx(expected, abs=1e-5)


def test_it_learns_what_tells_classes_apart() -> None:
    """Two features are noise, ten times as strong as the others."""

    def noisy(seed: int, num_tasks: int):
        batch = clusters(num_tasks, seed=seed)
        for x in (batch.support_x, batch.query_x):
            x[..., 2:] = 10 * torch.randn(
                x[..., 2:].shape, generator=torch.Generator().manual_seed(seed)
            )
        return batch

    config = PrototypicalConfig(encoder=MLPConfig(hidden_sizes=(32,)), learning_rate=1e-2)
    learner = config.build(CLASSIFICATION, seed=0, device=CPU)

    def accuracy() -> float:
        batch = noisy(1000, 200)
        output = learner.predict(batch.support_x, batch.support_y, batch.query_x, after=[0])[0]
        return float((output.argmax(-1) == batch.query_y).float().mean())

    before = accuracy()
    for n in range(200):
        learner.meta_update(noisy(n, 16), generator=torch.Generator())
    assert accuracy() > before + 0.2


def test_functions_have_no_classes() -> None:
    with pytest.raises(UserError, match="prototypical needs classes"):
        PrototypicalConfig(encoder=MLPConfig()).build(REGRESSION, seed=0, device=CPU)
