"""ProMP: proximal meta-policy search, MAML with PPO as outer learner.

Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search", arXiv:1810.06784, algorithm 1. It
differs from MAML-TRPO in two ways: its inner surrogate is the probability ratio, whose Hessian
estimates with low variance how adaptation depends on its starting point (LVC, section 5); and the
outer learner takes several Adam steps on one batch, limited by PPO's clip after adaptation and by
a KL penalty before it.

    act          with the task's own parameters φ, which start at θ; its episodes run in parallel
    adapt        φ ← φ − α ∘ ∇ inner_loss(φ) on the episodes that were just played; act; adapt; …
    objective    `clipped_surrogate` on the last episodes less `inner_kl_coef` × `mean_kl` before
                 each step, a mean over tasks, as a function of θ through all gradient steps
    update       θ by `epochs` steps of Adam
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from metarl.config import Positive, Size
from metarl.errors import NotFiniteError
from metarl.learning import optim
from metarl.learning.adaptation import AdaptationConfig
from metarl.learning.advantages import explained_variance
from metarl.learning.inner_loop import InnerLoop
from metarl.learning.task_batch import Baseline, Experience, TaskBatch, experience_of, ratio
from metarl.nn.distributions import ActionDistribution, kl_divergence
from metarl.system import ranks
from metarl.types import Rollout, TimeStep


class ProMPConfig(AdaptationConfig):
    """ProMP. Defaults are those of the paper unless stated otherwise."""

    learns_on_ranks: ClassVar[bool] = True
    """See `metarl.protocols.AgentConfig`."""

    kind: Literal["promp"] = "promp"

    learning_rate: Positive = 1e-3
    """Step size of Adam."""
    epochs: Size = 5
    """Adam steps on one batch."""
    clip: Positive = 0.3
    """Clip of the probability ratio after adaptation, to 1 ± this."""
    inner_kl_coef: Annotated[float, Field(ge=0)] = 5e-4
    """Weight of the KL penalty between the policies that acted and those before each gradient
    step."""

    @classmethod
    def small(cls) -> ProMPConfig:
        """A config whose agent plays and learns within moments, to check a user's tasks."""
        return cls(hidden_sizes=(8,), episodes_per_step=2)

    def build(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> ProMP:
        """A new agent."""
        return ProMP(self, observation_space, action_space, seed=seed, device=device)


# -- losses ----------------------------------------------------------------------------------------


def inner_loss(policy: ActionDistribution, experience: Experience) -> Float[Tensor, " G"]:
    """The likelihood-ratio loss −π(a|s) / π_acted(a|s) · A of each task, a mean over the task's
    steps (eq. 11). At the policy that acted its gradient equals that of −log π(a|s) · A, and its
    Hessian has less variance."""
    return -(ratio(policy, experience) * experience.advantage).mean(1)


def clipped_surrogate(
    policy: ActionDistribution, query: Experience, *, clip: float
) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"]]:
    """PPO's clipped surrogate of each task after adaptation, a mean over its steps (Schulman et al.
    2017, arXiv:1707.06347, eq. 7), and the share of steps with a clipped ratio."""
    gain = ratio(policy, query)
    clipped = gain.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(gain * query.advantage, clipped * query.advantage).mean(1)
    return surrogate, (gain != clipped).float().mean(1)


def mean_kl(old: ActionDistribution, new: ActionDistribution) -> Float[Tensor, " G"]:
    """KL(old ‖ new) in nats of each task's policies before a gradient step, a mean over the visited
    states (the penalty of eq. 14)."""
    return kl_divergence(old, new).mean(1)


# -- the agent -------------------------------------------------------------------------------------


class ProMP:
    """The ProMP agent. Its adaptation state is one set of policy parameters per task, `G P`."""

    def __init__(
        self,
        config: ProMPConfig,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config = config
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policies = config.build_policies(observation_space, action_space).to(device)
        self.inner_loop = InnerLoop(
            policies=self.policies, loss=inner_loss, first_order=config.first_order
        )
        self.optimizer = torch.optim.Adam(self.policies.learned(), lr=config.learning_rate)

    # -- acting and adapting -----------------------------------------------------------------------

    def begin_trial(self, num_slots: int) -> Float[Tensor, "G P"]:
        """The starting point, repeated for each task."""
        return self.policies.start_of_each(num_slots // self.config.episodes_per_step)

    def act(
        self, state: Float[Tensor, "G P"], step: TimeStep, *, generator: torch.Generator | None
    ) -> tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"], Float[Tensor, "G P"]]:
        """Actions of each task's own policy (the mode without a generator), log-probabilities, and
        the unchanged state."""
        action, log_prob = self.policies.act(state, step.obs, generator=generator)
        return action, log_prob, state

    def adapt(self, state: Float[Tensor, "G P"], rollout: Rollout) -> Float[Tensor, "G P"]:
        """One gradient step on each task: φ − α ∘ ∇ inner_loss(φ).

        Raises:
            NotFiniteError: a task's adapted parameters are not finite; names the task.
        """
        experience, _ = self.experience(rollout)
        return self.inner_loop.step(state, experience)

    def experience(self, rollout: Rollout) -> tuple[Experience, Baseline]:
        """The steps of each task with their advantages (GAE over a linear baseline per task,
        normalised within the task), and the returns with that baseline."""
        return experience_of(
            rollout,
            obs=self.policies.scaled(rollout.seen.obs),
            slots_per_task=self.config.episodes_per_step,
            discount=self.config.discount,
            gae_lambda=self.config.gae_lambda,
        )

    # -- learning ----------------------------------------------------------------------------------

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """Several Adam steps on the same trial.

        `trial` has a rollout before each gradient step, and one at the end.

        Raises:
            NotFiniteError: an advantage, an adapted parameter or the meta-gradient is NaN or
                infinite.
        """
        del generator
        experiences, baselines = zip(*(self.experience(rollout) for rollout in trial), strict=True)
        batches = TaskBatch.of(experiences, self.inner_loop.batch_size(experiences[0]))
        acted = [self._policies_before_steps(batch) for batch in batches]

        passes: list[dict[str, float]] = []
        for epoch in range(self.config.epochs + 1):  # the last one only measures
            gradient, metrics = self._gradient_and_metrics(batches, acted)
            passes.append(metrics)
            if epoch < self.config.epochs:
                self.policies.set_gradient(-gradient)
                self.optimizer.step()
        for rollout in trial:
            self.policies.update_normalizer(rollout.seen.obs)
        before, after = passes[0], passes[-1]
        return {
            "surrogate_before": before["surrogate"],
            "surrogate_after": after["surrogate"],
            "inner_kl": after["inner_kl"],
            "clipped": after["clipped"],
            "gradient_norm": before["gradient_norm"],
            "explained_variance": sum(explained_variance(*b) for b in baselines) / len(baselines),
            **self.policies.metrics(),
        }

    def _policies_before_steps(self, batch: TaskBatch) -> list[ActionDistribution]:
        """The policies that acted before each gradient step, at the states of its experience."""
        meta = self.policies.meta_parameters()
        unrolled = self.inner_loop.unroll(meta, batch, differentiable=False)
        return [
            self.policies.distribution(start, experience.obs).detach()
            for start, experience in zip(unrolled.starts, batch.support, strict=True)
        ]

    def _gradient_and_metrics(
        self, batches: Sequence[TaskBatch], acted: Sequence[Sequence[ActionDistribution]]
    ) -> tuple[Float[Tensor, " D"], dict[str, float]]:
        """The gradient of the objective and the metrics, as means over all tasks."""
        meta = self.policies.meta_parameters()
        num_tasks = ranks.summed(sum(batch.num_tasks for batch in batches))
        gradient, metrics = torch.zeros_like(meta), defaultdict[str, float](float)
        for batch, policies in zip(batches, acted, strict=True):
            part, measured = self._gradient(meta, batch, policies)
            gradient += part / num_tasks
            for name, value in measured.items():
                metrics[name] += value / num_tasks
        gradient = ranks.summed(gradient)
        if not gradient.isfinite().all():
            raise NotFiniteError("the meta-gradient")
        metrics = {name: ranks.summed(value) for name, value in metrics.items()}
        return gradient, metrics | {"gradient_norm": float(gradient.norm())}

    def _gradient(
        self,
        meta: Float[Tensor, " D"],
        batch: TaskBatch,
        acted: Sequence[ActionDistribution],
    ) -> tuple[Float[Tensor, " D"], dict[str, float]]:
        """The gradient of the objective (eq. 14), summed over a batch's tasks, and metrics."""
        config = self.config
        unrolled = self.inner_loop.unroll(meta, batch)

        adapted = unrolled.adapted.requires_grad_()
        policy = self.policies.distribution(adapted, batch.query.obs)
        surrogates, clipped = clipped_surrogate(policy, batch.query, clip=config.clip)
        surrogate = surrogates.sum()
        (slopes,) = torch.autograd.grad(surrogate, adapted)

        kl, at_starts = 0.0, []
        for start, experience, old in zip(unrolled.starts, batch.support, acted, strict=True):
            moved = mean_kl(old, self.policies.distribution(start, experience.obs)).sum()
            (kl_slopes,) = torch.autograd.grad(moved, start)
            at_starts.append(-config.inner_kl_coef * kl_slopes)
            kl += float(moved.detach())
        metrics = {
            "surrogate": float(surrogate.detach()),
            "inner_kl": kl,
            "clipped": float(clipped.sum()),
        }
        return unrolled.pull(slopes, at_starts), metrics

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Policy, normalizer, step sizes and optimizer: all that a bit-exact resume needs."""
        return {  # Stored checkpoints have the prefix `inner_loop`.
            **{f"inner_loop.{name}": t for name, t in self.policies.state_dict().items()},
            **optim.state_dict(self.optimizer, self.policies),
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.policies.load_state_dict(optim.section(tensors, "inner_loop."))
        optim.load_state_dict(self.optimizer, self.policies, tensors)
