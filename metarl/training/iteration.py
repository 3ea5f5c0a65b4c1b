"""One iteration of training: play tasks, learn from them, and what to log of both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from metarl.learning.few_shot import MEASURES
from metarl.protocols import Agent, EpisodeSampler, FewShotLearner, TaskDistribution, TaskVectorEnv
from metarl.rollout.curve import adaptation_curve
from metarl.rollout.trial import run_trial
from metarl.system.seeding import derive_seed, torch_generator
from metarl.types import Rollout, TrialShape


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


def learn_from_tasks(
    learner: FewShotLearner,
    sampler: EpisodeSampler,
    *,
    num_tasks: int,
    updates: int,
    seed: int,
    iteration: int,
) -> dict[str, float]:
    """One iteration of training: meta-updates on `num_tasks` tasks each, and the means of what to
    log of them. All randomness follows from (seed, iteration)."""
    started, drawing = time.perf_counter(), 0.0
    rng = np.random.default_rng(derive_seed(seed, "tasks", iteration))
    generator = torch_generator(derive_seed(seed, "agent", iteration), learner.device)
    learned: list[dict[str, float]] = []
    for _ in range(updates):
        before = time.perf_counter()
        batch = sampler.sample(num_tasks, rng).to(learner.device)
        drawing += time.perf_counter() - before
        learned.append(learner.meta_update(batch, generator=generator))
    metrics = {name: sum(each[name] for each in learned) / updates for name in learned[0]}
    return {
        **{
            f"{'train' if name in MEASURES else 'update'}/{name}": value
            for name, value in metrics.items()
        },
        "timing/draw_s": drawing,
        "timing/update_s": time.perf_counter() - started - drawing,
    }
