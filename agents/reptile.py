"""Reptile: moves a starting point towards the parameters that training on tasks reaches.

Nichol et al. 2018, "On First-Order Meta-Learning Algorithms", arXiv:1803.02999, algorithms 1
(serial) and 2 (batched). No derivative passes through the inner steps, and training uses all
labelled examples of a task: there is no query in training.

    adapt        φ ← φ − α ∇ L(φ; a minibatch of the task), `steps` times, from the starting point θ
    update       θ ← θ + ε · mean over tasks of φ − θ

L is `task_losses`: cross-entropy or squared error, a mean over examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from metarl.config import Config, Count, Fraction, Positive, Size
from metarl.errors import NotFiniteError
from metarl.learning import optim
from metarl.learning.few_shot import scores, task_losses
from metarl.learning.gradient_steps import (
    SGD,
    Adam,
    InnerOptimizer,
    Parameters,
    adapt,
    for_each_task,
    on_each_task,
)
from metarl.nn.encoders import EncoderConfig, EncoderWithHead, MLPConfig
from metarl.system import ranks
from metarl.types import FewShotBatch, FewShotShape

MEASURED_PART = 5
"""One task in this many is evaluated for the metrics, because Reptile itself needs no query."""


class ReptileConfig(Config):
    """Reptile. Defaults are those of the paper for sinusoids."""

    kind: Literal["reptile"] = "reptile"

    encoder: EncoderConfig = MLPConfig(hidden_sizes=(64, 64), activation="tanh")
    """The network up to its last layer."""

    batched: bool = True
    """Make one move towards the mean of the parameters that the meta-batch's tasks reach (algorithm
    2). If false, move after each task in turn (algorithm 1)."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimizer on a task; the paper's for images is Adam, without momentum."""
    inner_learning_rate: Positive = 0.02
    """Step size of the inner optimizer (α)."""
    inner_beta1: Fraction = 0.0
    """Momentum of the inner Adam."""
    steps: Size = 5
    """Gradient steps on a task in training (k)."""
    inner_batch: Size = 10
    """Labelled examples of the task in each step, in training and evaluation; they are drawn
    without replacement until all are used."""
    evaluation_steps: Size = 32
    """Gradient steps on a task in evaluation, on its support alone."""

    outer_step: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Initial share of the way to move (ε)."""
    final_outer_step: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Final share of the way, reached linearly."""
    decay_updates: Count = 10_000
    """Meta-updates until `final_outer_step` is reached."""

    def build(self, shape: FewShotShape, *, seed: int, device: torch.device) -> Reptile:
        """A new learner."""
        return Reptile(self, shape, seed=seed, device=device)


# -- parts of the algorithm ------------------------------------------------------------------------


