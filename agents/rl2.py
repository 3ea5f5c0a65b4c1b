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
    update       `epochs` passes over all chunks, by Adam
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from gymnasium import spaces
from jaxtyping import Float, Int, Shaped
from pydantic import Field
from torch import Tensor, nn

from metarl.config import Config, Fraction, Positive, Size, Width, Widths
from metarl.errors import UserError
from metarl.learning import optim
from metarl.learning.advantages import discounted_returns, gae, linear_baseline
from metarl.learning.two_hot import NUM_BINS, two_hot_loss, two_hot_mean
from metarl.nn.heads import HeadKind
from metarl.nn.memories import MemoryKind
from metarl.nn.policies import RecurrentActorCritic, RunningNormalizer
from metarl.system.hardware import has_fast_bfloat16
from metarl.types import Rollout, TimeStep, TrialShape


class RL2Config(Config):
    """RL² with PPO. Defaults are those of the Meta-World baselines unless stated otherwise."""

    learns_within_trials: ClassVar[bool] = True
    """`meta_update` also takes a part of a trial, so that `train.rollout_steps` may be given."""

    kind: Literal["rl2"] = "rl2"

    memory: MemoryKind = "gru"
    """Carries experience through a trial: `gru`, `lstm`, or residual blocks of a gated linear
    `recurrence`, of `retention`, of both by turns (`mixed`), or of a causal `transformer`."""
    layers: Annotated[int, Field(ge=1, le=64)] = 1
    """Blocks of the memory; `gru` and `lstm` have one layer."""
    window: Annotated[int, Field(ge=2, le=4096)] = 128
    """Steps that a transformer looks back, its own included."""
    hidden_size: Width = 128
    """Units of the memory."""
    encoder_sizes: Widths = (128,)
    """Units of each tanh layer between the inputs and the memory; may be empty."""
    reenter: bool = False
    """Let the heads read the encoded present input beside the memory (Beck et al. 2023,
    arXiv:2309.14970)."""
    head: HeadKind = "linear"
    """What reads the memory: a `linear` layer, an `mlp` of two layers, or a `hypernetwork` that
    generates the weights of a policy on the encoded present input."""
    normalize_inputs: bool = True
    """Scale all inputs of the policy by their running mean and standard deviation."""
    normalize_obs: bool = True
    """Include observations in this scaling. Scaling enlarges features that vary little but differ
    between tasks; the agent may then memorise the training tasks."""

    learn_std: bool = True
    """Learn the policy's standard deviation (one per action dimension), or keep `initial_std`."""
    initial_std: Positive = 1.0
    """Initial standard deviation of continuous actions."""
    min_std: Positive = 1e-6
    """Lower bound of the standard deviation."""

    discount: Fraction = 0.99
    """Discount per step, over the whole trial: returns reach across episode boundaries."""
    gae_lambda: Fraction = 0.95
    """λ of generalised advantage estimation."""
    normalize_advantages: Literal["batch", "trial"] = "batch"
    """Normalize advantages to mean 0 and standard deviation 1 over the whole batch, or within each
    trial, which gives tasks with small rewards the same weight as those with large rewards."""
    baseline: Literal["value", "linear"] = "value"
    """Baseline of advantages: a value head on the memory, or a linear fit on each trial's
    observations and time."""
    reward_scale: Positive = 1.0
    """Factor on rewards before returns are computed."""
    normalize_values: bool = True
    """Let the value head predict returns in units of their running mean and standard deviation."""
    root_values: bool = False
    """Let the value head predict signed square roots of returns, before any normalization; this
    reduces its error on tasks with small rewards (Pohlen et al. 2018, arXiv:1805.11593, section
    3.2, without the linear term)."""

    learning_rate: Positive = 5e-4
    """Step size of Adam."""
    learning_rate_decay: Fraction = 1.0
    """Factor on the step size after each update."""
    max_grad_norm: Positive = 1.0
    """Norm that longer gradients are clipped to."""
    clip: Positive = 0.2
    """Clip of the probability ratio, to 1 ± this (PPO's ε)."""
    epochs: Size = 10
    """Passes over all chunks in one update."""
    num_minibatches: Size = 4
    """Gradient steps per pass, each on its share of the chunks."""
    chunk_length: Size = 100
    """Steps of back-propagation through time; must divide the steps of a trial."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy bonus."""
    value_coef: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the value loss."""
    value_loss: Literal["squared", "two_hot"] = "squared"
    """Loss of the value head: the squared error, or the cross-entropy of a distribution over
    returns of all sizes (DreamerV3), which needs neither `normalize_values` nor `root_values`."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Precision of the large products of matrices in an update, before the heads. `bfloat16` is
    faster on processors and GPUs with instructions for it; others use float32."""
    max_kl: Positive | None = None
    """KL from the policy that acted (nats) above which the passes of an update stop."""

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

    def trial_shape(self, episodes: int, *, training: bool = False) -> TrialShape:
        """Consecutive episodes in one slot, as a single rollout."""
        del training
        return TrialShape(episodes=episodes)

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
        )


def cut(values: Shaped[Tensor, "N T *F"], length: int) -> Shaped[Tensor, "M L *F"]:
    """Trials cut into chunks: those of the first slot in order, then those of the second, …"""
    return values.unflatten(1, (-1, length)).flatten(0, 1)


# -- losses ----------------------------------------------------------------------------------------


def clipped_surrogate(
    ratio: Float[Tensor, "M L"], advantage: Float[Tensor, "M L"], *, clip: float
) -> Float[Tensor, ""]:
    """PPO's clipped surrogate, a mean over steps (Schulman et al. 2017, eq. 7).

    Args:
        ratio: π(a|s) / π_acted(a|s).
    """
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return torch.minimum(ratio * advantage, clipped * advantage).mean()


def value_error(
    value: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"]
) -> Float[Tensor, ""]:
    """Half the squared error of the value head, a mean over steps (L^VF in eq. 9 of PPO)."""
    return 0.5 * (value - target).square().mean()


def kl_from_acting(log_ratio: Float[Tensor, "M L"]) -> Float[Tensor, ""]:
    """Estimate of KL(π_acted ‖ π) in nats: the mean of r − 1 − log r, with r = π / π_acted, over
    actions sampled from π_acted. It is unbiased and, unlike that of −log r, never negative."""
    return (log_ratio.exp() - 1 - log_ratio).mean()


def normalized(advantage: Float[Tensor, "N T"], *, each_trial: bool) -> Float[Tensor, "N T"]:
    """Advantages with mean 0 and standard deviation 1, over all trials or within each trial."""
    over = 1 if each_trial else (0, 1)
    mean, std = advantage.mean(over, keepdim=True), advantage.std(over, keepdim=True)
    return (advantage - mean) / (std + 1e-8)


def signed_root(returns: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Signed root sign(x) (√(|x| + 1) − 1) (Pohlen et al. 2018, section 3.2, no linear term)."""
    return returns.sign() * ((returns.abs() + 1).sqrt() - 1)


