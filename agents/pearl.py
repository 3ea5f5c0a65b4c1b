"""PEARL: an agent that infers its task from single transitions, and learns off-policy.

Rakelly et al. 2019, "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
Variables", arXiv:1903.08254. An encoder turns each transition of the context into a Gaussian factor
over a task's latent vector z; the posterior is their product, whatever their order. The agent draws
z at the start of each episode, from the prior at first, and acts on observation and z as if z were
the task: posterior sampling. Policy and Q functions are those of soft actor-critic (Haarnoja et al.
2018, arXiv:1812.05905), conditioned on z and trained on transitions from a replay; the encoder is
trained by the error of the Q functions, and by the KL from the prior.

    act          with a policy on observation and z; transitions are added to the context
    adapt        nothing: z is drawn again at the start of each episode
    objective    `q_error` and KL for encoder and Q functions, `actor_loss`, `temperature_loss`
    update       `gradient_steps` steps, each on several tasks from the replay
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from metarl.config import Config, Count, Fraction, Positive, Size, Width, Widths
from metarl.errors import UserError
from metarl.learning import optim
from metarl.learning.replay import Groups, Transitions, TrialReplay, below
from metarl.learning.sac import actor_loss, q_error, q_target, temperature_loss
from metarl.nn.distributions import DiagonalGaussian, SquashedGaussian, execute, kl_divergence
from metarl.nn.perceptron import Perceptron
from metarl.system import ranks
from metarl.system.hardware import has_fast_bfloat16
from metarl.types import Rollout, TimeStep, TrialShape

LOG_STD = (-20.0, 2.0)
"""Bounds of the policy's log standard deviation, before it is squashed."""


