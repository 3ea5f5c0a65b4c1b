"""Trials of a trained agent on a set of tasks: what is played, and the evaluation that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl.evaluation.record import Evaluation
from metarl.evaluation.setting import Setting
from metarl.protocols import Agent, TaskDistribution, TaskVectorEnv
from metarl.rollout.recording import Recordings
from metarl.rollout.task_set import play
from metarl.system.memory import check_trial_fits
from metarl.tasks import TaskSet, goals_of
from metarl.training.provenance import environment
from metarl.training.run import load_agent
from metarl.types import TrialShape


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What an evaluation plays: an agent as it was at a checkpoint, and tasks for it."""

    folder: Path
    """Of the run."""
    output: Path
    """Folder of what is made of the run: the same one, unless results go elsewhere."""
    experiment: str
    agent: str
    """The kind of agent, e.g. `rl2`."""
    seed: int
    """Of the run."""
    build_agent: Callable[[TaskVectorEnv], Agent[Any]]
    """An untrained agent for an environment."""
    checkpoint: Path
    distribution: TaskDistribution
    reward_version: str | None
    """Of the tasks' rewards, where they have versions."""
    split: str
    tasks: TaskSet[Any]
    shape: TrialShape

    @property
    def env_steps(self) -> int:
        """What the agent has been trained for."""
        return int(self.checkpoint.name)

    @property
    def name(self) -> str:
        """Of the run, also of files."""
        return f"{self.experiment}-seed{self.seed}"

    @property
    def setting(self) -> Setting:
        """What has to be alike where runs are compared."""
        return Setting(
            experiment=self.experiment,
            seed=self.seed,
            distribution=self.distribution.name,
            split_hash=self.tasks.content_hash,
            horizon=self.distribution.horizon,
            reward_version=self.reward_version,
            total_episodes=self.shape.total_episodes,
            slots_per_task=self.shape.slots_per_task,
        )

    def trained_agent(self, env: TaskVectorEnv) -> Agent[Any]:
        """The agent of the checkpoint.

        Raises:
            UserError: there is none, it is damaged, or the agent does not fit the environment.
        """
        agent = self.build_agent(env)
        load_agent(agent, self.checkpoint)
        return agent

    def check(self) -> None:
        """Checks that the agent can play these tasks.

        Raises:
            UserError: saying why it cannot.
        """
        with closing(self.distribution.make_env(self.shape.slots_per_task)) as env:
            self.trained_agent(env)

    def play(self, options: Mapping[str, Any], recordings: Recordings | None = None) -> Evaluation:
        """Plays every task.

        Args:
            options: stored with the evaluation; of them `tasks_at_once`, `seed` and `greedy` say
                how it is played.
            recordings: collects what is played; environments are `Recorder`s then.
        """
        at_once = min(options["tasks_at_once"], len(self.tasks))
        check_trial_fits(self.shape, num_tasks=at_once, horizon=self.distribution.horizon)
        num_slots = at_once * self.shape.slots_per_task
        with closing(self.distribution.make_env(num_slots)) as env:
            curve = play(
                self.trained_agent(env), env, self.tasks,
                shape=self.shape, seed=options["seed"], greedy=options["greedy"],
                recordings=recordings,
            )  # fmt: skip
        return Evaluation(
            experiment=self.experiment,
            agent=self.agent,
            seed=self.seed,
            env_steps=self.env_steps,
            distribution=self.distribution.name,
            split=self.split,
            split_hash=self.tasks.content_hash,
            horizon=self.distribution.horizon,
            slots_per_task=self.shape.slots_per_task,
            options=dict(options),
            parameters=[task.parameters.tolist() for task in self.tasks],
            goals=goals_of(self.tasks),
            curve=curve,
            environment=environment(),
            reward_version=self.reward_version,
        )
