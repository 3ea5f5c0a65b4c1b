"""Learning with Stable-Baselines3, on one task from nothing or on all training tasks at once."""

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
    """The curve of a policy that knows nothing and learns one task by itself.

    Raises:
        UserError: SAC where actions are discrete.
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
    """The curve of one policy that learns all training tasks at once, and is told of none.

    Every slot plays another training task in each episode. The policy is evaluated on `tasks`,
    usually held-out ones, to which it does not adapt. The env steps are those of all of training.

    Raises:
        UserError: SAC where actions are discrete.
    """

    def slots_of(env: SlotEnv[Any]) -> VecEnv:
        rng = np.random.default_rng(derive_seed(seed, "training tasks"))
        return OtherTaskEachEpisode(SB3VecEnv(env), distribution.train, rng)

    return _learn(distribution, slots_of, tasks, config=config, seed=seed)


class OtherTaskEachEpisode(VecEnvWrapper):
    """Slots that play newly drawn tasks in each episode; all of them end together.

    Args:
        venv: the slots.
        tasks: drawn from, stratified over classes.
        rng: draws them.
    """

    def __init__(self, venv: SB3VecEnv, tasks: TaskSet[Any], rng: np.random.Generator) -> None:
        super().__init__(venv)
        self._tasks, self._rng = tasks, rng

    def reset(self) -> Float[np.ndarray, "N O"]:
        """Draws tasks and starts an episode of each."""
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
        """Steps every slot; what follows an episode's last step is the start of another task's."""
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
    # Networks as small as these are slower on several threads, and on one their bits are the same
    # on every machine's number of processors.
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
        # Its own logger would make a folder for each call of `learn`.
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
    """Goes on learning where the model stopped."""
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
    """By measure, as in `LearningCurve.scores`: means over episodes played side by side.

    Args:
        env: of `episodes` slots for each task.
        greedy: take the policy's mode instead of drawing from it.
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
    """Stable-Baselines3 seeds and draws from the process-wide streams; the caller gets them back as
    they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
