"""Rollouts of several agents side by side: choice of runs and tasks, and their description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from metarl.errors import UserError
from metarl.evaluation.record import Evaluation, count
from metarl.evaluation.trials import Trials
from metarl.rollout.recording import Recording, Recordings, read_recordings, write_recordings

CANDIDATES = 200
"""Tasks recorded per agent, from which the shown ones are chosen after all agents have played. In
Meta-World, first and last episode of a task take a quarter of a megabyte."""


class Beside:
    """Rollouts of the first run of each agent, or of every seed of one agent, on the same tasks.

    Many tasks are recorded per run, as the interesting ones are known only after all runs.

    Args:
        trials: trials of all compared runs, on the same tasks.
    """

    def __init__(self, trials: Sequence[Trials]) -> None:
        one_agent = len({each.experiment for each in trials}) == 1
        first = {each.experiment: each for each in reversed(trials)}
        self._shown = [each for each in trials if one_agent or first[each.experiment] is each]
        self._tasks = candidates([task.env_name for task in trials[0].tasks])
        self._num_tasks = len(trials[0].tasks)
        self.labels = {
            each.name: f"seed {each.seed}" if one_agent else each.experiment for each in self._shown
        }
        """Labels on the page, by the names of the shown runs."""
        self.recordings = {
            each.name: Recordings(len(self._tasks), only=set(self._tasks), ends=True)
            for each in self._shown
        }
        """Recordings of the shown runs, by their names."""

    def store(
        self, files: Mapping[str, Path], evaluations: Sequence[Evaluation], *, limit: int
    ) -> None:
        """Stores the recordings of the tasks that differ most, one file per shown run.

        Args:
            files: paths by the names of runs.
            evaluations: evaluations of all compared runs.
            limit: number of tasks to show.
        """
        shown = {(each.experiment, each.seed) for each in self._shown}
        compared = [e for e in evaluations if (e.experiment, e.seed) in shown]
        tasks = most_different(compared, self._tasks, limit)
        for name, recordings in self.recordings.items():
            by_task = {recording.task: recording for recording in recordings.kept}
            files[name].parent.mkdir(parents=True, exist_ok=True)
            write_recordings(files[name], [by_task[task] for task in tasks])

    def shown(self, files: Mapping[str, Path]) -> list[Recording]:
        """The recordings that `store` stored: task by task, each by all agents in turn.

        Raises:
            UserError: the recordings are missing, damaged or of different tasks.
        """
        played = {label: read_recordings(files[name]) for name, label in self.labels.items()}
        if len({tuple(each.task for each in rows) for rows in played.values()}) > 1:
            raise UserError("stored rollouts are of different tasks; leave --stored out")
        return [
            replace(recording, agent=label)
            for row in zip(*played.values(), strict=True)
            for label, recording in zip(played, row, strict=True)
        ]

    def description(self, shown: Sequence[Recording]) -> str:
        """Text for the page about the shown runs and tasks."""
        runs = ", ".join(f"{each.experiment} (seed {each.seed})" for each in self._shown)
        one_agent = len({each.experiment for each in self._shown}) == 1
        recorded = len(self._tasks)
        some = "" if recorded == self._num_tasks else f" ({recorded:,} of them were recorded)"
        order = "on which success after adaptation differs most, then failed ones"
        return (
            f"{'Every run' if one_agent else 'One run of each agent'}: {runs}; on "
            f"{len(shown) // len(self._shown):,} of {count(self._num_tasks, 'task')}{some}: those "
            f"{order if len(self._shown) > 1 else 'that fail after adaptation first'}, from "
            "all classes in turn. Each is shown before adaptation (the first episode) and after it "
            "(the last); where episodes are played side by side, the first of them."
        )


def candidates(env_names: Sequence[str]) -> list[int]:
    """Numbers of at most `CANDIDATES` tasks to record, taken from all classes in turn."""
    ranks = rank_in_class(env_names, range(len(env_names)))
    in_turn = sorted(range(len(env_names)), key=lambda task: (ranks[task], task))
    return sorted(in_turn[:CANDIDATES])


def most_different(
    evaluations: Sequence[Evaluation], tasks: Sequence[int], limit: int
) -> list[int]:
    """The tasks on which success after adaptation differs most, taken from all classes in turn.

    Among equal ones, failed tasks come first, then those whose returns differ most.
    """
    success, returns = (
        np.stack([run.curve.scores[measure][:, -1].numpy() for run in evaluations])
        for measure in ("success_any", "return")
    )
    apart = np.ptp(success, axis=0)

    def key(task: int) -> tuple[float, ...]:
        return -apart[task], success[:, task].mean(), -np.ptp(returns[:, task])

    in_order = sorted(tasks, key=key)
    ranks = rank_in_class(evaluations[0].curve.env_names, in_order)
    return sorted(in_order, key=lambda task: (ranks[task], *key(task)))[:limit]


def rank_in_class(env_names: Sequence[str], tasks: Sequence[int]) -> dict[int, int]:
    """Number of tasks of the same class before each task, by task."""
    seen: Counter[str] = Counter()
    ranks = {}
    for task in tasks:
        ranks[task] = seen[env_names[task]]
        seen[env_names[task]] += 1
    return ranks
