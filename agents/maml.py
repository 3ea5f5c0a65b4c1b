"""MAML: learns a starting point from which a few gradient steps on few examples fit a task.

Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
arXiv:1703.03400, algorithm 2. With `first_order` FOMAML (section 5.2), with
`learn_inner_learning_rate` Meta-SGD (Li et al. 2017, arXiv:1707.09835).

    adapt        φ ← φ − α ∇ L(φ; support), `steps` times, from the common starting point θ
    objective    L(φ; query), a mean over tasks, as a function of θ through all gradient steps
    update       θ, and α if it is learned, by Adam

L is `task_losses`: cross-entropy or squared error, a mean over examples (equations 2 and 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from metarl.config import Few, Fraction, Positive, Size
from metarl.learning import optim
from metarl.learning.few_shot import scores, task_losses
from metarl.learning.gradient_steps import (
    SGD,
    Adam,
    Adapted,
    InnerOptimizer,
    Parameters,
    adapt,
    for_each_task,
    on_each_task,
)
from metarl.learning.optim import OuterAdamConfig
from metarl.nn.encoders import EncoderConfig, EncoderWithHead, MLPConfig
from metarl.system import ranks
from metarl.types import FewShotBatch, FewShotShape


class MAMLConfig(OuterAdamConfig):
    """MAML, FOMAML and Meta-SGD. Defaults are those of the paper for sinusoids."""

    kind: Literal["maml"] = "maml"

    encoder: EncoderConfig = MLPConfig()
    """The network up to its last layer."""

    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimizer of adaptation."""
    inner_learning_rate: Positive = 0.01
    """Step size of adaptation (α)."""
    learn_inner_learning_rate: bool = False
    """Learn a step size for each parameter, with initial value α (Meta-SGD)."""
    momentum: Fraction = 0.0
    """Momentum of the inner SGD."""
    steps: Few = 1
    """Gradient steps on a task in training."""
    evaluation_steps: Few = 5
    """Gradient steps on a task in evaluation."""
    every_step: bool = False
    """Learn from the query loss after each step, not only after the last (the multi-step loss of
    Antoniou et al. 2019, arXiv:1810.09502, with equal weights), so that the network is good after
    one step and after several."""
    first_order: bool = False
    """Treat adaptation steps as constant shifts in the meta-gradient (FOMAML)."""
    adapt_in_training: bool = True
    """Learn a starting point for adaptation. If false, one network is trained on the examples of
    all tasks and takes gradient steps in evaluation only: the baseline of meta-learning."""

    max_gradient_norm: Positive = 10.0
    """Norm that longer meta-gradients are clipped to: if a task's steps diverge, the length of the
    meta-gradient is meaningless."""
    tasks_at_once: Size = 8
    """Tasks of a meta-batch that are differentiated together; affects only speed and memory."""

    def build(self, shape: FewShotShape, *, seed: int, device: torch.device) -> MAML:
        """A new learner."""
        return MAML(self, shape, seed=seed, device=device)


# -- what is learned -------------------------------------------------------------------------------


class StartAndRates(nn.Module):
    """The learned parameters of MAML: the network's initial parameters, and optional step sizes."""

    def __init__(self, network: nn.Module, rate: float, *, learn_rates: bool) -> None:
        super().__init__()
        self.network = network
        self.unit = rate
        # Rates are in units of the initial step size, so that a step of Adam changes them by a
        # small share. Learned directly, step sizes of 0.01 would double in ten updates, and
        # adaptation would diverge.
        self.rates = nn.ParameterList(
            [nn.Parameter(torch.ones_like(p)) for p in network.parameters()] if learn_rates else []
        )

    def rates_by_name(self) -> dict[str, Tensor]:
        """The learned step sizes by parameter name; empty if they are not learned."""
        if not len(self.rates):
            return {}
        names = [name for name, _ in self.network.named_parameters()]
        return {name: self.unit * r for name, r in zip(names, self.rates, strict=True)}

    def metrics(self) -> dict[str, float]:
        """The mean learned step size, to be logged; empty if step sizes are not learned."""
        if not len(self.rates):
            return {}
        rates = torch.cat([rate.detach().flatten() for rate in self.rates])
        return {"inner_learning_rate": self.unit * float(rates.mean())}


# -- the learner -----------------------------------------------------------------------------------


