"""VariBAD: an agent that infers a belief about its task, and acts on the belief.

Zintgraf et al. 2020, "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning",
arXiv:1910.08348. A recurrent encoder turns all experience of a trial so far into a Gaussian
posterior over a task's latent vector m. It is trained as a variational autoencoder: from m, drawn
at any step t, a decoder predicts the rewards (and optionally the transitions) of the *whole* trial,
past and future. The policy sees the observation and the posterior's mean and standard deviation,
and maximises the return of the whole trial by PPO; its gradients do not reach the encoder.

    act          with a policy on observation and belief; every step updates the belief
    adapt        nothing: the belief adapts while the agent acts
    objective    of the policy: PPO's; of encoder and decoders: `negative_elbo`
    update       PPO on the new trials, then `vae_updates` steps on trials drawn from a replay
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Int, Shaped
from pydantic import Field
from torch import Tensor, nn

from metarl.config import Count, Fraction, Positive, Size, Width, Widths
from metarl.errors import UserError
from metarl.learning import optim
from metarl.learning.advantages import explained_variance, gae
from metarl.learning.ppo import PPOConfig, decay, normalized, ppo_loss, ppo_optimizer, ppo_passes
from metarl.learning.replay import Transitions, TrialReplay
from metarl.nn.distributions import (
    ActionDistribution,
    Categorical,
    DiagonalGaussian,
    action_size,
    execute,
    kl_divergence,
)
from metarl.nn.heads import HyperHead
from metarl.nn.memories import MemoryConfig
from metarl.nn.perceptron import Perceptron
from metarl.nn.policies import RecurrentEncoder, RunningNormalizer
from metarl.system import ranks
from metarl.types import Rollout, TimeStep, TrialShape

Belief = DiagonalGaussian
"""A posterior over the latent vector of a task, `*batch Z`."""


class VariBADConfig(PPOConfig, MemoryConfig):
    """VariBAD with PPO. Defaults are those of its published code unless stated otherwise."""

    learns_on_ranks: ClassVar[bool] = True
    """See `metarl.protocols.AgentConfig`."""

    kind: Literal["varibad"] = "varibad"

    latent_size: Width = 5
    """Z, numbers of a task's latent vector."""
    encoder_sizes: Widths = (64,)
    """Units of each tanh layer between the inputs and the memory; may be empty."""

    policy: Literal["mlp", "hypernetwork"] = "mlp"
    """What acts: a perceptron on observation and belief, or a network on the observation whose
    weights the belief generates (Bias-HyperInit, Beck et al. 2022, arXiv:2210.11348)."""
    policy_sizes: Annotated[Widths, Field(min_length=1)] = (128, 128)
    """Units of each tanh layer of policy and value function; a hypernetwork generates one layer, of
    the first of these sizes."""

    decoder_sizes: Annotated[Widths, Field(min_length=1)] = (64, 32)
    """Units of each ReLU layer of the decoders."""
    decode_transitions: bool = False
    """Predict next observations besides rewards, for tasks that differ in their dynamics."""
    elbo_terms: Size = 50
    """Steps of a trial whose posterior is trained, drawn at random; fewer if a trial has fewer."""
    decoded_steps: Size = 100
    """Steps of a trial that each of them predicts, drawn at random. Published: all."""
    kl_coef: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the KL from the previous posterior."""
    replay_trials: Size = 2000
    """Trials that are kept for encoder and decoders. Published: 1,000 to 10,000."""
    vae_updates: Count = 10
    """Gradient steps of encoder and decoders in an update. Published: 1 to 3, for the 16 trials of
    an update there."""
    vae_batch_size: Size = 15
    """Trials for each of those steps."""
    vae_learning_rate: Positive = 1e-3
    """Step size of their Adam."""

    gae_lambda: Fraction = 0.9
    learning_rate: Positive = 7e-4
    max_grad_norm: Positive = 0.5
    clip: Positive = 0.1
    epochs: Size = 2
    entropy_coef: Annotated[float, Field(ge=0)] = 0.01

    @classmethod
    def small(cls) -> VariBADConfig:
        """A config whose agent plays and learns within moments, to check a user's tasks."""
        return cls(
            hidden_size=8, encoder_sizes=(), policy_sizes=(8,), decoder_sizes=(8,), epochs=1,
            num_minibatches=1, vae_updates=1, replay_trials=4,
        )  # fmt: skip

    def build(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> VariBAD:
        """A new agent."""
        return VariBAD(self, observation_space, action_space, seed=seed, device=device)

    def check_training(
        self, shape: TrialShape, *, horizon: int, num_tasks: int, num_classes: int
    ) -> None:
        """Checks that the agent can learn from trials of this shape.

        Raises:
            UserError: an update could not normalize advantages.
        """
        del num_classes
        steps = shape.episodes * horizon
        if steps * (1 if self.normalize_advantages == "trial" else num_tasks) == 1:
            raise UserError(
                "one step has no deviation to normalize its advantage by; play trials of more steps"
            )


# -- networks --------------------------------------------------------------------------------------


class BeliefEncoder(RecurrentEncoder):
    """A recurrent encoder, and a Gaussian posterior on its memory."""

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        config: VariBADConfig,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            memory=config.memory,
            layers=config.layers,
            window=config.window,
            hidden_size=config.hidden_size,
            encoder_sizes=config.encoder_sizes,
            normalize_inputs=True,
            normalize_obs=True,
        )
        self.posterior = nn.Linear(config.hidden_size, 2 * config.latent_size)
        self.initialize()
        # At first every posterior is nearly the prior.
        nn.init.orthogonal_(self.posterior.weight, gain=0.01)
        nn.init.zeros_(self.posterior.bias)

    def forward(
        self, step: TimeStep, state: Float[Tensor, "N S"]
    ) -> tuple[Belief, Float[Tensor, "N S"]]:
        """The belief at each of T steps (`step` is `N T …`), and the last memory state."""
        read, _, state = self.encode(step, state)
        return Belief(*self.posterior(read).chunk(2, dim=-1)), state


