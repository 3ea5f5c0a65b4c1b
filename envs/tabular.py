"""Random tabular MDPs that require exploration over several episodes.

As in the RL² paper (Duan et al. 2016, arXiv:1611.02779, section 3.2, after Osband et al. 2013): 10
states, 5 actions, episodes of 10 steps from state 0. Transition probabilities are drawn from a flat
Dirichlet distribution, mean rewards from Normal(1, 1); rewards have unit variance around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Int
from pydantic import Field

from metarl.config import Config, Seed, Size
from metarl.rollout.slots import SlotEnv
from metarl.system.memory import TASK_BYTES, check_memory
from metarl.tasks import TaskSet

REWARD_MEAN, REWARD_STD = 1.0, 1.0
"""Mean and standard deviation of an MDP's mean rewards; rewards have standard deviation 1 too."""


@dataclass(frozen=True, eq=False)
class TabularTask:
    """An MDP of S states and A actions."""

    transitions: Float[np.ndarray, "S A S"]
    """Probability of each next state, given state and action."""
    mean_rewards: Float[np.ndarray, "S A"]
    env_name: str = "tabular-mdp"

    @property
    def parameters(self) -> Float[np.ndarray, " P"]:
        """Transition probabilities, then mean rewards."""
        return np.concatenate([self.transitions.ravel(), self.mean_rewards.ravel()])


class TabularConfig(Config):
    """Random tabular MDPs."""

    kind: Literal["tabular"] = "tabular"
    num_states: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Number of states of every MDP."""
    num_actions: Annotated[int, Field(ge=2, le=10_000)] = 5
    """Number of actions of every MDP."""
    horizon: Size = 10
    """Steps per episode."""
    num_train_tasks: Size = 10_000
    """Number of training MDPs."""
    num_test_tasks: Size = 1_000
    """Number of held-out MDPs."""
    seed: Seed = 0
    """Seed of all MDPs."""

    def build(self) -> TabularMDPs:
        """The distribution."""
        return TabularMDPs(self)


class TabularMDPs:
    """The distribution over MDPs."""

    def __init__(self, config: TabularConfig) -> None:
        states, actions = config.num_states, config.num_actions
        self.name = f"random MDPs with {states} states and {actions} actions"
        self.horizon = config.horizon
        rng = np.random.default_rng(config.seed)
        total = config.num_train_tasks + config.num_test_tasks
        check_memory(
            total * (TASK_BYTES + 8 * states**2 * actions),
            f"{total:,} MDPs of {states:,} states and {actions:,} actions",
        )
        transitions = rng.dirichlet(np.ones(states), (total, states, actions))
        mean_rewards = rng.normal(REWARD_MEAN, REWARD_STD, (total, states, actions))
        tasks = [TabularTask(*task) for task in zip(transitions, mean_rewards, strict=True)]
        self.train = TaskSet(tasks[: config.num_train_tasks])
        self.test = TaskSet(tasks[config.num_train_tasks :])

    def make_env(self, num_slots: int) -> TabularEnv:
        """Slots that play training tasks until `set_tasks` is called."""
        tasks = self.train.sample(num_slots, np.random.default_rng(0))
        return TabularEnv(tasks, horizon=self.horizon)


class TabularEnv(SlotEnv[TabularTask]):
    """One MDP per slot. The observation is the state, one-hot; every episode starts in state 0.

    A step is a success if its action is optimal.
    """

    _BLOCK = 128  # Steps whose random numbers a slot draws from its stream at once.

    def __init__(self, tasks: Sequence[TabularTask], *, horizon: int) -> None:
        num_states, num_actions = tasks[0].mean_rewards.shape
        check_memory(
            8 * len(tasks) * horizon * num_states * num_actions,
            f"values of {num_states:,} states and {num_actions:,} actions in {horizon:,} steps of "
            f"{len(tasks):,} slots",
        )
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=spaces.Box(0.0, 1.0, (num_states,), np.float64),
            action_space=spaces.Discrete(num_actions),
            random=True,
        )
        size = self.num_envs
        self._one_hot = np.eye(num_states)
        self._slots = np.arange(size)
        self._cumulative = np.zeros((size, num_states, num_actions, num_states))
        self._mean_rewards = np.zeros((size, num_states, num_actions))
        self._optimal = np.zeros((size, horizon, num_states, num_actions), dtype=bool)
        self._states = np.zeros(size, dtype=np.int64)
        self._steps = np.zeros(size, dtype=np.int64)
        self._uniform, self._noise = np.zeros((2, size, self._BLOCK))

    def _restart(
        self, slots: Int[np.ndarray, " n"], tasks: Sequence[TabularTask]
    ) -> Float[np.ndarray, "N S"]:
        """Starts a trial."""
        transitions = np.stack([tasks[slot].transitions for slot in slots])
        mean_rewards = np.stack([tasks[slot].mean_rewards for slot in slots])
        self._cumulative[slots] = transitions.cumsum(-1)
        self._cumulative[..., -1] = np.inf  # rounding may leave the last sum a little below 1
        self._mean_rewards[slots] = mean_rewards
        values = action_values(transitions, mean_rewards, horizon=self.horizon)
        self._optimal[slots] = values == _largest(values)[..., None]
        self._states[slots] = 0
        self._steps[slots] = 0
        return self._one_hot[self._states]

    def _step(self, actions: Int[np.ndarray, " N"]) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Takes one action in every slot."""
        index = self._steps % self._BLOCK
        for slot in np.flatnonzero(index == 0):
            rng = self._rngs[slot]
            self._uniform[slot] = rng.random(self._BLOCK)
            self._noise[slot] = rng.normal(size=self._BLOCK)
        noise, uniform = self._noise[self._slots, index], self._uniform[self._slots, index]
        # One index into all slots' numbers takes a fraction of the time of one index per axis.
        _, horizon, num_states, num_actions = self._optimal.shape
        row = (self._slots * num_states + self._states) * num_actions + actions
        reward = self._mean_rewards.ravel()[row] + noise
        cumulative = self._cumulative.reshape(-1, num_states).take(row, axis=0)
        reached = (cumulative > uniform[:, None]).argmax(1)
        time = self._slots * horizon + self._steps % horizon
        success = self._optimal.ravel()[(time * num_states + self._states) * num_actions + actions]
        self._steps += 1
        info = {"final_obs": self._one_hot.take(reached, axis=0), "success": success}
        ended = self._steps % horizon == 0
        self._states = np.where(ended, 0, reached)
        return self._one_hot.take(self._states, axis=0), reward, ended, info


