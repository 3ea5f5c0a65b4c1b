"""Replay: the newest trials of an agent that learns from experience more than once.

A ring of whole trials, each with the number of its task. Trials and single transitions are drawn
from it uniformly. Its tensors are part of the agent's state, under names that begin with `replay.`:
a run stores them beside its newest checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metarl.errors import UserError
from metarl.learning.optim import section
from metarl.system import ranks
from metarl.system.memory import check_memory
from metarl.types import Rollout, TimeStep

PREFIX = "replay."
"""Prefix of the names of a replay's tensors."""


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """Steps of tasks, in any arrangement."""

    obs: Float[Tensor, "*batch O"]
    action: Float[Tensor, "*batch A"]
    """The executed action: within its bounds, or one-hot where actions are discrete."""
    reward: Float[Tensor, "*batch"]
    next_obs: Float[Tensor, "*batch O"]
    """The observation after the step, before any reset."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Rows of a replay by their task, for G tasks."""

    rows: Int[Tensor, " R"]
    """Rows, those of one task adjacent."""
    first: Int[Tensor, " G"]
    """Position in `rows` of each task's first row."""
    count: Int[Tensor, " G"]
    """Number of rows of each task."""

    @property
    def num_tasks(self) -> int:
        """G."""
        return len(self.count)

    def draw(
        self, tasks: Int[Tensor, " n"], num: int, generator: torch.Generator
    ) -> Int[Tensor, "n num"]:
        """Rows drawn uniformly, with replacement, from those of each of the chosen tasks."""
        first, count = self.first[tasks, None], self.count[tasks, None]
        return self.rows[first + below(count.expand(-1, num), generator)]


def below(bound: Int[Tensor, "*batch"], generator: torch.Generator) -> Int[Tensor, "*batch"]:
    """Integers drawn uniformly from [0, bound)."""
    uniform = torch.rand(bound.shape, generator=generator, device=bound.device, dtype=torch.float64)
    return (uniform * bound).long()


