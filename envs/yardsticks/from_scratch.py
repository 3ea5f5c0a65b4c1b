"""Learning with Stable-Baselines3, on one task from scratch or on all training tasks at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from envs.stable_baselines3 import SB3VecEnv
from envs.yardsticks.curves import LearningCurve
from envs.yardsticks.learners import PPOConfig, SACConfig
from envs.yardsticks.policies import SB3Policy
from metarl.protocols import Agent, TaskDistribution
from metarl.rollout.curve import adaptation_curve
from metarl.rollout.slots import SlotEnv
from metarl.rollout.trial import one_torch_thread, run_trial
from metarl.system.seeding import derive_seed, torch_generator
from metarl.tasks import Task, TaskSet
from metarl.types import TrialShape


def learn_from_scratch(
    distribution: TaskDistribution, task: Task, *, config: PPOConfig | SACConfig, seed: int
) -> LearningCurve:
    """Learning curve of a policy that learns a single task from scratch.

    Raises:
        UserError: SAC with discrete actions.
    """

    def slots_of(env: SlotEnv[Any]) -> VecEnv:
        env.set_tasks([task] * config.slots)
        return SB3VecEnv(env)

    return _learn(distribution, slots_of, [task], config=config, seed=seed)


def learn_all_tasks(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    *,
    config: PPOConfig | SACConfig,
    seed: int,
) -> LearningCurve:
    """Learning curve of one policy that learns all training tasks at once, without seeing which.

    Every slot plays a new training task in each episode. The policy is evaluated on `tasks`,
    usually held-out ones, to which it does not adapt. Env steps count all training tasks together.

    Raises:
        UserError: SAC with discrete actions.
    """

    def slots_of(env: SlotEnv[Any]) -> VecEnv:
        rng = np.random.default_rng(derive_seed(seed, "training tasks"))
        return OtherTaskEachEpisode(SB3VecEnv(env), distribution.train, rng)

    return _learn(distribution, slots_of, tasks, config=config, seed=seed)


class OtherTaskEachEpisode(VecEnvWrapper):
    """Slots that play newly drawn tasks in each episode; all episodes end together.

    Args:
        venv: the slots.
        tasks: set to draw from, stratified over classes.
        rng: source of the draws.
    """

    def __init__(self, venv: SB3VecEnv, tasks: TaskSet[Any], rng: np.random.Generator) -> None:
        super().__init__(venv)
        self._tasks, self._rng = tasks, rng

    def reset(self) -> Float[np.ndarray, "N O"]:
        """Draws tasks and starts an episode on each."""
        self.venv.env_method("set_tasks", self._tasks.sample(self.num_envs, self._rng))
        obs = self.venv.reset()
        assert isinstance(obs, np.ndarray)
        return obs

    def step_wait(
        self,
    ) -> tuple[
        Float[np.ndarray, "N O"],
        Float[np.ndarray, " N"],
        Bool[np.ndarray, " N"],
        list[dict[str, Any]],
    ]:
        """Steps every slot; after an episode's last step, returns the start of a new task."""
        obs, rewards, ended, infos = self.venv.step_wait()
        if ended.all():
            obs = self.reset()
        assert isinstance(obs, np.ndarray)
        return obs, rewards, ended, infos


def _learn(
    distribution: TaskDistribution,
    slots_of: Callable[[Any], VecEnv],
    tasks: Sequence[Task],
    *,
    config: PPOConfig | SACConfig,
    seed: int,
) -> LearningCurve:
    """Learns in the slots that `slots_of` makes of an environment, evaluated on `tasks`."""
    played: Any = distribution.make_env(config.slots)
    # One thread: networks this small are slower on several, and their results would depend on the
    # number of processors.
    with (
        closing(played),
        closing(distribution.make_env(len(tasks) * config.evaluation_episodes)) as judged,
        random_state_kept(),
        one_torch_thread(),
    ):
        env = slots_of(played)
        normalizer = VecNormalize(env, gamma=config.discount) if config.normalize else None
        # Stable-Baselines3 seeds NumPy, which takes 32 bits.
        model = config.build(normalizer or env, seed=derive_seed(seed, "learner") % 2**32)
        # The default logger would create a folder for each call of `learn`.
        model.set_logger(Logger(folder=None, output_formats=[]))
        normalize = normalizer.normalize_obs if normalizer else np.asarray
        columns = []
        for env_steps in config.grid:
            learn_until(model, env_steps)
            columns.append(
                evaluate_policy(
                    SB3Policy(model, normalize),
                    judged,
                    tasks,
                    episodes=config.evaluation_episodes,
                    greedy=config.greedy,
                    seed=derive_seed(seed, "evaluation", env_steps),
                )
            )
    scores = {m: np.stack([column[m] for column in columns], axis=1) for m in columns[0]}
    return LearningCurve(env_steps=config.grid, scores=scores)


def learn_until(model: PPO | SAC, env_steps: int) -> None:
    """Continues learning from the model's current state, up to `env_steps` in total."""
    remaining = env_steps - model.num_timesteps
    if remaining > 0:
        model.learn(remaining, reset_num_timesteps=False)


def evaluate_policy(
    policy: Agent[Any],
    env: Any,
    tasks: Sequence[Task],
    *,
    episodes: int,
    greedy: bool,
    seed: int,
) -> dict[str, Float[np.ndarray, " N"]]:
    """Scores by measure, as in `LearningCurve.scores`: means over episodes played in parallel.

    Args:
        env: an environment with `episodes` slots for each task.
        greedy: take the policy's mode instead of sampling.
    """
    trial = run_trial(
        policy,
        env,
        tasks,
        shape=TrialShape(slots_per_task=episodes),
        seed=derive_seed(seed, "env"),
        generator=None if greedy else torch_generator(derive_seed(seed, "agent"), policy.device),
    )
    names = [task.env_name for task in tasks]
    curve = adaptation_curve(trial, names, slots_per_task=episodes)
    return {measure: scores[:, 0].cpu().numpy() for measure, scores in curve.scores.items()}


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restores the process-wide random streams on exit, because Stable-Baselines3 seeds them and
    draws from them."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