def action_values(
    transitions: Float[np.ndarray, "N S A S"],
    mean_rewards: Float[np.ndarray, "N S A"],
    *,
    horizon: int,
) -> Float[np.ndarray, "N T S A"]:
    """Optimal expected return after each step, state and action, by backward induction.

    The oracle's return on MDP n is `values[n, 0, 0].max()`.
    """
    values = np.zeros((len(mean_rewards), horizon, *mean_rewards.shape[1:]))
    following = np.zeros(mean_rewards.shape[:2])
    for step in reversed(range(horizon)):
        values[:, step] = mean_rewards + np.einsum("nsaz,nz->nsa", transitions, following)
        following = _largest(values[:, step])
    return values


def _largest(values: Float[np.ndarray, "*batch A"]) -> Float[np.ndarray, "*batch"]:
    """`values.max(-1)` in a fraction of the time, as NumPy is slow along short rows."""
    return np.ascontiguousarray(np.moveaxis(values, -1, 0)).max(0)


def posterior_sampling(
    tasks: Sequence[TabularTask], *, episodes: int, horizon: int, seed: int
) -> Float[np.ndarray, "N K"]:
    """Returns of PSRL in each episode (Osband et al. 2013, arXiv:1306.0940, algorithm 1).

    In each episode it acts optimally in an MDP drawn from its posterior. Its prior is the
    distribution that the MDPs are drawn from.
    """
    rng = np.random.default_rng(seed)
    env = TabularEnv(tasks, horizon=horizon)
    states, actions = tasks[0].mean_rewards.shape
    slots = np.arange(len(tasks))
    visits = np.zeros((len(tasks), states, actions, states))
    reward_sums = np.zeros((len(tasks), states, actions))
    returns = np.zeros((len(tasks), episodes))
    obs, _ = env.reset(seed=seed)
    for episode in range(episodes):
        gamma = rng.standard_gamma(1.0 + visits)
        precision = 1 / REWARD_STD**2 + visits.sum(-1)  # rewards have unit variance
        mean = (REWARD_MEAN / REWARD_STD**2 + reward_sums) / precision
        values = action_values(
            gamma / gamma.sum(-1, keepdims=True),
            rng.normal(mean, precision**-0.5),
            horizon=horizon,
        )
        for step in range(horizon):
            state = obs.argmax(1)
            action = values[slots, step, state].argmax(1)
            obs, reward, _, _, info = env.step(action)
            visits[slots, state, action, info["final_obs"].argmax(1)] += 1
            reward_sums[slots, state, action] += reward
            returns[:, episode] += reward
    return returns
