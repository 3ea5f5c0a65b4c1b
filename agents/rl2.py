"""RL²: an agent whose memory is its learning algorithm, trained by PPO over whole trials.

Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning",
arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763. A trial is K consecutive episodes on one
task. The memory is carried across the episodes of a trial but not across trials, and the objective
is the return of the whole trial, so that early exploration pays off. The outer algorithm is PPO
(Schulman et al. 2017, arXiv:1707.06347) with truncated back-propagation: a trial is cut into
chunks, and each chunk starts from the memory that the policy had there.

    act          with a memory that takes observation, last action, last reward and episode start
    adapt        nothing: the memory adapts while the agent acts
    objective    `clipped_surrogate` of advantages over the whole trial, entropy, less `value_error`
                 (and less the error of predicted rewards, if `prediction_coef` is given)
    update       `epochs` passes over all chunks, by Adam
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Int, Shaped
from pydantic import Field
from torch import Tensor

from metarl.config import Size, Widths
from metarl.errors import UserError
from metarl.learning import optim
from metarl.learning.advantages import (
    discounted_returns,
    explained_variance,
    gae,
    linear_baseline,
)
from metarl.learning.ppo import PPOConfig, decay, normalized, ppo_loss, ppo_optimizer, ppo_passes
from metarl.nn.heads import HeadKind
from metarl.nn.memories import MemoryConfig
from metarl.nn.policies import RecurrentActorCritic
from metarl.system.hardware import has_fast_bfloat16
from metarl.types import Rollout, TimeStep, TrialShape


class RL2Config(PPOConfig, MemoryConfig):
    """RL² with PPO. Defaults are those of the Meta-World baselines unless stated otherwise."""

    learns_within_trials: ClassVar[bool] = True
    """`meta_update` also takes a part of a trial, so that `train.rollout_steps` may be given."""
    learns_on_ranks: ClassVar[bool] = True
    """See `metarl.protocols.AgentConfig`."""

    kind: Literal["rl2"] = "rl2"

    encoder_sizes: Widths = (128,)
    """Units of each tanh layer between the inputs and the memory; may be empty."""
    reenter: bool = False
    """Let the heads read the encoded present input beside the memory (Beck et al. 2023,
    arXiv:2309.14970)."""
    head: HeadKind = "linear"
    """What reads the memory: a `linear` layer, an `mlp` of two layers, or a `hypernetwork` that
    generates the weights of a policy on the encoded present input."""
    per_action: bool = False
    """Give each discrete action a memory of its own, of `hidden_size` units and all with the same
    weights, so that what is learned of one action holds for all (after Kirsch et al. 2022,
    arXiv:2109.10781). Much quicker to learn where the tasks do not tell actions apart, as bandits;
    needs `encoder_sizes: []`, and neither `reenter` nor a `hypernetwork`."""
    prediction_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of an auxiliary loss, the squared error of predicted rewards in units of their
    variance; above 0 the memory learns from every reward what actions pay in this task, also where
    returns do not tell yet."""
    normalize_inputs: bool = True
    """Scale the inputs of the policy, except discrete actions, by their running mean and standard
    deviation."""
    normalize_obs: bool = True
    """Include observations in this scaling. Scaling enlarges features that vary little but differ
    between tasks; the agent may then memorise the training tasks."""

    baseline: Literal["value", "linear"] = "value"
    """Baseline of advantages: a value head on the memory, or a linear fit on each trial's
    observations and time."""
    chunk_length: Size = 100
    """Steps of back-propagation through time; must divide the steps of a trial."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Precision of the large products of matrices in an update, before the heads. `bfloat16` is
    faster on processors and GPUs with instructions for it; others use float32."""

    @classmethod
    def small(cls) -> RL2Config:
        """A config whose agent plays and learns within moments, to check a user's tasks."""
        return cls(hidden_size=8, encoder_sizes=(), epochs=1, num_minibatches=1)

    def build(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> RL2:
        """A new agent."""
        return RL2(self, observation_space, action_space, seed=seed, device=device)

    def check_training(
        self, shape: TrialShape, *, horizon: int, num_tasks: int, num_classes: int
    ) -> None:
        """Checks that the agent can learn from trials of this shape.

        Raises:
            UserError: `chunk_length` does not divide the steps of a trial, or those that it is
                played in, or an update could not normalize advantages.
        """
        del num_classes
        trial_steps = shape.episodes * horizon
        part = shape.rollout_steps or trial_steps
        if part > trial_steps:
            raise UserError(
                f"train.rollout_steps {part} is more than a trial of {trial_steps} steps"
            )
        _check_divides(part, trial_steps, what="train.rollout_steps", of="a trial")
        of = "a trial" if part == trial_steps else "train.rollout_steps"
        _check_divides(min(self.chunk_length, part), part, what="agent.chunk_length", of=of)
        if shape.rollout_steps and self.baseline == "linear":
            raise UserError("train.rollout_steps needs agent.baseline value, to go on with a value")
        if part * (1 if self.normalize_advantages == "trial" else num_tasks) == 1:
            raise UserError(
                "one step has no deviation to normalize its advantage by; give more "
                "train.rollout_steps, or trials of more steps"
            )

    def check_per_action(self, action_space: spaces.Box | spaces.Discrete) -> None:
        """Checks that each action can have its own memory.

        Raises:
            UserError: actions are continuous, or a setting would not treat all actions alike.
        """
        if isinstance(action_space, spaces.Box):
            raise UserError("agent.per_action is for discrete actions; these are continuous")
        if self.encoder_sizes:
            raise UserError("agent.per_action needs agent.encoder_sizes []: layers mix actions")
        if self.reenter or self.head == "hypernetwork":
            raise UserError("agent.per_action needs agent.reenter false, and head linear or mlp")


def _check_divides(length: int, steps: int, *, what: str, of: str) -> None:
    if steps % length:
        fits = [n for n in range(1, steps + 1) if steps % n == 0]
        best = min(fits, key=lambda n: abs(n - length))
        raise UserError(
            f"{what} {length} does not divide {of} of {steps} steps; "
            f"the nearest that does is {best}"
        )


# -- chunks of trials ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """M chunks of trials, L steps each; gradients flow within a chunk only."""

    seen: TimeStep
    memory: Float[Tensor, "M S"]
    """Memory before the first step of each chunk, from the policy at the start of the update."""
    action: Shaped[Tensor, "M L *A"]
    log_prob: Float[Tensor, "M L"]
    advantage: Float[Tensor, "M L"]
    returns: Float[Tensor, "M L"]
    reward: Float[Tensor, "M L"]

    def __len__(self) -> int:
        return len(self.memory)

    def take(self, chosen: Int[Tensor, " m"]) -> Chunks:
        """The chunks with the given indices."""
        return Chunks(
            seen=self.seen.map(lambda x: x[chosen]),
            memory=self.memory[chosen],
            action=self.action[chosen],
            log_prob=self.log_prob[chosen],
            advantage=self.advantage[chosen],
            returns=self.returns[chosen],
            reward=self.reward[chosen],
        )


def cut(values: Shaped[Tensor, "N T *F"], length: int) -> Shaped[Tensor, "M L *F"]:
    """Trials cut into chunks: those of the first slot in order, then those of the second, …"""
    return values.unflatten(1, (-1, length)).flatten(0, 1)


# -- the agent -------------------------------------------------------------------------------------


class RL2:
    """The RL² agent. Its adaptation state is the hidden state of the memory, `N S`."""

    def __init__(
        self,
        config: RL2Config,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config = config
        self.device = device
        self.bfloat16 = config.products == "bfloat16" and has_fast_bfloat16(device)
        self.values = config.value_targets(device)
        if config.per_action:
            config.check_per_action(action_space)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = RecurrentActorCritic(
                observation_space,
                action_space,
                memory=config.memory,
                layers=config.layers,
                window=config.window,
                hidden_size=config.hidden_size,
                encoder_sizes=config.encoder_sizes,
                reenter=config.reenter,
                head=config.head,
                value_outputs=self.values.num_outputs,
                predict_rewards=config.prediction_coef > 0,
                initial_std=config.initial_std,
                min_std=config.min_std,
                learn_std=config.learn_std,
                normalize_inputs=config.normalize_inputs,
                normalize_obs=config.normalize_obs,
                per_action=config.per_action,
            ).to(device)
        self.optimizer = ppo_optimizer(self.network, config)

    # -- acting: every step of a trial updates the memory ------------------------------------------

    def begin_trial(self, num_slots: int) -> Float[Tensor, "N S"]:
        """An empty memory."""
        return torch.zeros(num_slots, self.network.state_size, device=self.device)

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
        policy, _, state = self.network(step.map(lambda x: x[:, None]), state)
        action = policy.mode() if generator is None else policy.sample(generator)
        return action[:, 0], policy.log_prob(action)[:, 0], state

    def adapt(self, state: Float[Tensor, "N S"], rollout: Rollout) -> Float[Tensor, "N S"]:
        """The unchanged memory: the agent adapted while it acted."""
        del rollout
        return state

    # -- learning ----------------------------------------------------------------------------------

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """PPO on one trial of N tasks, or on part of one; returns metrics to log."""
        (rollout,) = trial
        config = self.config
        chunk_length = min(config.chunk_length, rollout.reward.shape[1])

        memory, value, last_value = self._replay(rollout, chunk_length)
        advantage, returns = self._advantages(rollout, value, last_value)
        chunks = Chunks(
            seen=rollout.seen.map(lambda x: cut(x, chunk_length)),
            memory=memory.flatten(0, 1),
            action=cut(rollout.action, chunk_length),
            log_prob=cut(rollout.log_prob, chunk_length),
            advantage=cut(
                normalized(advantage, each_trial=config.normalize_advantages == "trial"),
                chunk_length,
            ),
            returns=cut(returns, chunk_length),
            reward=cut(rollout.reward, chunk_length),
        )

        metrics = ppo_passes(
            lambda chosen: self._loss(chunks.take(chosen)),
            self.optimizer,
            num_rows=len(chunks),
            config=config,
            generator=generator,
        )
        metrics["explained_variance"] = explained_variance(returns, value)

        # The normalizers change last: until here the policy had to be the one that acted.
        self.values.update(returns)
        self.network.update_normalizers(rollout)
        return metrics | decay(self.optimizer, self.network.log_std, config)

    @torch.no_grad()
    def _replay(
        self, rollout: Rollout, chunk_length: int
    ) -> tuple[Float[Tensor, "N C S"], Float[Tensor, "N T"], Float[Tensor, " N"]]:
        """The memory at the start of each of C chunks, and the value at each step and after the
        last, as returns. After a trial there is none."""
        num_slots, num_steps = rollout.reward.shape
        state = self.begin_trial(num_slots) if rollout.first_state is None else rollout.first_state
        states, values = [], []
        for start in range(0, num_steps, chunk_length):
            states.append(state)
            piece = rollout.seen.map(lambda x, s=start: x[:, s : s + chunk_length])
            _, value, state = self.network(piece, state)
            values.append(value)
        if rollout.following is None:
            last_value = torch.zeros(num_slots, device=self.device)
        else:
            _, last, _ = self.network(rollout.following.map(lambda x: x[:, None]), state)
            last_value = self.values.returns_of(last[:, 0])
        return (
            torch.stack(states, dim=1),
            self.values.returns_of(torch.cat(values, dim=1)),
            last_value,
        )

    def _advantages(
        self, rollout: Rollout, value: Float[Tensor, "N T"], last_value: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"]]:
        """Advantages, and the returns that are the value function's targets.

        Returns reach across the episodes of a trial, and do not bootstrap at its end; where the
        trial goes on, they go on with the value there.
        """
        config = self.config
        reward = rollout.reward * config.reward_scale
        nothing_cut = torch.zeros_like(rollout.episode_end)
        if config.baseline == "linear":
            whole = discounted_returns(
                reward, cut=nothing_cut, discount=config.discount, last_value=last_value
            )
            time = torch.arange(reward.shape[1], device=reward.device).expand_as(reward)
            value = linear_baseline(rollout.seen.obs, time.to(reward.dtype), whole)
        advantage = gae(
            reward,
            value,
            cut=nothing_cut,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
            last_value=last_value,
        )
        return advantage, advantage + value

    def _loss(self, chunks: Chunks) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        config = self.config
        read, present, _ = self.network.read(chunks.seen, chunks.memory, bfloat16=self.bfloat16)
        policy, value = self.network.heads(read, present)
        loss, metrics = ppo_loss(
            policy,
            value if config.baseline == "value" else None,
            action=chunks.action,
            log_prob=chunks.log_prob,
            advantage=chunks.advantage,
            returns=chunks.returns,
            targets=self.values,
            optimizer=self.optimizer,
            config=config,
        )
        if config.prediction_coef:
            error = self.network.reward_error(read, chunks.action, chunks.reward)
            loss = loss + config.prediction_coef * error
            metrics["reward_error"] = error.detach()
        return loss, metrics

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters, normalizers and optimizer: all that a bit-exact resume needs."""
        return {
            **{f"network.{name}": tensor for name, tensor in self.network.state_dict().items()},
            **self.values.state_dict(),
            **optim.state_dict(self.optimizer, self.network),
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.network.load_state_dict(optim.section(tensors, "network."))
        self.values.load_state_dict(tensors)
        optim.load_state_dict(self.optimizer, self.network, tensors)
