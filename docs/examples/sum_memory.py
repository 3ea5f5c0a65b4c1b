"""An agent whose memory is a sum: what each action earned, added up over a trial."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.config import Config, Positive, Size
from metarl.learning import optim
from metarl.nn.distributions import ActionDistribution, Categorical, DiagonalGaussian, action_size
from metarl.types import Rollout, TimeStep, TrialShape

Actions = spaces.Box | spaces.Discrete


class SumMemoryConfig(Config):
    """An agent that adds up what its actions earned."""

    hidden_size: Size = 64
    """Units of the policy's hidden layer."""
    learning_rate: Positive = 3e-3
    """Adam's step size."""

    def build(
        self,
        observation_space: spaces.Box,
        action_space: Actions,
        *,
        seed: int,
        device: torch.device,
    ) -> SumMemory:
        """A new agent."""
        return SumMemory(self, observation_space, action_space, seed=seed, device=device)

    def trial_shape(self, episodes: int, *, training: bool = False) -> TrialShape:
        """All episodes of a trial in one slot, one after the other."""
        return TrialShape(episodes=episodes)

    def check_training(
        self, shape: TrialShape, *, horizon: int, num_tasks: int, num_classes: int
    ) -> None:
        """Accepts every trial."""


class SumMemory:
    """The agent. Its adaptation state is the memory, `N 2A`: counts of actions, sums of rewards."""

    def __init__(
        self, config: SumMemoryConfig, observation_space: spaces.Box, action_space: Actions,
        *, seed: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.device = device
        self.discrete = isinstance(action_space, spaces.Discrete)
        self.memory_size = 2 * action_size(action_space)
        inputs = self.memory_size + observation_space.shape[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(
                nn.Linear(inputs, config.hidden_size),
                nn.Tanh(),
                nn.Linear(config.hidden_size, action_size(action_space)),
            ).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)

    def begin_trial(self, num_slots: int) -> Tensor:
        """An empty memory for each slot."""
        return torch.zeros(num_slots, self.memory_size, device=self.device)

    @torch.no_grad()
    def act(
        self, state: Tensor, step: TimeStep, *, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Remembers the last action and reward, then acts; without a generator by the mode."""
        state = state + earned(step)
        policy = self.policy(state, step)
        action = policy.mode() if generator is None else policy.sample(generator)
        return action, policy.log_prob(action), state

    def adapt(self, state: Tensor, rollout: Rollout) -> Tensor:
        """Memory after a rollout: unchanged, as `act` keeps it up to date."""
        return state

    def meta_update(self, trial: list[Rollout], *, generator: torch.Generator) -> dict[str, float]:
        """One Adam step on the loss of the trials that were just played."""
        (rollout,) = trial
        memory = earned(rollout.seen).cumsum(1)
        loss = reinforce_loss(self.policy(memory, rollout.seen), rollout)
        loss.backward()
        norm = optim.checked_step(self.optimizer, max_norm=1.0)
        return {"policy_loss": float(loss.detach()), "gradient_norm": norm}

    def policy(self, memory: Tensor, step: TimeStep) -> ActionDistribution:
        """The policy with this memory; a sum is scaled as its noise grows, by the square root."""
        number = 1 + memory.chunk(2, dim=-1)[0].abs().sum(-1, keepdim=True)
        outputs = self.network(torch.cat([memory / number.sqrt(), step.obs], dim=-1))
        return Categorical(outputs) if self.discrete else DiagonalGaussian(outputs, outputs * 0 - 1)

    def state_dict(self) -> dict[str, Tensor]:
        """All that a bit-exact resume needs."""
        return {**self.network.state_dict(), **optim.state_dict(self.optimizer, self.network)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Takes over what `state_dict` gave."""
        optim.load_state_dict(self.optimizer, self.network, optim.optimizer_tensors(tensors))
        self.network.load_state_dict({k: tensors[k] for k in self.network.state_dict()})


def earned(step: TimeStep) -> Tensor:
    """The last action, and the last action times what it earned."""
    return torch.cat([step.prev_action, step.prev_action * step.prev_reward[..., None]], dim=-1)


def reinforce_loss(policy: ActionDistribution, rollout: Rollout) -> Tensor:
    """REINFORCE (Williams 1992), a mean over slots and steps: the return to come in the trial, less
    its mean over slots at the same step."""
    to_come = rollout.reward.flip(1).cumsum(1).flip(1)
    advantage = (to_come - to_come.mean(0)) / (to_come.std() + 1e-8)
    return -(policy.log_prob(rollout.action) * advantage).mean()
