"""What each job of a sweep does: train one run after the other, and judge it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from metarl.errors import UserError, say
from metarl.sweep.jobs import Children, Processors, Work, claimed, last_line
from metarl.sweep.objective import PARTS, Objective, UnknownMetricError
from metarl.sweep.plan import LOCKS, Plan, PlannedRun, Trial
from metarl.sweep.search import Asked, Search
from metarl.sweep.settings import as_argument, said_value
from metarl.system import stopping
from metarl.training.folder import is_in_training, read_lines

LOOK = 2.0
"""Seconds between looks at the log of a run."""


class WorseError(Exception):
    """A trial of a search is worse than most, and should end early."""


@dataclass
class Sweep:
    """The work of a sweep in this process."""

    plan: Plan
    objective: Objective
    children: Children
    failed: dict[str, str] = field(default_factory=dict)
    """Runs and trials that failed, by their labels, and why."""
    unfinished: list[str] = field(default_factory=list)
    """Runs that other processes train or stopped."""
    known_metric: bool = False
    """True once a run has logged the objective."""

    def grid(self, trials: list[Trial]) -> Callable[[Processors], Work]:
        """The work of a lane that takes the next run of a grid until none is left; all lanes take
        from the same runs."""
        queue = iter([run for trial in trials for run in trial.runs])

        def lane(on: Processors) -> Work:
            for run in queue:
                yield from self.trained(run, on)

        return lane

    def search(self, search: Search) -> Callable[[Processors], Work]:
        """The work of a lane that takes the next trial of a search until all are run."""

        def lane(on: Processors) -> Work:
            while True:
                with search.next() as asked:
                    if asked is None:
                        return
                    yield from self._trial(search, *asked, on)

        return lane

    def _trial(
        self, search: Search, asked: Asked, trial: Trial | UserError, on: Processors
    ) -> Work:
        """Runs a trial, run by run, and tells the search what came of it."""
        if isinstance(trial, UserError):
            self._fails(f"trial{asked.number:04}", str(trial))
            search.tell(asked, state="failed")
            return
        said = ", ".join(f"{self.plan.short(k)} {said_value(v)}" for k, v in trial.values.items())
        print(f"{trial.name}: {said}", flush=True)
        scores: dict[PlannedRun, float] = {}
        try:
            for number, run in enumerate(trial.runs):
                look = partial(self._report, asked, run, number, scores)
                score = yield from self.trained(run, on, look)
                if score is None:
                    if run.label not in self.unfinished:
                        search.tell(asked, state="failed")
                    return
                scores[run] = score
                look()
        except WorseError:
            search.tell(asked, state="pruned")
            print(f"{trial.name} is pruned: it is worse than most", flush=True)
            return
        found = self.objective.over_seeds(scores)
        assert found is not None
        search.tell(asked, value=found.value[0], state="finished")

    def _report(
        self, asked: Asked, run: PlannedRun, number: int, scores: Mapping[PlannedRun, float]
    ) -> None:
        """Reports a trial's mean over its runs so far, after each part of a run.

        Args:
            number: number of the run in its trial.
            scores: scores of the finished runs.

        Raises:
            WorseError: the trial should end early.
        """
        if not self.plan.settings.prune:
            return
        before = [score for each, score in scores.items() if each is not run]
        parts = {} if self.objective.folds else self.objective.parts(read_lines(run.metrics), run)
        if run in scores:
            parts[PARTS] = scores[run]
        for part, score in sorted(parts.items()):
            so_far = (sum(before) + score) / (len(before) + 1)
            if asked.is_worse(number * PARTS + part, so_far):
                raise WorseError

    def trained(
        self, run: PlannedRun, on: Processors, look: Callable[[], None] = lambda: None
    ) -> Generator[None, None, float | None]:
        """Trains a run, or the rest of it, and judges it, unless that was done before.

        Args:
            look: called now and then while it trains; if it raises, training is stopped.

        Returns:
            Its score; None if it failed, was stopped, or is trained by another process.

        Raises:
            UnknownMetricError: no run logs the objective.
        """
        with claimed(self.plan.folder / LOCKS / run.label.replace("/", "-")) as ours:
            if not ours or is_in_training(run.folder):
                self.unfinished.append(run.label)
                print(f"{run.label} is trained by another process", flush=True)
                return None
            started = time.monotonic()
            try:
                before = run.trained_for()
                if run.is_trained() and self._is_evaluated(run):
                    return self._judged(run, "was finished before")
                run.folder.parent.mkdir(exist_ok=True)
                code = 0
                if not run.is_trained():
                    how = f"goes on from {before:,}" if before else "starts"
                    print(f"{run.label} {how} on {said_of(on)}", flush=True)
                    process = self.children.run(
                        "train.py", self._arguments(run), log=run.log, on=on
                    )
                    code = yield from self._watched(run, process, look)
                if not code and (judged := self.objective.evaluation(run)):
                    print(f"{run.label} is judged on {said_of(on)}", flush=True)
                    process = self.children.run("evaluate.py", judged[0], log=run.log, on=on)
                    code = yield from process
                if code:
                    return self._failed_process(run, code)
                return self._judged(run, f"finished in {clock(time.monotonic() - started)}")
            except UnknownMetricError:
                raise
            except UserError as error:
                return self._fails(run.label, str(error))

    def _is_evaluated(self, run: PlannedRun) -> bool:
        judged = self.objective.evaluation(run)
        return judged is None or judged[1].exists()

    def _arguments(self, run: PlannedRun) -> list[str]:
        """The arguments of `train.py` that begin a run, or go on with it."""
        if run.folder.exists():
            return ["--resume", str(run.folder)]
        options = [f"--{key}={as_argument(value)}" for key, value in run.options.items()]
        return [str(self.plan.base), *options, "--run-dir", str(run.folder)]

    def _watched(
        self, run: PlannedRun, process: Generator[None, None, int], look: Callable[[], None]
    ) -> Generator[None, None, int]:
        """Waits for a process that trains, and looks at its log now and then."""
        looked = time.monotonic()
        with closing(process):
            while True:
                try:
                    next(process)
                except StopIteration as ended:
                    return ended.value
                if time.monotonic() - looked > LOOK:
                    looked = time.monotonic()
                    if not self.known_metric:
                        self.known_metric = self.objective.check_logged(read_lines(run.metrics))
                    look()
                yield

    def _judged(self, run: PlannedRun, how: str) -> float:
        """The score of a finished run, and a line about it."""
        if not self.known_metric:
            self.known_metric = self.objective.check_logged(read_lines(run.metrics))
        score = self.objective.score(run)
        form = self.objective.form(score)
        print(f"{run.label} {how}: {self.objective.name} {score:{form}}", flush=True)
        return score

    def _failed_process(self, run: PlannedRun, code: int) -> None:
        if code == stopping.EXIT_CODE:
            self.unfinished.append(run.label)
            return self._fails(run.label, "it was stopped from outside; the same command goes on")
        return self._fails(run.label, f"{last_line(run.log)} (exit code {code}, log {run.log})")

    def _fails(self, label: str, why: str) -> None:
        self.failed[label] = why
        say(f"{label} failed: {why}")


def said_of(on: Processors) -> str:
    """Processors in words."""
    return f"processor{'s' if len(on) > 1 else ''} {', '.join(map(str, on))}"


def clock(seconds: float) -> str:
    """A duration in minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