class Decoder(nn.Module):
    """Predicts rewards or next observations of steps from a task's latent vector."""

    def __init__(self, latent_size: int, input_size: int, sizes: tuple[int, ...], outputs: int):
        super().__init__()
        self.of_latent = nn.Linear(latent_size, sizes[0])
        self.of_step = nn.Linear(input_size, sizes[0], bias=False)
        self.rest = Perceptron((*sizes, outputs), nn.ReLU)

    def forward(
        self, latent: Float[Tensor, "n E Z"], steps: Float[Tensor, "n D F"]
    ) -> Float[Tensor, "n E D P"]:
        """Predictions for each of D steps from each of E latent vectors of the same trial."""
        # The first layer is the sum of two products, so that no pair's inputs are put together.
        first = self.of_latent(latent)[:, :, None] + self.of_step(steps)[:, None]
        return self.rest(first.relu())


class BeliefActorCritic(nn.Module):
    """A policy and a value function on observation and belief."""

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        config: VariBADConfig,
        *,
        value_outputs: int,
    ) -> None:
        super().__init__()
        self.obs_size = int(observation_space.shape[0])
        belief_size, num_actions = 2 * config.latent_size, action_size(action_space)
        sizes = (self.obs_size + belief_size, *config.policy_sizes)
        self.normalizer = RunningNormalizer(self.obs_size + belief_size)
        if config.policy == "hypernetwork":
            self.actor = HyperHead(
                belief_size, self.obs_size, num_actions, hidden=config.policy_sizes[0]
            )
            self.actor.initialize(gain=0.01)
        else:
            self.actor = Perceptron((*sizes, num_actions), nn.Tanh, gain=0.01)
        self.critic = Perceptron(
            (*sizes, value_outputs), nn.Tanh, gain=1.0 if value_outputs == 1 else 0.0
        )
        self.discrete = isinstance(action_space, spaces.Discrete)
        self.min_log_std = float(torch.tensor(config.min_std).log())
        self.log_std = nn.Parameter(
            torch.full((num_actions,), config.initial_std).log(), requires_grad=config.learn_std
        )

    @staticmethod
    def features(obs: Float[Tensor, "*batch O"], belief: Belief) -> Float[Tensor, "*batch F"]:
        """The network's input, before normalization: observation and belief."""
        return torch.cat([obs, belief.mean, belief.log_std], dim=-1)

    def forward(
        self, features: Float[Tensor, "*batch F"]
    ) -> tuple[ActionDistribution, Float[Tensor, "*batch V"]]:
        """The policy and the outputs of the value function."""
        scaled = self.normalizer(features)
        if isinstance(self.actor, HyperHead):
            obs, belief = scaled[..., : self.obs_size], scaled[..., self.obs_size :]
            head = self.actor(belief, obs)
        else:
            head = self.actor(scaled)
        value = self.critic(scaled)
        if self.discrete:
            return Categorical(head), value
        log_std = self.log_std.clamp(min=self.min_log_std)
        return DiagonalGaussian(head, log_std.expand_as(head)), value


