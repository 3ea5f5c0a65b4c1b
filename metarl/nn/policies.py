"""Policies with and without memory, value functions, and the normalization of their inputs."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from metarl.nn.distributions import ActionDistribution, Categorical, DiagonalGaussian, action_size
from metarl.nn.heads import ActionHead, HeadKind, PooledHead, RewardHead, build_head
from metarl.nn.memories import MemoryKind, build_memory
from metarl.nn.memories.per_action import PerAction
from metarl.system import ranks
from metarl.types import Rollout, TimeStep


class RunningNormalizer(nn.Module):
    """Shifts and scales features by the running mean and standard deviation of all updates.

    Before the first `update` it is the identity, up to the clip. The statistics are buffers: they
    are saved and moved with the network.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int, *, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, features: Float[Tensor, "*batch F"]) -> None:
        """Adds a batch, of all ranks, to the statistics (Chan et al. 1979, Welford's algorithm in
        parallel)."""
        rows = features.reshape(-1, features.shape[-1]).double()
        if self.count == 0:
            self.variance.zero_()
        added, mean, variance = ranks.moments(rows, correction=0)
        total = self.count + added
        delta = mean - self.mean
        spread = self.variance * self.count + variance * added
        spread += delta**2 * self.count * added / total
        self.mean += delta * added / total
        self.variance.copy_(spread / total)
        self.count.copy_(total)

    @property
    def std(self) -> Float[Tensor, " F"]:
        """The standard deviation of each feature; 1 for constant features."""
        return torch.where(self.variance > 1e-12, self.variance.sqrt(), 1.0)

    def forward(self, features: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch F"]:
        """The features in units of their running statistics, clipped."""
        scaled = (features - self.mean.to(features.dtype)) / self.std.to(features.dtype)
        return scaled.clamp(-self.clip, self.clip)

    def inverse(self, scaled: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch F"]:
        """The features that `forward` maps to `scaled`, without the clip."""
        return scaled * self.std.to(scaled.dtype) + self.mean.to(scaled.dtype)


class RecurrentEncoder(nn.Module):
    """Encoder of time steps, and a memory on it.

    The inputs are those of RL² (Duan et al. 2016, arXiv:1611.02779, section 2.2): observation,
    previous action, previous reward and the episode-start flag.
    """

    normalized: Tensor
    """Indices of the inputs that are normalized."""

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        memory: MemoryKind,
        layers: int,
        window: int,
        hidden_size: int,
        encoder_sizes: tuple[int, ...],
        normalize_inputs: bool,
        normalize_obs: bool,
        per_action: bool = False,
    ) -> None:
        super().__init__()
        # One-hot actions have unit length as they are. In units of their deviation those of many
        # actions would be large, and drown the reward.
        continuous = isinstance(action_space, spaces.Box)
        obs_size, num_actions = int(observation_space.shape[0]), action_size(action_space)
        parts = [(obs_size, normalize_obs), (num_actions, continuous), (2, True)]
        normalized = torch.cat([torch.full((size,), scaled) for size, scaled in parts])
        input_size = len(normalized)
        self.register_buffer("normalized", normalized.nonzero().squeeze(-1), persistent=False)
        self.normalizer = RunningNormalizer(int(normalized.sum())) if normalize_inputs else None
        encoder: list[nn.Module] = []
        for size in encoder_sizes:
            encoder += [nn.Linear(input_size, size), nn.Tanh()]
            input_size = size
        self.encoder = nn.Sequential(*encoder)
        own_size = PerAction.input_size(obs_size) if per_action else input_size
        one = build_memory(memory, own_size, hidden_size, layers=layers, window=window)
        self.memory = PerAction(one, num_actions) if per_action else one
        self.present_size, self.state_size = input_size, self.memory.state_size

    def initialize(self) -> None:
        """Sets orthogonal weights (Andrychowicz et al. 2021, arXiv:2006.05990, section 3.2)."""
        for module in self.encoder:
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gain=2**0.5)
                nn.init.zeros_(module.bias)
        self.memory.initialize()

    @staticmethod
    def features(step: TimeStep) -> Float[Tensor, "*batch F"]:
        """The network's input at a time step, before normalization."""
        reward, start = step.prev_reward[..., None], step.episode_start[..., None]
        return torch.cat([step.obs, step.prev_action, reward, start.to(step.obs.dtype)], dim=-1)

    def update_normalizer(self, step: TimeStep) -> None:
        """Adds time steps to the running statistics, if inputs are normalized."""
        if self.normalizer is not None:
            self.normalizer.update(self.features(step)[..., self.normalized])

    def encode(
        self, step: TimeStep, state: Float[Tensor, "N S"], *, bfloat16: bool = False
    ) -> tuple[Float[Tensor, "N T H"], Float[Tensor, "N T E"], Float[Tensor, "N S"]]:
        """Outputs of the memory and the encoded inputs at each of T steps (`step` is `N T …`), and
        the last memory state. With `bfloat16` the products take rounded inputs."""
        features = self.features(step)
        if self.normalizer is not None:
            scaled = self.normalizer(features[..., self.normalized])
            features = features.index_copy(-1, self.normalized, scaled)
        with torch.autocast(features.device.type, torch.bfloat16, enabled=bfloat16):
            present = self.encoder(features).to(features.dtype)
            read, state = self.memory(present, state)
        return read.to(features.dtype), present, state