def draw_minibatches(
    num_examples: int,
    size: int,
    *,
    num_tasks: int,
    steps: int,
    generator: torch.Generator,
) -> list[Shaped[Tensor, "N B"]]:
    """Row indices of each task's minibatch, for each step. They run through the examples in random
    order; once all are used, a new order begins."""
    size = min(size, num_examples)
    orders_needed = -(-steps * size // num_examples)
    chance = torch.rand(
        num_tasks, orders_needed, num_examples, generator=generator, device=generator.device
    )
    rows = chance.argsort(-1).flatten(1)
    return [rows[:, step * size : (step + 1) * size] for step in range(steps)]


def moved_towards(start: Parameters, reached: Parameters, *, share: float) -> Parameters:
    """θ + ε · mean (φ − θ) (algorithm 2; algorithm 1 with one task).

    Args:
        start: θ.
        reached: φ of each of N tasks, with a leading axis N.
        share: ε.
    """
    return {name: p + share * (reached[name].mean(0) - p) for name, p in start.items()}


def falling(start: float, end: float, *, done: int, total: int) -> float:
    """Linear interpolation from `start` to `end` over `total` updates; `end` from then on."""
    left = 1 - min(done / total, 1)
    return end + left * (start - end)


# -- the learner -----------------------------------------------------------------------------------


class Reptile:
    """The Reptile learner."""

    def __init__(
        self, config: ReptileConfig, shape: FewShotShape, *, seed: int, device: torch.device
    ) -> None:
        self.config = config
        self.device = device
        self.default_steps = config.evaluation_steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = EncoderWithHead(
                config.encoder.build(shape.input_shape), shape.head_size()
            ).to(device)
        self.outputs = on_each_task(self.network)
        self.updates = torch.zeros((), dtype=torch.int64)

    def start(self) -> Parameters:
        """The starting point."""
        return {name: p.detach() for name, p in self.network.named_parameters()}

    def train_on(
        self,
        x: Float[Tensor, "N S *F"],
        y: Shaped[Tensor, "N S *W"],
        *,
        steps: int,
        generator: torch.Generator,
        own: ranks.Share | None = None,
    ) -> list[Parameters]:
        """Parameters of each task before the first step on minibatches and after each step.

        Args:
            own: the place of these N tasks among those for which `generator` draws.
        """
        minibatches = draw_minibatches(
            x.shape[1],
            self.config.inner_batch,
            num_tasks=own.total if own else len(x),
            steps=steps,
            generator=generator,
        )
        if own:
            minibatches = [own.of(rows) for rows in minibatches]
        tasks = torch.arange(len(x), device=x.device)[:, None]

        def loss_on(rows: Tensor):
            def loss(parameters: Parameters) -> Float[Tensor, " N"]:
                return task_losses(self.outputs(parameters, x[tasks, rows], None), y[tasks, rows])

            return loss

        losses = [loss_on(rows) for rows in minibatches]
        start = for_each_task(dict(self.network.named_parameters()), len(x))
        return adapt(start, losses, self.inner_optimizer(), differentiable=False).trajectory

    def inner_optimizer(self) -> InnerOptimizer:
        """SGD or Adam, without state from earlier tasks."""
        config = self.config
        if config.inner_optimizer == "adam":
            return Adam(learning_rate=config.inner_learning_rate, betas=(config.inner_beta1, 0.999))
        return SGD(learning_rate=config.inner_learning_rate)

    @torch.no_grad()
    def predict(
        self,
        support_x: Float[Tensor, "N S *F"],
        support_y: Shaped[Tensor, "N S *W"],
        query_x: Float[Tensor, "N Q *F"],
        *,
        after: Sequence[int],
    ) -> Float[Tensor, "C N Q W"]:
        """Outputs on the query after each number of gradient steps in `after` on the support.

        The order of minibatches is fixed for a given number of support examples.
        """
        generator = torch.Generator(support_x.device).manual_seed(0)
        reached = self.train_on(support_x, support_y, steps=max(after), generator=generator)
        return torch.stack([self.outputs(reached[n], query_x, support_x) for n in after])

    def meta_update(self, batch: FewShotBatch, *, generator: torch.Generator) -> dict[str, float]:
        """One update θ ← θ + ε · mean (φ − θ), where training on a task reaches φ.

        The metrics are measured on the query before it is trained on: a part of the tasks is first
        adapted to as in evaluation, on the support alone, with as many steps as in training.

        Raises:
            NotFiniteError: the new starting point is not finite; the old one stays.
        """
        config = self.config
        before = self.start()
        seen = batch[: max(1, len(batch) // MEASURED_PART)]
        own, _ = ranks.split(len(seen))
        seen = own.of(seen)
        with torch.no_grad():
            adapted = self.train_on(
                seen.support_x, seen.support_y, steps=config.steps, generator=generator, own=own
            )[-1]
            measured = scores(self.outputs(adapted, seen.query_x, seen.support_x), seen.query_y)
        share = falling(
            config.outer_step,
            config.final_outer_step,
            done=int(self.updates),
            total=config.decay_updates,
        )
        # One task after the other is all the work of each rank.
        for part in [batch] if config.batched else [batch[n : n + 1] for n in range(len(batch))]:
            own, _ = ranks.split(len(part))
            part = own.of(part)
            x = torch.cat([part.support_x, part.query_x], 1)
            y = torch.cat([part.support_y, part.query_y], 1)
            reached = self.train_on(x, y, steps=config.steps, generator=generator, own=own)[-1]
            reached = {name: ranks.mean(rows)[None] for name, rows in reached.items()}
            self._move_to(moved_towards(self.start(), reached, share=share))
        after = self.start()
        moved = torch.stack([(after[name] - p).norm() for name, p in before.items()]).norm()
        if not moved.isfinite():
            self._move_to(before)
            raise NotFiniteError("the new starting point")
        self.updates = self.updates + 1
        metrics = {measure: float(ranks.mean(values)) for measure, values in measured.items()}
        return {**metrics, "moved": float(moved), "outer_step": share}

    def _move_to(self, parameters: Parameters) -> None:
        for name, p in self.network.named_parameters():
            if p.requires_grad:  # A mean over tasks would round frozen parameters.
                p.data = parameters[name].clone()

    def state_dict(self) -> dict[str, Tensor]:
        """The starting point, and the number of updates so far."""
        network = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        return {**network, "updates": self.updates}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.network.load_state_dict(optim.section(tensors, "network."))
        self.updates = tensors["updates"].cpu().clone()