# -- the objective of encoder and decoders ---------------------------------------------------------


def kl_from_previous(belief: Belief) -> Float[Tensor, "N T"]:
    """KL from each posterior to the one before it, nats; before the first there is N(0, 1).

    Zintgraf et al. 2020, section 3.1: the posterior of the previous step is the prior of the next.
    """

    def before(values: Float[Tensor, "N T Z"]) -> Float[Tensor, "N T Z"]:
        return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)

    return kl_divergence(belief, Belief(before(belief.mean), before(belief.log_std)))


def negative_elbo(
    reward_errors: Float[Tensor, "n E D"],
    transition_errors: Float[Tensor, "n E D"] | None,
    kl: Float[Tensor, "n E"],
    *,
    num_steps: int,
    kl_coef: float,
) -> Float[Tensor, ""]:
    """−ELBO_t of eq. 8 (Zintgraf et al. 2020), a mean over trials and over E steps t.

    Args:
        reward_errors: squared errors of D of a trial's steps, from each of E posteriors.
        transition_errors: those of next observations.
        kl: KL of each of these posteriors.
        num_steps: steps of a trial: the sum over them is estimated from D.
        kl_coef: weight of the KL.
    """
    errors = reward_errors if transition_errors is None else reward_errors + transition_errors
    return num_steps * errors.mean() + kl_coef * kl.mean()


# -- the agent -------------------------------------------------------------------------------------


