"""Stored results of yardsticks: baselines and their scores on held-out tasks.

tasks = spread(distribution.test, 5)
yardstick = from_scratch_yardstick(distribution, tasks, config=SACConfig(), seed=1, progress=print)
write_yardstick(yardstick, path)
yardstick.env_steps_to(0.98)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float
from pydantic import Field, FiniteFloat

from envs.yardsticks.curves import LearningCurve, env_steps_to
from envs.yardsticks.from_scratch import (
    evaluate_policy,
    learn_all_tasks,
    learn_from_scratch,
)
from envs.yardsticks.learners import PPOConfig, SACConfig
from envs.yardsticks.policies import RandomPolicy, ScriptedPolicy
from metarl.errors import UserError, printable
from metarl.evaluation.record import check_shape, read_checked, write_stored
from metarl.protocols import TaskDistribution
from metarl.system.seeding import derive_seed
from metarl.tasks import Task, TaskSet, fingerprint
from metarl.training.provenance import environment

Kind = Literal["from_scratch", "multi_task", "random", "scripted"]
Progress = Callable[[str], None]
"""Function that receives a line of progress."""
FORMAT = 1
T = TypeVar("T", bound=Task)


@dataclass(frozen=True, kw_only=True)
class PlayedTask:
    """A task of a yardstick."""

    index: Annotated[int, Field(ge=0)]
    """Index in the held-out split."""
    env_name: str
    parameters: list[float]


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """Scores of a baseline, in place of a meta-trained agent, on held-out tasks."""

    name: str
    """Displayed name, such as `PPO from scratch`."""
    kind: Kind
    config: dict[str, Any]
    """All settings of learning and evaluation."""
    seed: int
    distribution: str
    split_hash: str
    """Content hash of the whole split that contains these tasks."""
    tasks: Annotated[list[PlayedTask], Field(min_length=1)]
    """Task of each row."""
    env_steps: Annotated[list[int], Field(min_length=1)]
    """Env steps of learning before each column, without those of evaluations: per task, or of all
    training tasks together for a multi-task policy."""
    scores: dict[str, list[list[FiniteFloat]]]
    """Scores by measure, as in `LearningCurve.scores`; one row per task."""
    seconds: float
    """Wall time of all tasks together (s)."""
    environment: dict[str, Any]
    """Versions, machine and command line."""
    format: int = FORMAT

    @property
    def curve(self) -> LearningCurve:
        """The scores as arrays."""
        scores = {measure: np.array(rows) for measure, rows in self.scores.items()}
        return LearningCurve(env_steps=self.env_steps, scores=scores)

    @property
    def rows(self) -> list[int]:
        """Indices of its tasks in the held-out split."""
        return [task.index for task in self.tasks]

    @property
    def success(self) -> Float[np.ndarray, "N C"]:
        """Success at any step of an episode."""
        return self.curve.scores["success_any"]

    def env_steps_to(self, success: float) -> int | None:
        """Env steps until mean success at any step first reaches a level; see `env_steps_to`."""
        return env_steps_to(self.curve, success)


def spread(tasks: TaskSet[T], count: int) -> TaskSet[T]:
    """The first task of each class, then the second of each, and so on, `count` in total.

    Raises:
        UserError: there are fewer tasks.
    """
    if not 1 <= count <= len(tasks):
        raise UserError(
            f"{count} of {len(tasks)} tasks cannot be chosen; ask for 1 to {len(tasks)}"
        )
    seen = dict.fromkeys(tasks.classes, 0)
    rank = []
    for task in tasks:
        rank.append(seen[task.env_name])
        seen[task.env_name] += 1
    first = sorted(range(len(tasks)), key=lambda i: (rank[i], i))[:count]
    return TaskSet(tasks[i] for i in sorted(first))


def from_scratch_yardstick(
    distribution: TaskDistribution,
    tasks: TaskSet[Any],
    *,
    config: PPOConfig | SACConfig,
    seed: int,
    progress: Progress,
) -> Yardstick:
    """Yardstick of PPO or SAC that learns each of these held-out tasks separately from scratch.

    Raises:
        UserError: SAC with discrete actions.
    """
    start = time.monotonic()
    curves = []
    for number, (task, played) in enumerate(zip(tasks, _played(distribution, tasks), strict=True)):
        # The seed depends on the task alone, so that the other tasks do not change its result.
        task_seed = derive_seed(seed, "task", played.index)
        learned = learn_from_scratch(distribution, task, config=config, seed=task_seed)
        curves.append(learned)
        success = learned.scores["success_any"][0]
        progress(
            f"{config.kind.upper()} from scratch, task {number + 1} of {len(tasks)} "
            f"({task.env_name}): success {success[0]:.0%} → "
            f"{success[-1]:.0%} in {learned.env_steps[-1]:,} env steps, "
            f"{time.monotonic() - start:.0f} s so far"
        )
    return _yardstick(
        f"{config.kind.upper()} from scratch",
        "from_scratch",
        LearningCurve.of_tasks(curves),
        distribution=distribution,
        tasks=tasks,
        config=config.model_dump(mode="json"),
        seed=seed,
        start=start,
    )


def multi_task_yardstick(
    distribution: TaskDistribution,
    tasks: TaskSet[Any],
    *,
    config: PPOConfig | SACConfig,
    seed: int,
    progress: Progress,
) -> Yardstick:
    """Yardstick of a policy that learned all training tasks and plays held-out ones unadapted.

    Raises:
        UserError: SAC with discrete actions.
    """
    start = time.monotonic()
    curve = learn_all_tasks(distribution, tasks, config=config, seed=seed)
    first, *_, last = curve.scores["success_any"].mean(axis=0)
    progress(
        f"multi-task {config.kind.upper()}: success {first:.0%} → {last:.0%} on {len(tasks)} "
        f"held-out tasks in {curve.env_steps[-1]:,} env steps, {time.monotonic() - start:.0f} s"
    )
    return _yardstick(
        f"multi-task {config.kind.upper()}, not adapted",
        "multi_task",
        curve,
        distribution=distribution,
        tasks=tasks,
        config=config.model_dump(mode="json"),
        seed=seed,
        start=start,
    )


def fixed_yardstick(
    distribution: TaskDistribution,
    tasks: TaskSet[Any],
    *,
    policy: Literal["random", "scripted"],
    episodes: int,
    seed: int,
) -> Yardstick:
    """Yardstick, with one column, of random actions or of the official scripts, which see the goal.

    Args:
        episodes: episodes per task, played in parallel.

    Raises:
        UserError: scripted policies without Meta-World tasks, or less than one episode.
    """
    if episodes < 1:
        raise UserError(f"a yardstick needs 1 episode of each task or more, not {episodes}")
    start = time.monotonic()
    env = distribution.make_env(len(tasks) * episodes)
    try:
        random = policy == "random"
        agent = RandomPolicy(env.single_action_space) if random else ScriptedPolicy(tasks)
        scores = evaluate_policy(agent, env, tasks, episodes=episodes, greedy=not random, seed=seed)
    finally:
        env.close()
    return _yardstick(
        "random actions" if random else "official scripted policies",
        policy,
        LearningCurve(env_steps=[0], scores={m: s[:, None] for m, s in scores.items()}),
        distribution=distribution,
        tasks=tasks,
        config={"episodes": episodes},
        seed=seed,
        start=start,
    )


def _yardstick(
    name: str,
    kind: Kind,
    curve: LearningCurve,
    *,
    distribution: TaskDistribution,
    tasks: TaskSet[Any],
    config: dict[str, Any],
    seed: int,
    start: float,
) -> Yardstick:
    return Yardstick(
        name=name,
        kind=kind,
        config=config,
        seed=seed,
        distribution=distribution.name,
        split_hash=distribution.test.content_hash,
        tasks=_played(distribution, tasks),
        env_steps=curve.env_steps,
        scores={measure: rows.tolist() for measure, rows in curve.scores.items()},
        seconds=time.monotonic() - start,
        environment=environment(),
    )


def _played(distribution: TaskDistribution, tasks: TaskSet[Any]) -> list[PlayedTask]:
    """These tasks with their indices in the held-out split.

    Raises:
        UserError: a task is not held out.
    """
    places = {fingerprint(task): index for index, task in enumerate(distribution.test)}
    played = []
    for task in tasks:
        index = places.get(fingerprint(task))
        if index is None:
            raise UserError(f"a {task.env_name} task is not held out by {distribution.name}")
        played.append(
            PlayedTask(index=index, env_name=task.env_name, parameters=task.parameters.tolist())
        )
    return played


def write_yardstick(yardstick: Yardstick, path: Path) -> None:
    """Writes the yardstick as JSON, atomically."""
    write_stored(path, asdict(yardstick))


def read_yardstick(path: Path) -> Yardstick:
    """Reads a yardstick that `write_yardstick` wrote.

    Raises:
        UserError: the file is missing, is no yardstick, or has another format version.
    """
    try:
        yardstick = read_checked(path, Yardstick)
        shape = len(yardstick.tasks), len(yardstick.env_steps)
        for measure in ("return", "success_any", "success_last"):
            check_shape(yardstick.scores[measure], shape, name=measure)
    except (OSError, UserError, ValueError, KeyError) as error:
        reason = printable(error).removeprefix(f"cannot read {path}: ")
        raise UserError(f"{path} is no yardstick ({reason}); make it again") from None
    if yardstick.format != FORMAT:
        raise UserError(f"{path} is of format {yardstick.format}, not {FORMAT}; make it again")
    return yardstick
