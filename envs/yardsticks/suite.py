"""All yardsticks of a distribution: measured once, then read where they are kept."""

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
from metarl.protocols import TaskDistribution

FIXED_EPISODES = 10


class MultiTaskConfig(PPOConfig):
    """PPO that learns all training tasks at once."""

    env_steps: Count = 500_000
    """Budget, of all tasks together; rounded up so that evaluations are evenly spaced."""
    slots: Size = 20
    """Training tasks that are played side by side."""
    num_minibatches: Size = 10
    """Gradient steps per pass; must divide the env steps between updates."""
    evaluations: Size = 5
    """Points of the curve after the one at 0 env steps."""


class YardsticksConfig(Config):
    """What else plays the held-out tasks."""

    tasks: Size = 5
    """How many of them, spread over their classes; all where there are fewer."""
    seed: Size = 1
    """Of everything that is learned."""
    ppo: PPOConfig = PPOConfig()
    """Learns each task from nothing."""
    sac: SACConfig = SACConfig()
    """Learns each task from nothing, where actions are continuous."""
    multi_task: MultiTaskConfig = MultiTaskConfig()
    """Learns all training tasks at once, and is not adapted."""


def measure_yardsticks(
    distribution: TaskDistribution, config: YardsticksConfig, folder: Path, progress: Progress
) -> list[Yardstick]:
    """Every yardstick that the distribution has; what is kept in the folder is not made again.

    Raises:
        UserError: there are fewer held-out tasks, or a kept file is damaged.
    """
    tasks, seed = spread(distribution.test, min(config.tasks, len(distribution.test))), config.seed

    def kept(name: str, settings: Config | None, make: Callable[[], Yardstick]) -> Yardstick:
        path = folder / f"{name}_{stamp(distribution, config, settings)}.json"
        if path.is_file():
            return read_yardstick(path)
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
    """What makes a kept yardstick another one when it changes."""
    parts: list[Any] = [
        distribution.name, distribution.train.content_hash, distribution.test.content_hash,
        distribution.horizon, config.tasks, config.seed,
        settings.model_dump(mode="json") if settings else None,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
