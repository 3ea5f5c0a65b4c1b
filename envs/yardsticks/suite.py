"""All yardsticks of a distribution, measured once and then read from a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from gymnasium import spaces

from envs.metaworld import MetaWorld
from envs.yardsticks.learners import PPOConfig, SACConfig
from envs.yardsticks.results import (
    Progress,
    Yardstick,
    fixed_yardstick,
    from_scratch_yardstick,
    multi_task_yardstick,
    read_yardstick,
    spread,
    write_yardstick,
)
from metarl.config import Config, Count, Size
from metarl.errors import UserError
from metarl.protocols import TaskDistribution

FIXED_EPISODES = 10


class MultiTaskConfig(PPOConfig):
    """PPO that learns all training tasks at once."""

    env_steps: Count = 500_000
    """Env steps of all tasks together; rounded up so that evaluations are evenly spaced."""
    slots: Size = 20
    """Training tasks that are played in parallel."""
    num_minibatches: Size = 10
    """Gradient steps per pass; must divide the env steps between updates."""
    evaluations: Size = 5
    """Evaluations after the one at 0 env steps."""


class YardsticksConfig(Config):
    """Baselines on held-out tasks."""

    tasks: Size = 5
    """Number of held-out tasks, spread over classes; all if there are fewer."""
    seed: Size = 1
    """Seed of all learning."""
    ppo: PPOConfig = PPOConfig()
    """PPO that learns each task from scratch."""
    sac: SACConfig = SACConfig()
    """SAC that learns each task from scratch; only for continuous actions."""
    multi_task: MultiTaskConfig = MultiTaskConfig()
    """PPO that learns all training tasks at once and is not adapted."""


def measure_yardsticks(
    distribution: TaskDistribution, config: YardsticksConfig, folder: Path, progress: Progress
) -> list[Yardstick]:
    """Every yardstick of the distribution; those stored in the folder are read, not measured again.

    Raises:
        UserError: a stored file is damaged or belongs to other tasks.
    """
    tasks, seed = spread(distribution.test, min(config.tasks, len(distribution.test))), config.seed

    def kept(name: str, settings: Config | None, make: Callable[[], Yardstick]) -> Yardstick:
        path = folder / f"{name}_{stamp(distribution, config, settings)}.json"
        if path.is_file():
            stored = read_yardstick(path)
            if stored.split_hash == distribution.test.content_hash and len(stored.rows) == len(
                tasks
            ):
                return stored
            raise UserError(f"{path} belongs to other tasks; move it away to measure it again")
        made = make()
        write_yardstick(made, path)
        return made

    def played(policy: Literal["random", "scripted"]) -> Yardstick:
        return kept(policy, None, lambda: fixed_yardstick(
            distribution, tasks, policy=policy, episodes=FIXED_EPISODES, seed=seed
        ))  # fmt: skip

    def from_scratch(learner: PPOConfig | SACConfig) -> Yardstick:
        return kept(learner.kind, learner, lambda: from_scratch_yardstick(
            distribution, tasks, config=learner, seed=seed, progress=progress
        ))  # fmt: skip

    yardsticks = [played("random")]
    if isinstance(distribution, MetaWorld):
        yardsticks.append(played("scripted"))
    yardsticks.append(kept("multi_task", config.multi_task, lambda: multi_task_yardstick(
        distribution, tasks, config=config.multi_task, seed=seed, progress=progress
    )))  # fmt: skip
    yardsticks.append(from_scratch(config.ppo))
    with closing(distribution.make_env(1)) as env:
        continuous = isinstance(env.single_action_space, spaces.Box)
    if continuous:
        yardsticks.append(from_scratch(config.sac))
    return yardsticks


def stamp(distribution: TaskDistribution, config: YardsticksConfig, settings: Config | None) -> str:
    """Hash of everything that a stored yardstick depends on."""
    parts: list[Any] = [
        distribution.name, distribution.train.content_hash, distribution.test.content_hash,
        distribution.horizon, config.tasks, config.seed,
        settings.model_dump(mode="json") if settings else None,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
