"""Matching Networks: a query gets the labels of the support examples that it resembles.

Vinyals et al. 2016, "Matching Networks for One Shot Learning", arXiv:1606.04080: attention over the
support set, with and without full context embeddings. Equation 1 is a weighted mean of labels, so
that it also regresses functions.

    adapt        nothing: each query attends to the support
    objective    cross-entropy (or squared error) of `labels_by_attention` on the query, a mean over
                 tasks
    update       f and g by Adam
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from metarl.config import Few, Positive
from metarl.learning import optim
from metarl.learning.few_shot import scores
from metarl.learning.gradient_steps import on_each_task
from metarl.learning.optim import OuterAdamConfig
from metarl.nn.encoders import Conv4Config, Encoder, EncoderConfig
from metarl.system import ranks
from metarl.types import FewShotBatch, FewShotShape


class MatchingConfig(OuterAdamConfig):
    """Matching Networks."""

    kind: Literal["matching"] = "matching"

    encoder: EncoderConfig = Conv4Config()
    """Network that embeds examples, before their context is added (f' and g')."""
    full_context: bool = False
    """Let the embeddings depend on the whole support (FCE): a bidirectional LSTM over the support,
    and an LSTM that attends to it for each query."""
    processing_steps: Few = 5
    """Steps of the LSTM of each query (K)."""
    cosine_scale: Positive = 10.0
    """Factor on the cosines before the softmax. The paper's is 1, with which even a perfect match
    among five gets only 65 % of the attention."""

    def build(self, shape: FewShotShape, *, seed: int, device: torch.device) -> Matching:
        """A new learner."""
        return Matching(self, shape, seed=seed, device=device)


# -- the network -----------------------------------------------------------------------------------


class Embeddings(nn.Module):
    """An encoder, and with `full_context` the LSTMs that make embeddings depend on the support."""

    def __init__(self, encoder: Encoder, *, full_context: bool, processing_steps: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.embed = on_each_task(encoder, shared=True)
        self.processing_steps = processing_steps
        size = encoder.size
        self.support_memory = (
            nn.LSTM(size, size, bidirectional=True, batch_first=True) if full_context else None
        )
        self.query_memory = nn.LSTMCell(2 * size, size) if full_context else None

    def forward(
        self, support_x: Float[Tensor, "N S *F"], query_x: Float[Tensor, "N Q *F"]
    ) -> tuple[Float[Tensor, "N S D"], Float[Tensor, "N Q D"]]:
        """The embeddings g(xᵢ, S) of the support and f(x̂, S) of the query."""
        parameters = dict(self.encoder.named_parameters())
        support = self.embed(parameters, support_x, None)
        query = self.embed(parameters, query_x, support_x)
        if self.support_memory is None:
            return support, query
        support = self.support_in_context(support)
        return support, self.query_in_context(query, support)

    def support_in_context(self, support: Float[Tensor, "N S D"]) -> Float[Tensor, "N S D"]:
        """g(xᵢ, S) = h→ᵢ + h←ᵢ + g'(xᵢ) (appendix A.2)."""
        assert self.support_memory is not None
        both, _ = self.support_memory(support)
        forward, backward = both.chunk(2, dim=-1)
        return forward + backward + support

    def query_in_context(
        self, query: Float[Tensor, "N Q D"], support: Float[Tensor, "N S D"]
    ) -> Float[Tensor, "N Q D"]:
        """f(x̂, S): K steps of an LSTM that reads the query and its attention readout rₖ₋₁.

        In appendix A.1 the LSTM's hidden state is [hₖ₋₁, rₖ₋₁] and its input f'(x̂). Its gates are
        linear in all three, so that rₖ₋₁ can equally be a part of the input, as here.
        """
        assert self.query_memory is not None
        rows = query.flatten(0, 1)
        hidden, cell = torch.zeros_like(rows), torch.zeros_like(rows)
        for _ in range(self.processing_steps):
            by_task = hidden.view_as(query)
            recalled = (by_task @ support.transpose(1, 2)).softmax(-1) @ support
            both = torch.cat([rows, recalled.flatten(0, 1)], -1)
            moved, cell = self.query_memory(both, (hidden, cell))
            hidden = moved + rows
        return hidden.view_as(query)


# -- attention -------------------------------------------------------------------------------------


def attention(
    query: Float[Tensor, "N Q D"], support: Float[Tensor, "N S D"], *, scale: float
) -> Float[Tensor, "N Q S"]:
    """Attention weights: the softmax of scaled cosines over the support (section 2.1.1)."""
    cosine = F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).transpose(1, 2)
    return (scale * cosine).softmax(-1)


def labels_by_attention(
    weight: Float[Tensor, "N Q S"], support_y: Shaped[Tensor, "N S *W"]
) -> Float[Tensor, "N Q W"]:
    """ŷ = Σ a(x̂, xᵢ) yᵢ (eq. 1): for labels the log-probability of each class, else the regressed
    values."""
    if support_y.is_floating_point():
        return weight @ support_y
    member = F.one_hot(support_y).to(weight.dtype)
    smallest = torch.finfo(weight.dtype).tiny
    return (weight @ member).clamp(min=smallest).log()


# -- the learner -----------------------------------------------------------------------------------


class Matching:
    """The Matching Networks learner."""

    default_steps = 0

    def __init__(
        self, config: MatchingConfig, shape: FewShotShape, *, seed: int, device: torch.device
    ) -> None:
        self.config = config
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Embeddings(
                config.encoder.build(shape.input_shape),
                full_context=config.full_context,
                processing_steps=config.processing_steps,
            ).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)

    def outputs(
        self,
        support_x: Float[Tensor, "N S *F"],
        support_y: Shaped[Tensor, "N S *W"],
        query_x: Float[Tensor, "N Q *F"],
    ) -> Float[Tensor, "N Q W"]:
        """Log-probabilities of the classes, or regressed values, of each query example."""
        support, query = self.network(support_x, query_x)
        weight = attention(query, support, scale=self.config.cosine_scale)
        return labels_by_attention(weight, support_y)

    @torch.no_grad()
    def predict(
        self,
        support_x: Float[Tensor, "N S *F"],
        support_y: Shaped[Tensor, "N S *W"],
        query_x: Float[Tensor, "N Q *F"],
        *,
        after: Sequence[int],
    ) -> Float[Tensor, "C N Q W"]:
        """Outputs on the query; there are no gradient steps."""
        return self.outputs(support_x, support_y, query_x).expand(len(after), -1, -1, -1)

    def meta_update(self, batch: FewShotBatch, *, generator: torch.Generator) -> dict[str, float]:
        """One step of Adam on the mean loss of the query (section 2.2).

        Raises:
            NotFiniteError: the gradient is NaN or infinite; the parameters are unchanged.
        """
        del generator
        own, weight = ranks.split(len(batch))
        part = own.of(batch)
        measured = scores(self.outputs(part.support_x, part.support_y, part.query_x), part.query_y)
        (weight * measured["loss"].mean()).backward()
        norm = optim.checked_step(self.optimizer)
        self.config.decay(self.optimizer)
        metrics = {name: float(ranks.mean(values.detach())) for name, values in measured.items()}
        return {**metrics, "gradient_norm": norm}

    def state_dict(self) -> dict[str, Tensor]:
        """The network and Adam's moments."""
        network = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        return network | optim.state_dict(self.optimizer, self.network)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.network.load_state_dict(optim.section(tensors, "network."))
        optim.load_state_dict(self.optimizer, self.network, tensors)