class RecurrentActorCritic(RecurrentEncoder):
    """A recurrent encoder, and a policy head and a value head on its memory; with
    `predict_rewards`, also a head that predicts the reward of an action.

    With `per_action` each discrete action has a memory of `hidden_size` units; there are then no
    encoder layers before it.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        memory: MemoryKind,
        layers: int,
        window: int,
        hidden_size: int,
        encoder_sizes: tuple[int, ...],
        reenter: bool,
        head: HeadKind,
        value_outputs: int,
        predict_rewards: bool,
        initial_std: float,
        min_std: float,
        learn_std: bool,
        normalize_inputs: bool,
        normalize_obs: bool,
        per_action: bool = False,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            memory=memory,
            layers=layers,
            window=window,
            hidden_size=hidden_size,
            encoder_sizes=encoder_sizes,
            normalize_inputs=normalize_inputs,
            normalize_obs=normalize_obs,
            per_action=per_action,
        )
        num_actions = action_size(action_space)
        self.reenter, self.value_outputs = reenter, value_outputs
        read_size = self.memory.output_size + (self.present_size if reenter else 0)
        value_kind = "linear" if head == "hypernetwork" else head
        if per_action:
            self.policy_head = ActionHead(head, read_size, num_actions)
            self.value_head = PooledHead(value_kind, read_size, num_actions, value_outputs)
        else:
            self.policy_head = build_head(head, read_size, self.present_size, num_actions)
            self.value_head = build_head(value_kind, read_size, self.present_size, value_outputs)
        self.discrete = isinstance(action_space, spaces.Discrete)
        self.min_log_std = float(torch.tensor(min_std).log())
        self.log_std = nn.Parameter(
            torch.full((num_actions,), initial_std).log(), requires_grad=learn_std
        )
        self.initialize()
        # The initial policy is nearly the same everywhere.
        self.policy_head.initialize(gain=0.01)
        # A distribution over bins starts uniform: the outermost bins, which no return is near, then
        # always weigh the same on both sides, and their huge values cancel.
        self.value_head.initialize(gain=1.0 if self.value_outputs == 1 else 0.0)
        self.predict_rewards = predict_rewards
        if predict_rewards:
            self.reward_head = RewardHead(read_size, action_space, per_action=per_action)
            self.reward_normalizer = RunningNormalizer(1, clip=math.inf)

    def update_normalizers(self, rollout: Rollout) -> None:
        """Adds experience to the running statistics of inputs and of rewards, if they are used."""
        self.update_normalizer(rollout.seen)
        if self.predict_rewards:
            self.reward_normalizer.update(rollout.reward[..., None])

    def read(
        self, step: TimeStep, state: Float[Tensor, "N S"], *, bfloat16: bool = False
    ) -> tuple[Float[Tensor, "N T R"], Float[Tensor, "N T E"], Float[Tensor, "N S"]]:
        """What the heads read, and the encoded inputs, at each of T steps (`step` is `N T …`), and
        the last memory state. With `bfloat16` the products take rounded inputs."""
        read, present, state = self.encode(step, state, bfloat16=bfloat16)
        return (torch.cat([read, present], dim=-1) if self.reenter else read), present, state

    def heads(
        self, read: Float[Tensor, "N T R"], present: Float[Tensor, "N T E"]
    ) -> tuple[ActionDistribution, Float[Tensor, "N T V"]]:
        """Policy and outputs of the value head."""
        return self._policy(self.policy_head(read, present)), self.value_head(read, present)

    def reward_error(
        self,
        read: Float[Tensor, "N T R"],
        action: Shaped[Tensor, "N T *A"],
        reward: Float[Tensor, "N T"],
    ) -> Float[Tensor, ""]:
        """Mean squared error of the predicted rewards of actions, in units of the rewards' running
        variance: 1 for a head that knows the mean alone."""
        target = self.reward_normalizer(reward[..., None]).squeeze(-1)
        return (self.reward_head(read, action) - target).square().mean()

    def forward(
        self, step: TimeStep, state: Float[Tensor, "N S"]
    ) -> tuple[ActionDistribution, Float[Tensor, "N T V"], Float[Tensor, "N S"]]:
        """Policy and outputs of the value head at each of T steps (`step` is `N T …`), and the last
        memory state."""
        read, present, state = self.read(step, state)
        return *self.heads(read, present), state

    def _policy(self, head: Float[Tensor, "N T A"]) -> ActionDistribution:
        if self.discrete:
            return Categorical(head)
        log_std = self.log_std.clamp(min=self.min_log_std)
        return DiagonalGaussian(head, log_std.expand_as(head))


class MLPPolicy(nn.Module):
    """A policy without memory: tanh layers on the observation, and a head with small weights.

    `forward` returns the tensors of the action distribution, so that it can be vectorised over
    parameters; `distribution` builds the distribution from them.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        *,
        hidden_sizes: tuple[int, ...],
        initial_std: float,
        min_std: float,
        learn_std: bool,
    ) -> None:
        super().__init__()
        num_actions = action_size(action_space)
        sizes = [int(observation_space.shape[0]), *hidden_sizes]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_actions))
        self.discrete = isinstance(action_space, spaces.Discrete)
        if not self.discrete:
            self.min_log_std = math.log(min_std)
            self.log_std = nn.Parameter(
                torch.full((num_actions,), math.log(initial_std)), requires_grad=learn_std
            )
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        for layer in linear:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(linear[-1].weight, gain=0.01)

    def forward(self, obs: Float[Tensor, "*batch O"]) -> tuple[Tensor, ...]:
        """Logits, or mean and log standard deviation, `*batch A` each."""
        return self._tensors(self.layers(obs), None if self.discrete else self.log_std)

    def distribution(self, *tensors: Float[Tensor, "*batch A"]) -> ActionDistribution:
        """The action distribution with the tensors that `forward` returned."""
        return Categorical(*tensors) if self.discrete else DiagonalGaussian(*tensors)

    def distribution_at(
        self, head: Float[Tensor, "*batch A"], log_std: Float[Tensor, ...] | None = None
    ) -> ActionDistribution:
        """The action distribution for outputs of `layers` and a parameter `log_std`, by default the
        policy's own."""
        own = None if self.discrete else self.log_std
        return self.distribution(*self._tensors(head, own if log_std is None else log_std))

    def _tensors(
        self, head: Float[Tensor, "*batch A"], log_std: Float[Tensor, ...] | None
    ) -> tuple[Tensor, ...]:
        if log_std is None:
            return (head,)
        return head, log_std.clamp(min=self.min_log_std).expand_as(head)