class MAML:
    """The MAML learner."""

    def __init__(
        self, config: MAMLConfig, shape: FewShotShape, *, seed: int, device: torch.device
    ) -> None:
        self.config = config
        self.device = device
        self.default_steps = config.evaluation_steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.learned = StartAndRates(
                EncoderWithHead(config.encoder.build(shape.input_shape), shape.head_size()),
                config.inner_learning_rate,
                learn_rates=config.learn_inner_learning_rate,
            ).to(device)
        self.outputs = on_each_task(self.learned.network)
        self.optimizer = torch.optim.Adam(self.learned.parameters(), lr=config.learning_rate)

    # -- adapting ----------------------------------------------------------------------------------

    def adapt(self, batch: FewShotBatch, *, steps: int, differentiable: bool) -> Adapted:
        """Takes gradient steps on the support of each task, from the common starting point."""

        def support_loss(parameters: Parameters) -> Float[Tensor, " N"]:
            return task_losses(self.outputs(parameters, batch.support_x, None), batch.support_y)

        return adapt(
            for_each_task(dict(self.learned.network.named_parameters()), len(batch)),
            [support_loss] * steps,
            self.inner_optimizer(),
            first_order=self.config.first_order,
            differentiable=differentiable,
        )

    def inner_optimizer(self) -> InnerOptimizer:
        """SGD or Adam, with the current step sizes."""
        rate = self.learned.rates_by_name() or self.config.inner_learning_rate
        if self.config.inner_optimizer == "adam":
            return Adam(learning_rate=rate)
        return SGD(learning_rate=rate, momentum=self.config.momentum)

    @torch.no_grad()
    def predict(
        self,
        support_x: Float[Tensor, "N S *F"],
        support_y: Shaped[Tensor, "N S *W"],
        query_x: Float[Tensor, "N Q *F"],
        *,
        after: Sequence[int],
    ) -> Float[Tensor, "C N Q W"]:
        """Outputs on the query after each number of gradient steps in `after` on the support."""
        nothing = support_y[:, :0]
        support = FewShotBatch(
            support_x=support_x, support_y=support_y, query_x=query_x[:, :0], query_y=nothing
        )
        reached = self.adapt(support, steps=max(after), differentiable=False).trajectory
        return torch.stack([self.outputs(reached[n], query_x, support_x) for n in after])

    # -- learning ----------------------------------------------------------------------------------

    def meta_update(self, batch: FewShotBatch, *, generator: torch.Generator) -> dict[str, float]:
        """One step of Adam on the mean query loss after adaptation (algorithm 2, line 10).

        Raises:
            NotFiniteError: the meta-gradient is NaN or infinite; the parameters are unchanged.
        """
        del generator
        config = self.config
        own = ranks.share_of(len(batch))
        measured: dict[str, list[Tensor]] = {}
        for first in range(own.start, own.stop, config.tasks_at_once):
            part = batch[first : min(first + config.tasks_at_once, own.stop)]
            for measure, values in self._accumulate(part, num_tasks=len(batch)).items():
                measured.setdefault(measure, []).append(values.detach())
        norm = optim.checked_step(self.optimizer, max_norm=config.max_gradient_norm)
        config.decay(self.optimizer)
        metrics = {name: float(ranks.mean(torch.cat(parts))) for name, parts in measured.items()}
        return {**metrics, "gradient_norm": norm, **self.learned.metrics()}

    def _accumulate(self, part: FewShotBatch, *, num_tasks: int) -> dict[str, Float[Tensor, " N"]]:
        """Adds the gradient of a part of the `num_tasks` tasks to the accumulated one.

        Returns:
            The query losses and accuracies of these tasks.
        """
        steps = self.config.steps if self.config.adapt_in_training else 0
        adapted = self.adapt(part, steps=steps, differentiable=True)
        every_step = self.config.every_step and steps > 0
        learned_from = adapted.trajectory[1:] if every_step else [adapted.parameters]
        outputs = [self.outputs(p, part.query_x, part.support_x) for p in learned_from]
        losses = [task_losses(output, part.query_y) for output in outputs]
        if steps == 0:
            support = self.outputs(adapted.parameters, part.support_x, None)
            losses.append(task_losses(support, part.support_y))
        (torch.stack(losses).mean(0).sum() / num_tasks).backward()
        return scores(outputs[-1].detach(), part.query_y)

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """The starting point, the step sizes and Adam's moments."""
        learned = {f"learned.{name}": t for name, t in self.learned.state_dict().items()}
        return learned | optim.state_dict(self.optimizer, self.learned)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.learned.load_state_dict(optim.section(tensors, "learned."))
        optim.load_state_dict(self.optimizer, self.learned, tensors)
