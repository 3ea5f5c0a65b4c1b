"""ProMP: proximal meta-policy search, a MAML whose outer learner is PPO.

Rothfuss et al. 2019, "ProMP: Proximal Meta-Policy Search", arXiv:1810.06784, algorithm 1. Two
things set it apart from MAML-TRPO: its inner surrogate is the probability ratio, whose Hessian
estimates with low variance how adaptation depends on where it starts (LVC, section 5); and the
outer learner takes several Adam steps on one batch, held back by PPO's clip after adaptation and
by a KL penalty before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from metarl.config import Positive, Size
from metarl.errors import NotFiniteError
from metarl.learning import optim
from metarl.learning.inner_loop import InnerLoop, InnerLoopConfig
from metarl.learning.task_batch import Chunk, ratio
from metarl.nn.distributions import ActionDistribution, kl_divergence
from metarl.types import Rollout, TimeStep


class ProMPConfig(InnerLoopConfig):
    """ProMP. Defaults are the paper's where not said otherwise."""

    kind: Literal["promp"] = "promp"

    learning_rate: Positive = 1e-3
    """Adam's step size."""
    epochs: Size = 5
    """Adam steps on one batch."""
    clip: Positive = 0.3
    """Range of the probability ratio after adaptation."""
    inner_kl_coef: Annotated[float, Field(ge=0)] = 5e-4
    """Weight of the KL, before each gradient step, to the policy that acted."""

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


class ProMP:
    """The agent. Its adaptation state is a set of policy parameters for each task, `G P`."""

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
            self.inner_loop = InnerLoop(
                config, observation_space, action_space, surrogate="ratio"
            ).to(device)
        self.optimizer = torch.optim.Adam(self.inner_loop.learned(), lr=config.learning_rate)

    # -- acting and adapting: the inner loop's -----------------------------------------------------

    def begin_trial(self, num_slots: int) -> Float[Tensor, "G P"]:
        """The starting point, for each task."""
        return self.inner_loop.begin_trial(num_slots)

    def act(
        self, state: Float[Tensor, "G P"], step: TimeStep, *, generator: torch.Generator | None
    ) -> tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"], Float[Tensor, "G P"]]:
        """Actions by each task's own policy (the mode without a generator), log-probabilities."""
        return self.inner_loop.act(state, step, generator=generator)

    def adapt(self, state: Float[Tensor, "G P"], rollout: Rollout) -> Float[Tensor, "G P"]:
        """One gradient step on each task."""
        return self.inner_loop.adapt(state, rollout)

    # -- learning ----------------------------------------------------------------------------------

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """Several Adam steps on one batch of adaptations.

        `trial` is a rollout before each gradient step, and one after all of them.

        Raises:
            NotFiniteError: something is NaN or infinite.
        """
        del generator
        inner_loop = self.inner_loop
        chunks, explained_variance = inner_loop.chunks(trial)
        acted = [self._policies_before_steps(chunk) for chunk in chunks]

        passes: list[dict[str, float]] = []
        for epoch in range(self.config.epochs + 1):  # the last one only measures
            gradient, metrics = self._gradient_and_metrics(chunks, acted)
            passes.append(metrics)
            if epoch < self.config.epochs:
                inner_loop.set_gradient(-gradient)
                self.optimizer.step()
        inner_loop.update_normalizer(trial)
        before, after = passes[0], passes[-1]
        return {
            "surrogate_before": before["surrogate"],
            "surrogate_after": after["surrogate"],
            "inner_kl": after["inner_kl"],
            "clipped": after["clipped"],
            "gradient_norm": before["gradient_norm"],
            "explained_variance": explained_variance,
            **inner_loop.metrics(),
        }

    def _policies_before_steps(self, chunk: Chunk) -> list[ActionDistribution]:
        """What acted before each gradient step."""
        meta = self.inner_loop.meta_parameters()
        unrolled = self.inner_loop.unroll_chunk(meta, chunk, differentiable=False)
        return [
            self.inner_loop.distribution(start, experience.obs).detach()
            for start, experience in zip(unrolled.starts, chunk.support, strict=True)
        ]

    def _gradient_and_metrics(
        self, chunks: Sequence[Chunk], acted: Sequence[Sequence[ActionDistribution]]
    ) -> tuple[Float[Tensor, " D"], dict[str, float]]:
        """Means over all tasks."""
        meta = self.inner_loop.meta_parameters()
        num_tasks = sum(chunk.num_tasks for chunk in chunks)
        gradient, metrics = torch.zeros_like(meta), defaultdict[str, float](float)
        for chunk, policies in zip(chunks, acted, strict=True):
            part, measured = self._gradient(meta, chunk, policies)
            gradient += part / num_tasks
            for name, value in measured.items():
                metrics[name] += value / num_tasks
        if not gradient.isfinite().all():
            raise NotFiniteError("the meta-gradient")
        return gradient, metrics | {"gradient_norm": float(gradient.norm())}

    def _gradient(
        self,
        meta: Float[Tensor, " D"],
        chunk: Chunk,
        acted: Sequence[ActionDistribution],
    ) -> tuple[Float[Tensor, " D"], dict[str, float]]:
        """Of the objective (eq. 14), summed over a chunk's tasks."""
        config, inner_loop = self.config, self.inner_loop
        unrolled = inner_loop.unroll_chunk(meta, chunk)

        adapted = unrolled.adapted.requires_grad_()
        policy = inner_loop.distribution(adapted, chunk.query.obs)
        gain = ratio(policy.log_prob(chunk.query.action), chunk.query)
        clipped = gain.clamp(1 - config.clip, 1 + config.clip)
        advantage = chunk.query.advantage
        surrogate = torch.minimum(gain * advantage, clipped * advantage).mean(1).sum()
        (slopes,) = torch.autograd.grad(surrogate, adapted)

        kl, at_starts = 0.0, []
        for start, experience, old in zip(unrolled.starts, chunk.support, acted, strict=True):
            moved = kl_divergence(old, inner_loop.distribution(start, experience.obs)).mean(1).sum()
            (kl_slopes,) = torch.autograd.grad(moved, start)
            at_starts.append(-config.inner_kl_coef * kl_slopes)
            kl += float(moved.detach())
        metrics = {
            "surrogate": float(surrogate.detach()),
            "inner_kl": kl,
            "clipped": float((gain != clipped).float().mean(1).sum()),
        }
        return unrolled.pull(slopes, at_starts), metrics

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Policy, step sizes and optimizer: all that a bit-exact resume needs."""
        return {
            **{f"inner_loop.{name}": t for name, t in self.inner_loop.state_dict().items()},
            **optim.state_dict(self.optimizer, self.inner_loop),
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Takes over what `state_dict` gave."""
        self.inner_loop.load_state_dict(optim.section(tensors, "inner_loop."))
        optim.load_state_dict(self.optimizer, self.inner_loop, tensors)
