"""Trials of an agent on a whole set of tasks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from metarl.protocols import Agent, TaskVectorEnv
from metarl.rollout.curve import adaptation_curve, first_rows, join
from metarl.rollout.recording import Recordings
from metarl.rollout.trial import run_trial
from metarl.system import ranks
from metarl.system.seeding import derive_seed, torch_generator
from metarl.tasks import TaskSet
from metarl.types import AdaptationCurve, Rollout, TrialShape


def play(
    agent: Agent[Any],
    env: TaskVectorEnv,
    tasks: TaskSet[Any],
    *,
    shape: TrialShape,
    seed: int,
    greedy: bool = False,
    recordings: Recordings | None = None,
    watch: Callable[[list[Rollout], int], None] | None = None,
    together: bool = False,
) -> AdaptationCurve:
    """Plays one trial on every task, as many in parallel as the environment has slots for.

    Args:
        agent: the agent to play with.
        env: a vector environment; each task takes `shape.slots_per_task` of its slots.
        tasks: the tasks to play.
        shape: layout of a trial.
        seed: seed of the actions and the environments.
        greedy: take the policy's mode instead of sampling from it.
        recordings: collects the recorded episodes; the environment must then be a `Recorder`.
        watch: called with each trial and the number of its tasks that count.
        together: share the batches of tasks out among ranks, which all must call this; each batch
            is played as a single process plays it, and all ranks get the whole curve.
    """
    curves = []
    at_once = env.num_envs // shape.slots_per_task
    starts = list(range(0, len(tasks), at_once))
    for start in ranks.share_of(len(starts)).of(starts) if together else starts:
        batch = list(tasks[start : start + at_once])
        # The last batch is padded with tasks whose results are dropped.
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
        if watch:
            watch(trial, len(batch))
        curve = adaptation_curve(trial, names, slots_per_task=shape.slots_per_task)
        curves.append(first_rows(curve, len(batch)))
    return join(ranks.gathered_objects(curves) if together else curves)