class PEARLConfig(Config):
    """PEARL with soft actor-critic. Defaults are published ones unless stated otherwise."""

    discrete_actions: ClassVar[bool] = False
    """Actions must be continuous."""

    learns_on_ranks: ClassVar[bool] = True
    """See `metarl.protocols.AgentConfig`."""

    kind: Literal["pearl"] = "pearl"

    latent_size: Width = 5
    """Z, numbers of a task's latent vector."""
    encoder_sizes: Annotated[Widths, Field(min_length=1)] = (200, 200, 200)
    """Units of each ReLU layer of the encoder of transitions."""
    hidden_sizes: Annotated[Widths, Field(min_length=1)] = (300, 300, 300)
    """Units of each ReLU layer of policy and Q functions."""
    next_obs_in_context: bool = False
    """Show the encoder the next observation of a transition, for tasks that differ in dynamics."""
    prior_episodes: Count = 1
    """First episodes of a trial for which z is drawn from the prior."""
    context: Literal["prior", "trial"] = "prior"
    """What the encoder learns from: the newest trials of a task, the episodes under the prior alone
    or all."""

    gradient_steps: Count = 1000
    """Gradient steps in an update."""
    tasks_per_step: Size = 16
    """Tasks in each of them, drawn from those in the replay."""
    batch_size: Size = 256
    """Transitions of each task for policy and Q functions."""
    context_size: Size = 64
    """Transitions of each task for the encoder, from the newest trials of the task."""
    replay_trials: Size = 2000
    """Trials that are kept. Published: 1,000,000 transitions for each task."""

    discount: Fraction = 0.99
    """Discount per step. Episodes end by time alone, so values reach beyond their end."""
    reward_scale: Positive = 5.0
    """Factor on rewards, as seen by the Q functions."""
    temperature: Positive | Literal["auto"] = 1.0
    """Weight of the policy's entropy, or `auto` to learn one that keeps it at −A nats."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the KL from the prior, summed over the tasks of a step."""
    learning_rate: Positive = 3e-4
    """Step size of Adam, for all networks."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Precision of the products of matrices in hidden layers, while learning. `bfloat16` is faster
    on processors and GPUs with instructions for it; others use float32."""
    target_rate: Fraction = 0.005
    """Share by which target networks move to the Q functions in each gradient step."""

    @classmethod
    def small(cls) -> PEARLConfig:
        """A config whose agent plays and learns within moments, to check a user's tasks."""
        return cls(
            encoder_sizes=(8,), hidden_sizes=(8,), gradient_steps=1, tasks_per_step=2,
            batch_size=4, context_size=4, replay_trials=4,
        )  # fmt: skip

    def build(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> PEARL:
        """A new agent.

        Raises:
            UserError: actions are not continuous, or not between finite bounds.
        """
        if not (isinstance(action_space, spaces.Box) and _has_finite_ranges(action_space)):
            raise UserError(
                "agent.kind pearl needs continuous actions within finite bounds, low below high"
            )
        return PEARL(self, observation_space, action_space, seed=seed, device=device)

    def trial_shape(self, episodes: int, *, training: bool = False) -> TrialShape:
        """Consecutive episodes in one slot, as a single rollout."""
        del training
        return TrialShape(episodes=episodes)

    def check_training(
        self, shape: TrialShape, *, horizon: int, num_tasks: int, num_classes: int
    ) -> None:
        """Checks that the agent can learn from trials of this shape.

        Raises:
            UserError: a trial has fewer episodes than are played under the prior.
        """
        del horizon, num_tasks, num_classes
        if shape.episodes < self.prior_episodes:
            raise UserError(
                f"agent.prior_episodes {self.prior_episodes} is more than the "
                f"train.episodes_per_trial {shape.episodes}"
            )


def _has_finite_ranges(space: spaces.Box) -> bool:
    """True if all actions lie between finite bounds, in single precision."""
    with np.errstate(over="ignore"):
        ranges = np.float32(space.high) - np.float32(space.low)
    return bool((np.isfinite(ranges) & (ranges > 0)).all())


# -- the posterior ---------------------------------------------------------------------------------


class Context(NamedTuple):
    """What the agent knows of the task of each slot, and the z that it acts on."""

    obs: Float[Tensor, "N O"]
    """The observation of the step before."""
    precision: Float[Tensor, "N Z"]
    """Sum of the factors' precisions (inverse variances)."""
    weighted: Float[Tensor, "N Z"]
    """Sum of their means, each times its precision."""
    latent: Float[Tensor, "N Z"]
    """z of the present episode."""
    episodes: Int[Tensor, " N"]
    """Episodes that were begun."""


def posterior_of(
    precision: Float[Tensor, "*batch Z"], weighted: Float[Tensor, "*batch Z"]
) -> DiagonalGaussian:
    """The product of Gaussian factors (Rakelly et al. 2019, eq. 2); N(0, 1) without any.

    Args:
        precision: sum of the factors' precisions; 0 without any.
        weighted: sum of their means, each times its precision.
    """
    nothing = precision == 0
    precision = torch.where(nothing, 1.0, precision)
    return DiagonalGaussian(torch.where(nothing, 0.0, weighted / precision), -0.5 * precision.log())


def kl_from_prior(posterior: DiagonalGaussian) -> Float[Tensor, "*batch"]:
    """KL(posterior ‖ N(0, 1)) in nats."""
    zero = torch.zeros_like(posterior.mean)
    return kl_divergence(posterior, DiagonalGaussian(zero, zero))


# -- networks --------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Turns a transition into a Gaussian factor over z."""

    def __init__(self, input_size: int, sizes: tuple[int, ...], latent_size: int) -> None:
        super().__init__()
        self.layers = Perceptron((input_size, *sizes, 2 * latent_size), nn.ReLU)

    def forward(
        self, transitions: Float[Tensor, "*batch F"]
    ) -> tuple[Float[Tensor, "*batch Z"], Float[Tensor, "*batch Z"]]:
        """Mean and precision of each transition's factor."""
        mean, spread = self.layers(transitions).chunk(2, dim=-1)
        return mean, 1 / functional.softplus(spread).clamp(min=1e-7)


class TwinQ(nn.Module):
    """Two Q functions of observation, z and action (within ±1)."""

    def __init__(self, input_size: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.both = nn.ModuleList(Perceptron((input_size, *sizes, 1), nn.ReLU) for _ in range(2))

    def forward(
        self,
        obs: Float[Tensor, "G B O"],
        latent: Float[Tensor, "G B Z"],
        action: Float[Tensor, "G B A"],
    ) -> Float[Tensor, "2 G B"]:
        """The values of both."""
        inputs = torch.cat([obs, latent, action], dim=-1)
        return torch.stack([q(inputs).squeeze(-1) for q in self.both])


class Critic(nn.Module):
    """What the Q functions' error trains: the encoder and the Q functions."""

    def __init__(self, encoder: Encoder, q: TwinQ) -> None:
        super().__init__()
        self.encoder, self.q = encoder, q


class Actor(nn.Module):
    """The policy, the range of its actions, and the temperature, which weighs its entropy."""

    middle: Tensor
    half_range: Tensor

    def __init__(
        self,
        input_size: int,
        sizes: tuple[int, ...],
        action_space: spaces.Box,
        config: PEARLConfig,
    ) -> None:
        super().__init__()
        num_actions = action_space.shape[0]
        low, high = (
            torch.as_tensor(bound, dtype=torch.get_default_dtype())
            for bound in (action_space.low, action_space.high)
        )
        # Saved: within other bounds the agent acts as in training, and is clipped.
        self.register_buffer("middle", (low + high) / 2)
        self.register_buffer("half_range", (high - low) / 2)
        self.policy = Perceptron((input_size, *sizes, 2 * num_actions), nn.ReLU, gain=0.01)
        start = 1.0 if config.temperature == "auto" else config.temperature
        self.log_temperature = nn.Parameter(
            torch.tensor(start).log(), requires_grad=config.temperature == "auto"
        )

    def forward(
        self, obs: Float[Tensor, "*batch O"], latent: Float[Tensor, "*batch Z"]
    ) -> SquashedGaussian:
        """The distribution of actions within ±1."""
        mean, log_std = self.policy(torch.cat([obs, latent], dim=-1)).chunk(2, dim=-1)
        return SquashedGaussian(mean, log_std.clamp(*LOG_STD))


# -- the agent -------------------------------------------------------------------------------------


class PEARL:
    """The PEARL agent. Its adaptation state is a `Context`."""

    def __init__(
        self,
        config: PEARLConfig,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.device, self.action_space = config, device, action_space
        self.bfloat16 = config.products == "bfloat16" and has_fast_bfloat16(device)
        self.obs_size, self.action_size = observation_space.shape[0], action_space.shape[0]
        obs, action, latent = self.obs_size, self.action_size, config.latent_size
        transition = obs + action + 1 + (obs if config.next_obs_in_context else 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = Actor(obs + latent, config.hidden_sizes, action_space, config)
            self.critic = Critic(
                Encoder(transition, config.encoder_sizes, latent),
                TwinQ(obs + latent + action, config.hidden_sizes),
            )
            self.target_q = TwinQ(obs + latent + action, config.hidden_sizes)
        self.target_q.load_state_dict(self.critic.q.state_dict())
        self.target_q.requires_grad_(False)
        for network in (self.actor, self.critic, self.target_q):
            network.to(device)
        self.replay = TrialReplay(config.replay_trials, device=device)
        self.actor_optimizer, self.critic_optimizer = (
            torch.optim.Adam(
                [p for p in network.parameters() if p.requires_grad],
                lr=config.learning_rate,
                fused=True,
            )
            for network in (self.actor, self.critic)
        )

    # -- acting: every transition adds to the context; z changes with the episode ------------------

    def begin_trial(self, num_slots: int) -> Context:
        """An empty context."""
        zeros = torch.zeros(num_slots, self.config.latent_size, device=self.device)
        return Context(
            obs=torch.zeros(num_slots, self.obs_size, device=self.device),
            precision=zeros,
            weighted=zeros,
            latent=zeros,
            episodes=torch.zeros(num_slots, dtype=torch.int64, device=self.device),
        )

    @torch.no_grad()
    def act(
        self, state: Context, step: TimeStep, *, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "N A"], Float[Tensor, " N"], Context]:
        """Action, its log-density and the context before the next step; without a generator the
        mode is taken, of the action and of z."""
        state = self._observe(state, step, generator)
        action, log_prob = self.actor(step.obs, state.latent).draw(generator)
        log_density = log_prob - self.actor.half_range.log().sum()
        return self.actor.middle + self.actor.half_range * action, log_density, state

    def adapt(self, state: Context, rollout: Rollout) -> Context:
        """The unchanged context: the agent adapts while it acts."""
        del rollout
        return state

    def _observe(
        self, state: Context, step: TimeStep, generator: torch.Generator | None
    ) -> Context:
        """The context with the transition that led to this time step; where an episode begins, with
        another z."""
        factor = self._factors(state.obs, step, first=state.episodes == 0)
        precision, weighted = state.precision + factor[0], state.weighted + factor[1]
        episodes, latent = state.episodes + step.episode_start, state.latent
        if step.episode_start.any():
            known = (episodes > self.config.prior_episodes)[:, None]
            belief = posterior_of(precision * known, weighted * known)
            drawn = belief.mode() if generator is None else belief.sample(generator)
            latent = torch.where(step.episode_start[:, None], drawn, latent)
        return Context(step.obs, precision, weighted, latent, episodes)

    def _factors(
        self,
        obs: Float[Tensor, "*batch O"],
        step: TimeStep,
        *,
        first: Bool[Tensor, "*batch"],
    ) -> tuple[Float[Tensor, "*batch Z"], Float[Tensor, "*batch Z"]]:
        """Precision, and mean times precision, of the factor of the transition that led from `obs`
        to a time step; zero if there is none, as it is the trial's first.

        A policy is not shown the observation at an episode's end, so that an encoder that needs it
        goes without that transition.
        """
        mean, precision = self.critic.encoder(
            self._inputs(obs, step.prev_action, step.prev_reward, step.obs)
        )
        absent = first | step.episode_start if self.config.next_obs_in_context else first
        precision = precision * ~absent[..., None]
        return precision, mean * precision

    def _inputs(
        self,
        obs: Float[Tensor, "*batch O"],
        action: Float[Tensor, "*batch A"],
        reward: Float[Tensor, "*batch"],
        next_obs: Float[Tensor, "*batch O"],
    ) -> Float[Tensor, "*batch F"]:
        """The encoder's input for a transition."""
        parts = [obs, self._unscaled(action), reward[..., None]]
        return torch.cat([*parts, next_obs] if self.config.next_obs_in_context else parts, dim=-1)

    def _unscaled(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """An executed action, in units of its bounds."""
        return (action - self.actor.middle) / self.actor.half_range

    @torch.no_grad()
    def beliefs(self, trial: Sequence[Rollout]) -> DiagonalGaussian:
        """The posterior given all transitions before each step of a trial, `N T Z`."""
        (rollout,) = trial
        seen = rollout.seen
        before = torch.cat([seen.obs[:, :1], seen.obs[:, :-1]], dim=1)
        first = torch.zeros_like(seen.episode_start)
        first[:, 0] = True
        precision, weighted = self._factors(before, seen, first=first)
        return posterior_of(precision.cumsum(1), weighted.cumsum(1))

    # -- learning ----------------------------------------------------------------------------------

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """Adds a trial to the replay and takes `gradient_steps` steps; returns metrics to log."""
        (rollout,) = trial
        self.replay.add(rollout, execute(rollout.action, self.action_space)[1])
        own, weight = ranks.split(self.config.tasks_per_step)
        every, newest = self.replay.by_task(), self.replay.by_task(newest=True)
        history: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(self.config.gradient_steps):
            experience = self._draw(every, newest, generator)
            with ranks.taking(own, generator):
                metrics = self._gradient_step(*experience, generator)
            for name, metric in metrics.items():
                history[name].append(weight * metric)
        metrics = {
            name: float(ranks.summed(torch.stack(values)).mean())
            for name, values in history.items()
        }
        metrics["tasks_in_replay"] = float(every.num_tasks)
        return metrics

    def _draw(
        self, every: Groups, newest: Groups, generator: torch.Generator
    ) -> tuple[Transitions, Float[Tensor, "G C F"]]:
        """Transitions of tasks drawn at random (`G B …`) for policy and Q functions, and other
        transitions of the same tasks for the encoder; those of the rank's own share."""
        config, replay = self.config, self.replay
        own, _ = ranks.split(config.tasks_per_step)
        num_tasks = torch.full((config.tasks_per_step,), every.num_tasks, device=self.device)
        tasks = below(num_tasks, generator)
        rows = every.draw(tasks, config.batch_size, generator)
        steps = replay.draw_steps(rows, generator)
        batch = replay.transitions(own.of(rows), own.of(steps))
        rows = newest.draw(tasks, config.context_size, generator)
        first = config.prior_episodes * replay.horizon if config.context == "prior" else None
        steps = replay.draw_steps(rows, generator, first=first)
        context = replay.transitions(own.of(rows), own.of(steps))
        return batch, self._inputs(context.obs, context.action, context.reward, context.next_obs)

    def _gradient_step(
        self,
        batch: Transitions,
        context: Float[Tensor, "G C F"],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """One step of Q functions and encoder, then of the policy; returns metrics of own tasks."""
        config, actor = self.config, self.actor
        own, weight = ranks.split(config.tasks_per_step)
        temperature = actor.log_temperature.detach().exp()
        with self._products():
            mean, precision = self.critic.encoder(context)
            posterior = posterior_of(precision.sum(1), (mean * precision).sum(1))
            latent = posterior.sample(generator)[:, None].expand(-1, batch.reward.shape[1], -1)
            with torch.no_grad():
                next_action, next_log_prob = actor(batch.next_obs, latent).draw(generator)
                target = q_target(
                    config.reward_scale * batch.reward,
                    self.target_q(batch.next_obs, latent, next_action),
                    next_log_prob,
                    temperature=temperature,
                    discount=config.discount,
                )
            q = self.critic.q(batch.obs, latent, self._unscaled(batch.action))
        q_loss, kl = q_error(q, target), kl_from_prior(posterior)
        self.critic_optimizer.zero_grad()
        kl_of_all = own.total / len(own) * kl.sum()
        (weight * (q_loss + config.kl_coef * kl_of_all)).backward()
        ranks.sum_gradients(self.critic.parameters())
        self.critic_optimizer.step()

        latent = latent.detach()
        self.critic.q.requires_grad_(False)
        with self._products():
            action, log_prob = actor(batch.obs, latent).draw(generator)
            policy_loss = actor_loss(
                self.critic.q(batch.obs, latent, action), log_prob, temperature=temperature
            )
        self.critic.q.requires_grad_(True)
        loss = policy_loss
        if config.temperature == "auto":
            loss = loss + temperature_loss(
                actor.log_temperature, log_prob, entropy=-float(self.action_size)
            )
        self.actor_optimizer.zero_grad()
        (weight * loss).backward()
        ranks.sum_gradients(self.actor.parameters())
        self.actor_optimizer.step()

        with torch.no_grad():
            for target, learnt in zip(
                self.target_q.parameters(), self.critic.q.parameters(), strict=True
            ):
                target.lerp_(learnt, config.target_rate)
        return {
            "q_loss": q_loss.detach(),
            "q": q.detach().mean(),
            "policy_loss": policy_loss.detach(),
            "entropy": -log_prob.detach().mean(),
            "temperature": temperature,
            "belief_kl": kl.detach().mean(),
            "belief_std": posterior.log_std.detach().exp().mean(),
        }

    def _products(self) -> torch.autocast:
        """Context in which hidden layers compute in `products`. Rounded weights are kept until it
        ends, so no weight may change inside."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters, optimizers and replay: all that a bit-exact resume needs."""
        networks = {"actor": self.actor, "critic": self.critic, "target_q": self.target_q}
        return {
            **{
                f"{of}.{k}": t
                for of, each in networks.items()
                for k, t in each.state_dict().items()
            },
            **optim.state_dict(self.actor_optimizer, self.actor, prefix="actor."),
            **optim.state_dict(self.critic_optimizer, self.critic, prefix="critic."),
            **self.replay.state_dict(),
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.actor.load_state_dict(optim.section(tensors, "actor."))
        self.critic.load_state_dict(optim.section(tensors, "critic."))
        self.target_q.load_state_dict(optim.section(tensors, "target_q."))
        optim.load_state_dict(self.actor_optimizer, self.actor, tensors, prefix="actor.")
        optim.load_state_dict(self.critic_optimizer, self.critic, tensors, prefix="critic.")
        self.replay.load_state_dict(tensors)
