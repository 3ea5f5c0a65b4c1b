"""Plays tasks with an agent: an iteration of training, and a whole set for evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from metarl.evaluation import adaptation_curve, first_rows, join
from metarl.protocols import Agent, TaskDistribution, TaskVectorEnv
from metarl.recording import Recordings
from metarl.seeding import derive_seed, torch_generator
from metarl.tasks import TaskSet
from metarl.trial import run_trial
from metarl.types import AdaptationCurve, Rollout, TrialShape


def play_and_learn(
    agent: Agent[Any],
    env: TaskVectorEnv,
    distribution: TaskDistribution,
    shape: TrialShape,
    *,
    num_tasks: int,
    seed: int,
    iteration: int,
) -> dict[str, float]:
    """One iteration: a trial on sampled training tasks, a meta-update, and what to log of them."""
    started = time.perf_counter()
    task_rng = np.random.default_rng(derive_seed(seed, "tasks", iteration))
    generator = torch_generator(derive_seed(seed, "agent", iteration), agent.device)
    tasks = distribution.train.sample(num_tasks, task_rng)
    trial = run_trial(
        agent,
        env,
        tasks,
        shape=shape,
        seed=derive_seed(seed, "env", iteration),
        generator=generator,
    )
    played = time.perf_counter()
    learned = agent.meta_update(trial, generator=generator)
    finished = time.perf_counter()
    return {
        **episode_metrics(
            trial,
            [task.env_name for task in tasks],
            shape,
            by_class=len(distribution.train.classes) > 1,
        ),
        **{f"update/{name}": value for name, value in learned.items()},
        "timing/rollout_s": played - started,
        "timing/update_s": finished - played,
        "timing/env_steps_per_s": sum(r.reward.numel() for r in trial) / (finished - started),
    }


def episode_metrics(
    trial: list[Rollout], env_names: Sequence[str], shape: TrialShape, *, by_class: bool
) -> dict[str, float]:
    """Return and success, of all episodes, and of the first and the last of a trial: the gap is
    what was adapted.

    Args:
        env_names: the class of each task.
        by_class: also of the last episode on each class that was played.
    """
    curve = adaptation_curve(trial, env_names, slots_per_task=shape.slots_per_task)
    measures = {"return": curve.scores["return"], "success": curve.scores["success_any"]}
    metrics = {f"train/{measure}": float(scores.mean()) for measure, scores in measures.items()}
    for measure, scores in measures.items():
        metrics[f"{measure}/first_episode"] = float(scores[:, 0].mean())
        metrics[f"{measure}/last_episode"] = float(scores[:, -1].mean())
        for name in dict.fromkeys(env_names) if by_class else ():
            rows = [row for row, of_row in enumerate(env_names) if of_row == name]
            metrics[f"classes/{measure}/{name}"] = float(scores[rows, -1].mean())
    return metrics


def play(
    agent: Agent[Any],
    env: TaskVectorEnv,
    tasks: TaskSet[Any],
    *,
    shape: TrialShape,
    seed: int,
    greedy: bool = False,
    recordings: Recordings | None = None,
) -> AdaptationCurve:
    """One trial on every task, as many side by side as the environment has slots for.

    Args:
        seed: of the actions and the environments.
        greedy: take the policy's mode instead of drawing from it.
        recordings: collects what is played; the environment is a `Recorder` then.
    """
    curves = []
    at_once = env.num_envs // shape.slots_per_task
    for start in range(0, len(tasks), at_once):
        batch = list(tasks[start : start + at_once])
        # The last batch is filled up with tasks whose results are left out.
        filled = batch + batch[:1] * (at_once - len(batch))
        names = [task.env_name for task in filled]
        actions = torch_generator(derive_seed(seed, "agent", start), agent.device)
        with recordings.of_trial(env, shape) if recordings else nullcontext():
            trial = run_trial(
                agent,
                env,
                filled,
                shape=shape,
                seed=derive_seed(seed, "env", start),
                generator=None if greedy else actions,
            )
        if recordings:
            recordings.keep(trial, names[: len(batch)], first_task=start)
        curve = adaptation_curve(trial, names, slots_per_task=shape.slots_per_task)
        curves.append(first_rows(curve, len(batch)))
    return join(curves)
