"""Rollouts of several agents beside each other: whose, on which tasks, and what is said of them."""

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
"""Tasks that are recorded of each agent, to choose from when all have played: first and last
episodes of one take a quarter of a megabyte in Meta-World."""


class Beside:
    """Rollouts of the first run of each agent, or of every seed of one agent, on the same tasks.

    Many tasks are recorded of each, since which are worth a look shows when all have played.

    Args:
        trials: of all that are compared, on the same tasks.
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
        """What each is called on the page, by the names of the runs that are shown."""
        self.recordings = {
            each.name: Recordings(len(self._tasks), only=set(self._tasks), ends=True)
            for each in self._shown
        }
        """Collects what each of them plays."""

    def store(
        self, files: Mapping[str, Path], evaluations: Sequence[Evaluation], *, limit: int
    ) -> None:
        """Stores the recordings of the tasks that differ most, a file for each run that is shown.

        Args:
            files: by the names of runs.
            evaluations: of all.
            limit: tasks that are shown.
        """
        shown = {(each.experiment, each.seed) for each in self._shown}
        compared = [e for e in evaluations if (e.experiment, e.seed) in shown]
        tasks = most_different(compared, self._tasks, limit)
        for name, recordings in self.recordings.items():
            by_task = {recording.task: recording for recording in recordings.kept}
            files[name].parent.mkdir(parents=True, exist_ok=True)
            write_recordings(files[name], [by_task[task] for task in tasks])

    def shown(self, files: Mapping[str, Path]) -> list[Recording]:
        """What `store` stored: task by task, each by all agents in turn.

        Raises:
            UserError: there is nothing, or it is damaged.
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
        """What a reader has to know of them."""
        runs = ", ".join(f"{each.experiment} (seed {each.seed})" for each in self._shown)
        one_agent = len({each.experiment for each in self._shown}) == 1
        recorded = len(self._tasks)
        some = "" if recorded == self._num_tasks else f" ({recorded:,} of them were recorded)"
        order = "on which success after adaptation differs most, then those that are failed"
        return (
            f"{'Every run' if one_agent else 'One run of each agent'}: {runs}; on "
            f"{len(shown) // len(self._shown):,} of {count(self._num_tasks, 'task')}{some}: those "
            f"{order if len(self._shown) > 1 else 'that are failed after adaptation first'}, of "
            "all classes in turn. Each is shown before adaptation (the first episode) and after it "
            "(the last); where episodes are played side by side, the first of them."
        )


def candidates(env_names: Sequence[str]) -> list[int]:
    """Numbers of the tasks to choose from: all, or as many, of all classes in turn."""
    ranks = rank_in_class(env_names, range(len(env_names)))
    in_turn = sorted(range(len(env_names)), key=lambda task: (ranks[task], task))
    return sorted(in_turn[:CANDIDATES])


def most_different(
    evaluations: Sequence[Evaluation], tasks: Sequence[int], limit: int
) -> list[int]:
    """The tasks on which success after adaptation differs most, of all classes in turn; of equal
    ones those that fail first, then those whose returns differ most."""
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
    """How many of its class come before each task."""
    seen: Counter[str] = Counter()
    ranks = {}
    for task in tasks:
        ranks[task] = seen[env_names[task]]
        seen[env_names[task]] += 1
    return ranks
