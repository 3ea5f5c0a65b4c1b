"""Prototypical Networks: each class is represented by the mean of its embedded examples.

Snell et al. 2017, "Prototypical Networks for Few-shot Learning", arXiv:1703.05175, algorithm 1.
There are no gradient steps on a task: the network learns across tasks to embed examples so that a
query is near the mean of its own class.

    adapt        c ← `prototypes` of the embedded support
    objective    cross-entropy of the softmax over −d(f(x), c) of the query, a mean over tasks
    update       f by Adam
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from metarl.config import Positive
from metarl.errors import UserError
from metarl.learning import optim
from metarl.learning.few_shot import scores
from metarl.learning.gradient_steps import on_each_task
from metarl.learning.optim import OuterAdamConfig
from metarl.nn.encoders import Conv4Config, EncoderConfig
from metarl.system import ranks
from metarl.types import FewShotBatch, FewShotShape


class PrototypicalConfig(OuterAdamConfig):
    """Prototypical Networks. Defaults are those of the paper for Omniglot."""

    kind: Literal["prototypical"] = "prototypical"

    encoder: EncoderConfig = Conv4Config()
    """Network that embeds examples (f)."""
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """Squared Euclidean distance, or one minus the cosine."""
    cosine_scale: Positive = 10.0
    """Factor on cosine distances. Without it they lie between 0 and 2, too close together for
    confident class probabilities."""

    def build(self, shape: FewShotShape, *, seed: int, device: torch.device) -> Prototypical:
        """A new learner.

        Raises:
            UserError: the tasks are regression; there are no classes.
        """
        if not shape.classification:
            raise UserError(
                "prototypical needs classes; to regress a function take agent.kind maml, reptile "
                "or matching"
            )
        return Prototypical(self, shape, seed=seed, device=device)


# -- classes and distances -------------------------------------------------------------------------


def prototypes(
    embedded: Float[Tensor, "N S D"], label: Int[Tensor, "N S"]
) -> Float[Tensor, "N W D"]:
    """Mean of the embedded support examples of each class (eq. 1)."""
    member = F.one_hot(label).to(embedded.dtype)
    return member.transpose(1, 2) @ embedded / member.sum(1)[..., None]


def squared_distance(
    query: Float[Tensor, "N Q D"], centres: Float[Tensor, "N W D"]
) -> Float[Tensor, "N Q W"]:
    """‖x − c‖², summed over features: a Bregman divergence, whose minimiser is the mean (section
    2.3). It is computed from the differences, so that large features lose no precision."""
    return (query[:, :, None] - centres[:, None]).square().sum(-1)


def cosine_distance(
    query: Float[Tensor, "N Q D"], centres: Float[Tensor, "N W D"]
) -> Float[Tensor, "N Q W"]:
    """Cosine distance 1 − cos(x, c)."""
    return 1 - F.normalize(query, dim=-1) @ F.normalize(centres, dim=-1).transpose(1, 2)


# -- the learner -----------------------------------------------------------------------------------


class Prototypical:
    """The Prototypical Networks learner."""

    default_steps = 0

    def __init__(
        self, config: PrototypicalConfig, shape: FewShotShape, *, seed: int, device: torch.device
    ) -> None:
        self.config = config
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = config.encoder.build(shape.input_shape).to(device)
        self.embed = on_each_task(self.encoder, shared=True)
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), lr=config.learning_rate)

    def logits(
        self,
        support_x: Float[Tensor, "N S *F"],
        support_y: Int[Tensor, "N S"],
        query_x: Float[Tensor, "N Q *F"],
    ) -> Float[Tensor, "N Q W"]:
        """Logits −d(f(x), c_k); equation 2 is their softmax."""
        parameters = dict(self.encoder.named_parameters())
        support = self.embed(parameters, support_x, None)
        query = self.embed(parameters, query_x, support_x)
        centres = prototypes(support, support_y)
        if self.config.distance == "cosine":
            return -self.config.cosine_scale * cosine_distance(query, centres)
        return -squared_distance(query, centres)

    @torch.no_grad()
    def predict(
        self,
        support_x: Float[Tensor, "N S *F"],
        support_y: Shaped[Tensor, "N S"],
        query_x: Float[Tensor, "N Q *F"],
        *,
        after: Sequence[int],
    ) -> Float[Tensor, "C N Q W"]:
        """Logits of the query; there are no gradient steps."""
        return self.logits(support_x, support_y, query_x).expand(len(after), -1, -1, -1)

    def meta_update(self, batch: FewShotBatch, *, generator: torch.Generator) -> dict[str, float]:
        """One step of Adam on the mean loss of the query (algorithm 1).

        Raises:
            NotFiniteError: the gradient is NaN or infinite; the parameters are unchanged.
        """
        del generator
        own, weight = ranks.split(len(batch))
        part = own.of(batch)
        measured = scores(self.logits(part.support_x, part.support_y, part.query_x), part.query_y)
        (weight * measured["loss"].mean()).backward()
        norm = optim.checked_step(self.optimizer)
        self.config.decay(self.optimizer)
        metrics = {name: float(ranks.mean(values.detach())) for name, values in measured.items()}
        return {**metrics, "gradient_norm": norm}

    def state_dict(self) -> dict[str, Tensor]:
        """The encoder and Adam's moments."""
        encoder = {f"encoder.{name}": t for name, t in self.encoder.state_dict().items()}
        return encoder | optim.state_dict(self.optimizer, self.encoder)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.encoder.load_state_dict(optim.section(tensors, "encoder."))
        optim.load_state_dict(self.optimizer, self.encoder, tensors)
