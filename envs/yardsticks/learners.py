"""PPO and SAC of Stable-Baselines3: what learns a task from nothing.

The defaults were chosen on training goals of Meta-World's reach-v3 to need few env steps there: a
weak yardstick would flatter what is measured with it. Harder classes need larger budgets.
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
    """What PPO and SAC share."""

    env_steps: Count
    """Budget of a task; rounded up so that evaluations are evenly spaced between updates."""
    evaluations: Size = 20
    """Points of the curve after the one at 0 env steps. Their env steps are not counted."""
    evaluation_episodes: Size = 10
    """Whole episodes of a task for each point, played side by side."""
    greedy: bool = False
    """Evaluate the policy's mode instead of drawing from it, as meta-trained agents do."""

    slots: Size
    """Copies of the task that are played side by side; their env steps all count."""
    normalize: bool = True
    """Scale observations by their running mean and deviation, rewards by that of returns."""
    learning_rate: Positive
    """Adam's step size."""
    discount: Fraction
    """Per step. The end of an episode is a time limit, and bootstrapped across."""
    hidden_sizes: Widths
    """Layers of the policy and of each value function."""

    @property
    def update_steps(self) -> int:
        """Env steps between updates, of all slots together."""
        return self.slots

    @property
    def grid(self) -> list[int]:
        """The env steps after which the policy is evaluated."""
        spacing = math.ceil(self.env_steps / self.evaluations / self.update_steps)
        return [i * spacing * self.update_steps for i in range(self.evaluations + 1)]


class PPOConfig(LearnerConfig):
    """PPO from nothing."""

    kind: Literal["ppo"] = "ppo"
    env_steps: Count = 100_000
    """Budget of a task; rounded up so that evaluations are evenly spaced between updates."""
    slots: Size = 8
    """Copies of the task that are played side by side; their env steps all count."""
    learning_rate: Positive = 1e-3
    """Adam's step size."""
    discount: Fraction = 0.95
    """Per step. The end of an episode is a time limit, and bootstrapped across."""
    hidden_sizes: Widths = (64, 64)
    """Tanh layers of the policy and of the value function."""

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
    """Standard deviation of continuous actions at the start."""

    @field_validator("num_minibatches")
    @classmethod
    def _divides(cls, num_minibatches: int, info: Any) -> int:
        # A field that is wrong itself is missing here, and reported instead.
        steps = info.data.get("slots", 0) * info.data.get("rollout_steps", 0)
        if steps and (steps % num_minibatches or steps == num_minibatches):
            raise ValueError(f"should divide {steps} env steps into minibatches of more than one")
        return num_minibatches

    @property
    def update_steps(self) -> int:
        """Env steps between updates, of all slots together."""
        return self.slots * self.rollout_steps

    def build(self, env: VecEnv, *, seed: int) -> PPO:
        """A model that knows nothing yet."""
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
    """SAC from nothing."""

    kind: Literal["sac"] = "sac"
    env_steps: Count = 15_000
    """Budget of a task; rounded up so that evaluations are evenly spaced between updates."""
    slots: Size = 1
    """Copies of the task that are played side by side; their env steps all count."""
    learning_rate: Positive = 1e-3
    """Adam's step size."""
    discount: Fraction = 0.95
    """Per step. The end of an episode is a time limit, and bootstrapped across."""
    normalize: bool = False
    """Scale observations by their running mean and deviation, rewards by that of returns."""
    hidden_sizes: Widths = (256, 256)
    """ReLU layers of the policy and of both value functions."""

    random_steps: Annotated[int, Field(ge=0, le=10**12)] = 500
    """Env steps of random actions before the first update."""
    updates_per_step: Size = 1
    """Gradient steps for each env step."""
    batch_size: Size = 256
    """Env steps that a gradient step learns from."""
    buffer_size: Size = 1_000_000
    """Env steps that are remembered; as many as the budget at most."""
    target_rate: Annotated[float, Field(gt=0, le=1)] = 0.005
    """How far the target networks follow after each gradient step."""

    def build(self, env: VecEnv, *, seed: int) -> SAC:
        """A model that knows nothing yet.

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