def signed_square(root: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The inverse of `signed_root`."""
    return root.sign() * ((root.abs() + 1).square() - 1)


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
                value_outputs=NUM_BINS if config.value_loss == "two_hot" else 1,
                initial_std=config.initial_std,
                min_std=config.min_std,
                learn_std=config.learn_std,
                normalize_inputs=config.normalize_inputs,
                normalize_obs=config.normalize_obs,
            ).to(device)
        self.return_normalizer = RunningNormalizer(1, clip=float("inf")).to(device)
        self.optimizer = torch.optim.Adam(
            [p for p in self.network.parameters() if p.requires_grad],
            lr=config.learning_rate,
            eps=1e-5,
        )

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
        )

        history: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(config.epochs):
            order = torch.randperm(len(chunks), generator=generator, device=self.device)
            for chosen in order.chunk(config.num_minibatches):
                loss, metrics = self._loss(chunks.take(chosen))
                self.optimizer.zero_grad()
                loss.backward()
                metrics["gradient_norm"] = nn.utils.clip_grad_norm_(
                    self.network.parameters(), config.max_grad_norm
                )
                self.optimizer.step()
                for name, metric in metrics.items():
                    history[name].append(metric)
            if config.max_kl is not None and self._kl(history) > config.max_kl:
                break
        metrics = {name: float(torch.stack(values).mean()) for name, values in history.items()}
        metrics["kl"] = self._kl(history)
        metrics["epochs"] = len(history["kl"]) / config.num_minibatches
        metrics["explained_variance"] = float(1 - (returns - value).var() / returns.var())
        metrics["std"] = float(self.network.log_std.detach().exp().mean())
        metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]

        # The normalizers change last: until here the policy had to be the one that acted.
        self.return_normalizer.update(self._rooted(returns)[..., None])
        self.network.update_normalizer(rollout.seen)
        self.optimizer.param_groups[0]["lr"] *= config.learning_rate_decay
        return metrics

    def _kl(self, history: dict[str, list[Tensor]]) -> float:
        """KL from the policy that acted to the current one, a mean over the last pass, in nats."""
        return float(torch.stack(history["kl"][-self.config.num_minibatches :]).mean())

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
            last_value = self._returns_of(last[:, 0])
        return torch.stack(states, dim=1), self._returns_of(torch.cat(values, dim=1)), last_value

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

    def _value_loss(
        self, output: Float[Tensor, "*batch V"], returns: Float[Tensor, "*batch"]
    ) -> Float[Tensor, ""]:
        """Loss of the value head's outputs, a mean over steps."""
        if self.config.value_loss == "two_hot":
            return two_hot_loss(output, returns)
        target = self._rooted(returns)
        if self.config.normalize_values:
            target = self.return_normalizer(target[..., None]).squeeze(-1)
        return value_error(output.squeeze(-1), target)

    def _returns_of(self, output: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch"]:
        """The returns that the value head's outputs stand for."""
        if self.config.value_loss == "two_hot":
            return two_hot_mean(output)
        if self.config.normalize_values:
            output = self.return_normalizer.inverse(output)
        value = output.squeeze(-1)
        return signed_square(value) if self.config.root_values else value

    def _rooted(self, returns: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Signed square roots of returns if `root_values`, else the returns."""
        return signed_root(returns) if self.config.root_values else returns

    def _loss(self, chunks: Chunks) -> tuple[Float[Tensor, " "], dict[str, Tensor]]:
        """PPO's loss (eq. 9): clipped surrogate, entropy bonus and value error; and metrics."""
        config = self.config
        policy, value, _ = self.network(chunks.seen, chunks.memory, bfloat16=self.bfloat16)
        log_ratio = policy.log_prob(chunks.action) - chunks.log_prob
        ratio = log_ratio.exp()
        policy_loss = -clipped_surrogate(ratio, chunks.advantage, clip=config.clip)
        entropy = policy.entropy().mean()
        loss = policy_loss - config.entropy_coef * entropy
        metrics = {"policy_loss": policy_loss, "entropy": entropy}
        if config.baseline == "value":
            value_loss = self._value_loss(value, chunks.returns)
            loss = loss + config.value_coef * value_loss
            metrics["value_loss"] = value_loss
        metrics["kl"] = kl_from_acting(log_ratio.detach())
        metrics["clipped"] = ((ratio - 1).abs() > config.clip).float().mean()
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters, normalizers and optimizer: all that a bit-exact resume needs."""
        return {
            **{f"network.{name}": tensor for name, tensor in self.network.state_dict().items()},
            **{f"returns.{name}": t for name, t in self.return_normalizer.state_dict().items()},
            **optim.state_dict(self.optimizer, self.network),
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned."""
        self.network.load_state_dict(optim.section(tensors, "network."))
        self.return_normalizer.load_state_dict(optim.section(tensors, "returns."))
        optim.load_state_dict(self.optimizer, self.network, tensors)