class TrialReplay:
    """The newest trials, at most `capacity` of them, which all have the same layout.

    Memory is allocated when the first trials are added: capacity × steps × (2 O + A + 1) numbers
    for episodes of one step, and about half of that for long ones, as an observation is kept once.
    """

    def __init__(self, capacity: int, *, device: torch.device) -> None:
        self.capacity, self.device = capacity, device
        self._tensors: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Number of trials that are kept."""
        return min(self.added, self.capacity)

    @property
    def added(self) -> int:
        """Number of trials that were added."""
        return int(self._tensors["added"]) if self._tensors else 0

    @property
    def num_steps(self) -> int:
        """T, steps of a trial."""
        return self._tensors["reward"].shape[1]

    @property
    def horizon(self) -> int:
        """Steps of an episode."""
        return self._tensors["obs"].shape[2] - 1

    def add(self, rollout: Rollout, executed: Float[Tensor, "N T A"]) -> None:
        """Adds a trial for each slot of all ranks, in place of the oldest ones.

        Args:
            rollout: whole trials.
            executed: the actions as the environment took them; one-hot where they are discrete.

        Raises:
            UserError: the replay, of an earlier start, holds trials of another layout.
        """
        assert rollout.task is not None
        episodes = rollout.final_obs.shape[1]
        by_episode = rollout.seen.obs.unflatten(1, (episodes, -1))
        new = {
            # The observation after the last step of an episode follows the one before it.
            "obs": torch.cat([by_episode, rollout.final_obs[:, :, None]], dim=2),
            "action": executed,
            "reward": rollout.reward,
            "task": rollout.task,
        }
        new = {name: ranks.gathered(tensor) for name, tensor in new.items()}
        new["added_at"] = torch.full_like(new["task"], self.added)
        if not self._tensors:
            check_memory(
                self.capacity * sum(t[0].numel() * t.element_size() for t in new.values()),
                f"a replay of {self.capacity:,} trials",
            )
            self._tensors = {
                name: torch.zeros(self.capacity, *tensor.shape[1:], dtype=tensor.dtype,
                                  device=self.device)
                for name, tensor in new.items()
            }  # fmt: skip
            self._tensors["added"] = torch.zeros((), dtype=torch.int64)
        for name, tensor in new.items():
            if tensor.shape[1:] != self._tensors[name].shape[1:]:
                raise UserError(
                    f"the replay holds trials with {name} of {tuple(self._tensors[name].shape[1:])}"
                    f", these have {tuple(tensor.shape[1:])}; train the new config anew"
                )
        num_slots = len(new["reward"])
        where = (self.added + torch.arange(num_slots, device=self.device)) % self.capacity
        kept = slice(max(0, num_slots - self.capacity), None)
        for name, tensor in new.items():
            self._tensors[name][where[kept]] = tensor[kept]
        self._tensors["added"] += num_slots

    # -- drawing -----------------------------------------------------------------------------------

    def draw_trials(self, num: int, generator: torch.Generator) -> Int[Tensor, " num"]:
        """Rows of `num` trials, drawn without replacement; all of them if there are fewer."""
        return torch.randperm(len(self), generator=generator, device=self.device)[:num]

    def trials(self, rows: Int[Tensor, " n"]) -> tuple[TimeStep, Transitions]:
        """Whole trials: what the policy saw before each step, and the steps (`n T …`)."""
        steps = torch.arange(self.num_steps, device=self.device)
        transitions = self.transitions(rows[:, None], steps[None])
        action, reward = transitions.action, transitions.reward
        seen = TimeStep(
            obs=transitions.obs,
            prev_action=torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], dim=1),
            prev_reward=torch.cat([torch.zeros_like(reward[:, :1]), reward[:, :-1]], dim=1),
            episode_start=(steps % self.horizon == 0).expand(len(rows), -1),
        )
        return seen, transitions

    def transitions(
        self, rows: Int[Tensor, "*#batch"], steps: Int[Tensor, "*#batch"]
    ) -> Transitions:
        """Single steps of trials; rows and steps are broadcast."""
        episode, step = steps // self.horizon, steps % self.horizon
        obs = self._tensors["obs"]
        return Transitions(
            obs=obs[rows, episode, step],
            action=self._tensors["action"][rows, steps],
            reward=self._tensors["reward"][rows, steps],
            next_obs=obs[rows, episode, step + 1],
        )

    def draw_steps(
        self, rows: Int[Tensor, "*batch"], generator: torch.Generator, *, first: int | None = None
    ) -> Int[Tensor, "*batch"]:
        """A step for each row, drawn uniformly from all steps of a trial or from the `first`."""
        return below(torch.full_like(rows, first or self.num_steps), generator)

    def by_task(self, *, newest: bool = False) -> Groups:
        """The trials of each task; with `newest`, only those that were added together last."""
        size = len(self)
        task, added_at = self._tensors["task"][:size], self._tensors["added_at"][:size]
        _, which = task.unique(return_inverse=True)
        if newest:
            last = torch.zeros(int(which.max()) + 1, dtype=added_at.dtype, device=self.device)
            last = last.scatter_reduce(0, which, added_at, "amax")
            rows = (added_at == last[which]).nonzero().squeeze(1)
        else:
            rows = torch.arange(size, device=self.device)
        order = which[rows].argsort(stable=True)
        count = which[rows].bincount()
        return Groups(rows=rows[order], first=count.cumsum(0) - count, count=count)

    # -- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All trials, with names that begin with `replay.`; nothing before the first is added."""
        return {PREFIX + name: tensor for name, tensor in self._tensors.items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `state_dict` returned, from among other tensors; without it, it is empty.

        Raises:
            UserError: the replay is of another capacity.
        """
        own = section(tensors, PREFIX)
        if own and len(own["reward"]) != self.capacity:
            raise UserError(
                f"its replay holds {len(own['reward']):,} trials, the config's {self.capacity:,}"
            )
        self._tensors = {name: tensor.clone() for name, tensor in own.items()}
