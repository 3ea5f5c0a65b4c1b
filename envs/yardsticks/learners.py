"""PPO and SAC of Stable-Baselines3, which learn a task from scratch.

The defaults were chosen to need few env steps on training goals of Meta-World's reach-v3, because a
weak yardstick would flatter the agents compared with it. Harder classes need larger budgets.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from gymnasium import spaces
from pydantic import Field, field_validator
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import VecEnv

from metarl.config import Config, Count, Fraction, Positive, Size, Widths
from metarl.errors import UserError


class LearnerConfig(Config):
    """Options that PPO and SAC share."""

    env_steps: Count
    """Env steps per task; rounded up so that evaluations are evenly spaced between updates."""
    evaluations: Size = 20
    """Evaluations after the one at 0 env steps. Their env steps are not counted."""
    evaluation_episodes: Size = 10
    """Whole episodes per task and evaluation, played in parallel."""
    greedy: bool = False
    """Evaluate the policy's mode instead of sampling; meta-trained agents sample."""

    slots: Size
    """Copies of the task that are played in parallel; all their env steps count."""
    normalize: bool = True
    """Normalise observations by running mean and deviation, rewards by the deviation of returns."""
    learning_rate: Positive
    """Adam's step size."""
    discount: Fraction
    """Discount per step. The end of an episode is a time limit, across which values bootstrap."""
    hidden_sizes: Widths
    """Widths of the hidden layers of the policy and of each value function."""

    @property
    def update_steps(self) -> int:
        """Env steps between updates, of all slots together."""
        return self.slots

    @property
    def grid(self) -> list[int]:
        """Env steps after which the policy is evaluated."""
        spacing = math.ceil(self.env_steps / self.evaluations / self.update_steps)
        return [i * spacing * self.update_steps for i in range(self.evaluations + 1)]


class PPOConfig(LearnerConfig):
    """PPO from scratch."""

    kind: Literal["ppo"] = "ppo"
    env_steps: Count = 100_000
    """Env steps per task; rounded up so that evaluations are evenly spaced between updates."""
    slots: Size = 8
    """Copies of the task that are played in parallel; all their env steps count."""
    learning_rate: Positive = 1e-3
    """Adam's step size."""
    discount: Fraction = 0.95
    """Discount per step. The end of an episode is a time limit, across which values bootstrap."""
    hidden_sizes: Widths = (64, 64)
    """Widths of the tanh layers of the policy and of the value function."""

    rollout_steps: Size = 125
    """Steps of each slot between updates."""
    epochs: Size = 10
    """Passes over a rollout in one update."""
    num_minibatches: Size = 8
    """Gradient steps per pass; must divide the env steps between updates."""
    gae_lambda: Fraction = 0.95
    """λ of generalised advantage estimation."""
    clip: Positive = 0.2
    """Range of the probability ratio (PPO's ε)."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy bonus."""
    initial_std: Positive = 0.6
    """Initial standard deviation of continuous actions."""

    @field_validator("num_minibatches")
    @classmethod
    def _divides(cls, num_minibatches: int, info: Any) -> int:
        # An invalid field is missing from `info.data` and has its own error.
        steps = info.data.get("slots", 0) * info.data.get("rollout_steps", 0)
        if steps and (steps % num_minibatches or steps == num_minibatches):
            raise ValueError(f"should divide {steps} env steps into minibatches of more than one")
        return num_minibatches

    @property
    def update_steps(self) -> int:
        """Env steps between updates, of all slots together."""
        return self.slots * self.rollout_steps

    def build(self, env: VecEnv, *, seed: int) -> PPO:
        """An untrained model."""
        policy: dict[str, Any] = {"net_arch": list(self.hidden_sizes)}
        if isinstance(env.action_space, spaces.Box):
            policy["log_std_init"] = math.log(self.initial_std)
        return PPO(
            "MlpPolicy",
            env,
            learning_rate=self.learning_rate,
            n_steps=self.rollout_steps,
            batch_size=self.update_steps // self.num_minibatches,
            n_epochs=self.epochs,
            gamma=self.discount,
            gae_lambda=self.gae_lambda,
            clip_range=self.clip,
            ent_coef=self.entropy_coef,
            policy_kwargs=policy,
            seed=seed,
            device="cpu",
        )


class SACConfig(LearnerConfig):
    """SAC from scratch."""

    kind: Literal["sac"] = "sac"
    env_steps: Count = 15_000
    """Env steps per task; rounded up so that evaluations are evenly spaced between updates."""
    slots: Size = 1
    """Copies of the task that are played in parallel; all their env steps count."""
    learning_rate: Positive = 1e-3
    """Adam's step size."""
    discount: Fraction = 0.95
    """Discount per step. The end of an episode is a time limit, across which values bootstrap."""
    normalize: bool = False
    """Normalise observations by running mean and deviation, rewards by the deviation of returns."""
    hidden_sizes: Widths = (256, 256)
    """Widths of the ReLU layers of the policy and of both value functions."""

    random_steps: Annotated[int, Field(ge=0, le=10**12)] = 500
    """Env steps of random actions before the first update."""
    updates_per_step: Size = 1
    """Gradient steps for each env step."""
    batch_size: Size = 256
    """Env steps per gradient step."""
    buffer_size: Size = 1_000_000
    """Capacity of the replay buffer (env steps), at most `env_steps`."""
    target_rate: Annotated[float, Field(gt=0, le=1)] = 0.005
    """Polyak step of the target networks after each gradient step (τ)."""

    def build(self, env: VecEnv, *, seed: int) -> SAC:
        """An untrained model.

        Raises:
            UserError: actions are discrete.
        """
        if not isinstance(env.action_space, spaces.Box):
            raise UserError("SAC needs continuous actions; use ppo where they are discrete")
        return SAC(
            "MlpPolicy",
            env,
            learning_rate=self.learning_rate,
            buffer_size=min(self.buffer_size, self.grid[-1]),
            learning_starts=self.random_steps,
            batch_size=self.batch_size,
            tau=self.target_rate,
            gamma=self.discount,
            train_freq=1,
            gradient_steps=self.updates_per_step * self.slots,
            policy_kwargs={"net_arch": list(self.hidden_sizes)},
            seed=seed,
            device="cpu",
        )