class VariBAD:
    """The VariBAD agent. Its adaptation state is the state of the encoder's memory, `N S`."""

    def __init__(
        self,
        config: VariBADConfig,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.device, self.action_space = config, device, action_space
        self.values = config.value_targets(device)
        num_obs, num_actions = int(observation_space.shape[0]), action_size(action_space)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = BeliefActorCritic(
                observation_space, action_space, config, value_outputs=self.values.num_outputs
            ).to(device)
            inputs = (config.latent_size, 2 * num_obs + num_actions, config.decoder_sizes)
            self.vae = nn.ModuleDict(
                {
                    "encoder": BeliefEncoder(observation_space, action_space, config),
                    "rewards": Decoder(*inputs, outputs=1),
                }
            )
            if config.decode_transitions:
                inputs = (config.latent_size, num_obs + num_actions, config.decoder_sizes)
                self.vae["transitions"] = Decoder(*inputs, outputs=num_obs)
            self.vae.to(device)
        self.replay = TrialReplay(config.replay_trials, device=device)
        self.policy_optimizer = ppo_optimizer(self.policy, config)
        self.vae_optimizer = torch.optim.Adam(self.vae.parameters(), lr=config.vae_learning_rate)

    @property
    def encoder(self) -> BeliefEncoder:
        """Turns experience into beliefs."""
        encoder = self.vae["encoder"]
        assert isinstance(encoder, BeliefEncoder)
        return encoder

    # -- acting: every step of a trial updates the belief ------------------------------------------

    def begin_trial(self, num_slots: int) -> Float[Tensor, "N S"]:
        """An empty memory."""
        return torch.zeros(num_slots, self.encoder.state_size, device=self.device)

    @torch.no_grad()
    def act(
        self,
        state: Float[Tensor, "N S"],
        step: TimeStep,
        *,
        generator: torch.Generator | None,
    ) -> tuple[Shaped[Tensor, " N *A"], Float[Tensor, " N"], Float[Tensor, "N S"]]:
        """Action, its log-probability and the memory after this step; without a generator the mode
        is taken."""
        belief, state = self.encoder(step.map(lambda x: x[:, None]), state)
        policy, _ = self.policy(self.policy.features(step.obs[:, None], belief))
        action = policy.mode() if generator is None else policy.sample(generator)
        return action[:, 0], policy.log_prob(action)[:, 0], state

    def adapt(self, state: Float[Tensor, "N S"], rollout: Rollout) -> Float[Tensor, "N S"]:
        """The unchanged memory: the agent adapted while it acted."""
        del rollout
        return state

    @torch.no_grad()
    def beliefs(self, trial: Sequence[Rollout]) -> Belief:
        """The posterior before each step of a trial, `N T Z`."""
        (rollout,) = trial
        return self.encoder(rollout.seen, self.begin_trial(len(rollout.reward)))[0]

    # -- learning ----------------------------------------------------------------------------------

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """PPO on one trial of N tasks, then steps of encoder and decoders on trials of the replay;
        returns metrics to log."""
        (rollout,) = trial
        metrics = self._learn_to_act(rollout, generator)
        # Until here the encoder had to be the one that acted.
        self.encoder.update_normalizer(rollout.seen)
        self.replay.add(rollout, execute(rollout.action, self.action_space)[1])
        return metrics | self._learn_to_infer(generator)

    def _learn_to_act(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        config = self.config
        with torch.no_grad():
            features = self.policy.features(rollout.seen.obs, self.beliefs([rollout]))
            value = self.values.returns_of(self.policy(features)[1])
        advantage = gae(
            rollout.reward * config.reward_scale,
            value,
            cut=torch.zeros_like(rollout.episode_end),
            discount=config.discount,
            gae_lambda=config.gae_lambda,
            last_value=torch.zeros_like(value[:, 0]),
        )
        returns = advantage + value
        scaled = normalized(advantage, each_trial=config.normalize_advantages == "trial")
        steps = [
            x.flatten(0, 1) for x in (features, rollout.action, rollout.log_prob, scaled, returns)
        ]

        def loss(chosen: Int[Tensor, " m"]) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
            features, action, log_prob, advantage, returns = (x[chosen] for x in steps)
            policy, value = self.policy(features)
            return ppo_loss(
                policy,
                value,
                action=action,
                log_prob=log_prob,
                advantage=advantage,
                returns=returns,
                targets=self.values,
                optimizer=self.policy_optimizer,
                config=config,
            )

        metrics = ppo_passes(
            loss, self.policy_optimizer, num_rows=value.numel(), config=config, generator=generator
        )
        metrics["explained_variance"] = explained_variance(returns, value)
        self.values.update(returns)
        self.policy.normalizer.update(features)
        return metrics | decay(self.policy_optimizer, self.policy.log_std, config)

    def _learn_to_infer(self, generator: torch.Generator) -> dict[str, float]:
        history: list[dict[str, Tensor]] = []
        for _ in range(self.config.vae_updates):
            rows = self.replay.draw_trials(self.config.vae_batch_size, generator)
            own, weight = ranks.split(len(rows))
            with ranks.taking(own, generator):
                loss, metrics = self._vae_loss(
                    *self.replay.trials(own.of(rows)), generator=generator
                )
            self.vae_optimizer.zero_grad()
            (weight * loss).backward()
            ranks.sum_gradients(self.vae.parameters())
            self.vae_optimizer.step()
            history.append({name: weight * metric for name, metric in metrics.items()})
        return {
            name: float(ranks.summed(torch.stack([each[name] for each in history])).mean())
            for name in history[0]
        }

    def _vae_loss(
        self, seen: TimeStep, steps: Transitions, *, generator: torch.Generator
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """`negative_elbo` of n trials at steps drawn at random; and metrics."""
        num_trials, num_steps = steps.reward.shape
        belief, _ = self.encoder(seen, self.begin_trial(num_trials))

        def draw(count: int) -> Int[Tensor, " count"]:
            order = torch.randperm(num_steps, generator=generator, device=self.device)
            return order[:count].sort().values

        at, decoded = draw(self.config.elbo_terms), draw(self.config.decoded_steps)
        latent = Belief(belief.mean[:, at], belief.log_std[:, at]).sample(generator)
        obs, action, reward, next_obs = (
            x[:, decoded] for x in (steps.obs, steps.action, steps.reward, steps.next_obs)
        )
        obs, next_obs = self._scaled(obs), self._scaled(next_obs)
        inputs = torch.cat([obs, action, next_obs], dim=-1)
        predicted = self.vae["rewards"](latent, inputs).squeeze(-1)
        reward_errors = (predicted - self.config.reward_scale * reward[:, None]).square()
        metrics = {"reward_error": reward_errors.mean()}
        transition_errors = None
        if self.config.decode_transitions:
            predicted = self.vae["transitions"](latent, torch.cat([obs, action], dim=-1))
            transition_errors = (predicted - next_obs[:, None]).square().mean(-1)
            metrics["transition_error"] = transition_errors.mean()
        kl = kl_from_previous(belief)
        loss = negative_elbo(
            reward_errors,
            transition_errors,
            kl[:, at],
            num_steps=num_steps,
            kl_coef=self.config.kl_coef,
        )
        metrics |= {
            "vae_loss": loss,
            "belief_kl": kl.sum(1).mean(),
            "belief_std": belief.log_std[:, -1].exp().mean(),
        }
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def _scaled(self, obs: Float[Tensor, "*batch O"]) -> Float[Tensor, "*batch O"]:
        """Observations in units of the encoder's running statistics."""
        normalizer, num_obs = self.encoder.normalizer, obs.shape[-1]
        assert normalizer is not None
        mean, std = (x[:num_obs].to(obs.dtype) for x in (normalizer.mean, normalizer.std))
        return ((obs - mean) / std).clamp(-normalizer.clip, normalizer.clip)

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters, normalizers, optimizers and replay: all that a bit-exact resume needs."""
        return {
            **{f"policy.{name}": tensor for name, tensor in self.policy.state_dict().items()},
            **{f"vae.{name}": tensor for name, tensor in self.vae.state_dict().items()},
            **self.values.state_dict(),
            **optim.state_dict(self.policy_optimizer, self.policy, prefix="policy."),
            **optim.state_dict(self.vae_optimizer, self.vae, prefix="vae."),
            **self.replay.state_dict(),
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.policy.load_state_dict(optim.section(tensors, "policy."))
        self.vae.load_state_dict(optim.section(tensors, "vae."))
        self.values.load_state_dict(tensors)
        optim.load_state_dict(self.policy_optimizer, self.policy, tensors, prefix="policy.")
        optim.load_state_dict(self.vae_optimizer, self.vae, tensors, prefix="vae.")
        self.replay.load_state_dict(tensors)
