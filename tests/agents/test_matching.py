"""Matching Networks: attention and full context embeddings by hand and by loops."""

import math

import pytest
import torch

from agents.matching import MatchingConfig, attention
from metarl.nn.encoders import MLPConfig
from tests.agents.few_shot_tasks import CLASSIFICATION, CPU, REGRESSION, clusters, lines

ENCODER = MLPConfig(hidden_sizes=(6,), activation="tanh")


def test_attention_by_hand() -> None:
    """Cosines 1 and 0.6; the lengths of vectors do not matter."""
    query = torch.tensor([[[2.0, 0.0]]])
    support = torch.tensor([[[5.0, 0.0], [3.0, 4.0]]])
    for scale in (1.0, 10.0):
        weights = attention(query, support, scale=scale)[0, 0].tolist()
        first = 1 / (1 + math.exp(scale * (0.6 - 1)))
        assert weights == pytest.approx([first, 1 - first])


def test_outputs_are_weighted_means_of_labels() -> None:
    learner = MatchingConfig(encoder=ENCODER, cosine_scale=2.0).build(
        CLASSIFICATION, seed=0, device=CPU
    )
    batch = clusters(3)
    outputs = learner.outputs(batch.support_x, batch.support_y, batch.query_x).exp()
    torch.testing.assert_close(outputs.sum(-1), torch.ones(3, 9))
    encoder = learner.network.encoder
    for n in range(3):
        weights = torch.softmax(
            2 * torch.cosine_similarity(
                encoder(batch.query_x[n])[:, None], encoder(batch.support_x[n])[None], dim=-1
            ), dim=1,
        )  # fmt: skip
        for way in range(3):
            expected = weights[:, batch.support_y[n] == way].sum(1)
            torch.testing.assert_close(outputs[n, :, way], expected)
    learner = MatchingConfig(encoder=ENCODER).build(REGRESSION, seed=0, device=CPU)
    functions = lines(3)
    values = learner.outputs(functions.support_x, functions.support_y, functions.query_x)
    low, high = functions.support_y.amin(1), functions.support_y.amax(1)
    assert ((values >= low[:, None]) & (values <= high[:, None])).all()


def test_full_context_is_that_of_a_loop() -> None:
    """Loop over tasks and queries, gate by gate as in appendix A of the paper."""
    config = MatchingConfig(encoder=ENCODER, full_context=True, processing_steps=3)
    learner = config.build(CLASSIFICATION, seed=0, device=CPU)
    network = learner.network
    batch = clusters(2)
    support, query = network(batch.support_x, batch.query_x)
    assert network.support_memory is not None and network.query_memory is not None
    cell = network.query_memory
    for n in range(2):
        plain = network.encoder(batch.support_x[n])
        both, _ = network.support_memory(plain[None])
        context = both[0, :, :6] + both[0, :, 6:] + plain
        torch.testing.assert_close(support[n], context)
        for q in range(len(batch.query_x[n])):
            x = network.encoder(batch.query_x[n, q : q + 1])[0]
            h, c = torch.zeros(6), torch.zeros(6)
            for _ in range(3):
                weights = torch.softmax(torch.stack([h @ g for g in context]), 0)
                r = sum(w * g for w, g in zip(weights, context, strict=True))
                gates = cell.weight_ih @ torch.cat([x, r]) + cell.bias_ih
                gates = gates + cell.weight_hh @ h + cell.bias_hh
                i, f, g, o = gates.chunk(4)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh() + x
            torch.testing.assert_close(query[n, q], h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("full_context", [False, True])
def test_it_learns_what_tells_classes_apart(full_context: bool) -> None:
    """Two features are noise, ten times as strong as the others."""

    def noisy(seed: int, num_tasks: int):
        batch = clusters(num_tasks, seed=seed)
        for x in (batch.support_x, batch.query_x):
            x[..., 2:] = 10 * torch.randn(
                x[..., 2:].shape, generator=torch.Generator().manual_seed(seed)
            )
        return batch

    config = MatchingConfig(
        encoder=MLPConfig(hidden_sizes=(32,)), full_context=full_context, learning_rate=1e-2
    )
    learner = config.build(CLASSIFICATION, seed=0, device=CPU)

    def accuracy() -> float:
        batch = noisy(1000, 200)
        output = learner.predict(batch.support_x, batch.support_y, batch.query_x, after=[0])[0]
        return float((output.argmax(-1) == batch.query_y).float().mean())

    before = accuracy()
    for n in range(200):
        learner.meta_update(noisy(n, 16), generator=torch.Generator())
    assert accuracy() > before + 0.15
