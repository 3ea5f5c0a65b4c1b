"""A run during training: its budget, failures, signals, progress and saving.

The training loop itself stays free of these:

    with training_session(…) as session:
        while session.goes_on():
            with session.iteration() as step:
                …
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metarl.errors import (
    EnvironmentFailedError,
    NotFiniteError,
    TrialLostError,
    UserError,
    printable,
)
from metarl.protocols import FewShotDistribution, Learner, TaskDistribution
from metarl.rollout.interface import Interface
from metarl.system import ranks, stopping
from metarl.system.command_line import take_any_output
from metarl.system.files import read_text
from metarl.system.started import typed
from metarl.tasks import ContentHashes
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import Experiment, FewShotExperiment, codes_of, file_hash
from metarl.training.iteration import Iteration
from metarl.training.progress import Progress
from metarl.training.run import Follower, Run, begin_together, begin_with
from metarl.training.trust import trust

JOB = ".torchrun"
"""File of a run's folder that names the job whose ranks began it."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Length of the training."""

    unit: Literal["env_steps", "tasks"]
    total: int
    """Env steps or tasks to train for; the first iteration that reaches it is the last."""
    per_iteration: int


class Session:
    """A run that is being trained; see `training_session`."""

    def __init__(
        self,
        run: Run | Follower,
        progress: Progress,
        experiment: Experiment | FewShotExperiment,
        budget: Budget,
    ) -> None:
        self.run = run
        self._progress = progress
        self._experiment = experiment
        self._budget = budget

    def goes_on(self) -> bool:
        """True if the budget allows another iteration."""
        return self.run.env_steps < self._budget.total

    @contextmanager
    def iteration(self) -> Iterator[Iteration]:
        """One iteration: counted and logged when its body ends, saved if a checkpoint is due.

        A failure in the body ends the training, or skips the iteration if that is allowed; the
        agent then returns to its state before the iteration.

        Raises:
            UserError: something was not finite or an environment failed, and training stops.
        """
        run, step = self.run, self._budget.per_iteration
        iteration = Iteration(self._experiment.seed, run.iteration, run.agent.device)
        started, waited = time.perf_counter(), ranks.traffic().seconds
        try:
            with stopping.interruptible():
                yield iteration
            if ranks.number() > 1:
                iteration.log({"ranks_s": ranks.traffic().seconds - waited}, group="timing")
            if self._budget.unit == "env_steps":
                speed = step / (time.perf_counter() - started)
                iteration.log({"env_steps_per_s": speed}, group="timing")
            run.finish_iteration(iteration.metrics, env_steps=step)
        except (NotFiniteError, EnvironmentFailedError) as error:
            check_can_skip(error, run, on_nan=self._experiment.on_nan)
            assert isinstance(run, Run)
            run.skip_iteration(env_steps=step)
            self._progress.note(f"iteration {run.iteration} skipped: {error}")
        else:
            self._progress.show(run.metrics, iteration=run.iteration, env_steps=run.env_steps)
        if run.iteration % self._experiment.train.checkpoint_every == 0:
            run.save()
        ranks.watch()

    @contextmanager
    def failure_is_noted(self) -> Iterator[None]:
        """A part that only displays something; a failure is reported and does not end training."""
        try:
            with stopping.interruptible():
                yield
        except Exception as error:
            self._progress.note(f"iteration {self.run.iteration} is not shown: {printable(error)}")

    def show_hyperparameters(self, names: Iterable[str]) -> None:
        """Adds the run to TensorBoard's hyperparameter table, with the last value of these
        metrics."""
        if isinstance(self.run, Follower):
            return
        metrics = self.run.metrics
        if scores := {name: metrics[name] for name in names if name in metrics}:
            self.run.board.show_hyperparameters(self._experiment.model_dump(mode="json"), scores)


@contextmanager
def training_session(
    experiment: Experiment | FewShotExperiment,
    folder: Path,
    learner: Learner,
    distribution: TaskDistribution | FewShotDistribution,
    *,
    budget: Budget,
    shown: Mapping[str, str],
    interface: Interface | None = None,
    new: bool,
) -> Iterator[Session]:
    """Begins a run or resumes it from its newest checkpoint; saves it however the body ends.

    Args:
        experiment: config of the run.
        folder: folder of the run.
        learner: the agent or learner to train; the newest checkpoint is loaded into it.
        distribution: distribution of the tasks to learn from.
        budget: length of the training.
        shown: metrics that the progress display shows, each with its format.
        interface: sizes and bounds between an agent and its environments.
        new: make a new run folder; otherwise resume the run in `folder`.

    Raises:
        UserError: the run cannot be resumed or cannot be written.
    """
    if ranks.is_first():
        run = begun(experiment, folder, learner, distribution, budget.unit, interface, new=new)
    else:
        run = Follower(folder, learner)
    begin_together(run)
    progress = Progress(
        f"{experiment.name}: {distribution.name}",
        total_env_steps=budget.total,
        done_env_steps=run.env_steps,
        unit=budget.unit.replace("_", " "),
        shown=shown,
        quiet=not ranks.is_first(),
    )
    with closing(run), how_it_ends(run, budget), progress, saved_first(run):
        yield Session(run, progress, experiment, budget)


def begun(
    experiment: Experiment | FewShotExperiment,
    folder: Path,
    learner: Learner,
    distribution: TaskDistribution | FewShotDistribution,
    unit: Literal["env_steps", "tasks"],
    interface: Interface | None,
    *,
    new: bool,
) -> Run:
    """The run in a folder, new or resumed from its newest checkpoint, and locked; its arguments are
    those of `training_session`."""
    if experiment.start_from is not None and not checkpoints(folder / "checkpoints"):
        begin_with(learner, Path(experiment.start_from))
    if new:
        for code in codes_of(experiment):  # before `create`, so that --resume need not ask again
            trust(code)
        Run.create(folder, experiment)
        if ranks.launched():
            (folder / JOB).write_text(ranks.job(), encoding="utf-8")
    try:
        if interface is not None:
            interface.check(folder)
        run = Run(folder, learner, unit=unit, task_hashes=hashes_of(distribution, experiment))
        if interface is not None:  # only now: `Run` refuses published runs, which must not change
            interface.keep(folder)
    except OSError as error:
        raise UserError(f"cannot write the run {folder}: {error}") from None
    return run


def is_of_this_job(folder: Path) -> bool:
    """True if ranks of this job of torchrun's have begun the run in a folder."""
    return (
        ranks.launched() and (folder / JOB).is_file() and (read_text(folder / JOB) == ranks.job())
    )


@contextmanager
def saved_first(run: Run | Follower) -> Iterator[None]:
    """Saves the newest finished state before anything is closed, however training ends."""
    try:
        run.save()
        yield
    finally:
        with stopping.deferred():
            run.save()


@contextmanager
def how_it_ends(run: Run | Follower, budget: Budget) -> Iterator[None]:
    """Tells the user what is saved and how to continue, however training ends.

    It may end by its budget, by a signal, or because the system refuses to write.

    Raises:
        UserError: something cannot be written.
    """
    unit = budget.unit.replace("_", " ")
    try:
        yield
        if isinstance(run, Follower):
            return
        take_any_output()  # an environment may have closed stdout
        print(f"Trained for {run.env_steps:,} {unit}; saved in {run.save()}. Evaluate with:\n"
              f"  {typed(f'python evaluate.py {run.folder}')}")  # fmt: skip
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be gone
            if isinstance(run, Run):
                again = typed(f"python train.py --resume {run.folder}")
                print(f"\nStopped, saved at {run.env_steps:,} {unit}. Go on with:\n  {again}",
                      flush=True)  # fmt: skip
        raise SystemExit(stopping.EXIT_CODE) from None
    except BrokenPipeError:  # handled by the command line: `train.py | head`
        raise
    except OSError as error:
        raise UserError(f"cannot write: {error}; {what_is_saved(run)}") from None


def what_is_saved(run: Run | Follower) -> str:
    """Message part: the saved state of a run that cannot be written to, and how to resume it."""
    if not run.folder.is_dir():
        return f"{run.folder} is gone, and what was learned with it"
    whole = checkpoints(run.folder / "checkpoints")
    return (
        f"{f'saved is {whole[-1]}' if whole else 'nothing is saved yet'}. Make room or let it be "
        f"written to, then go on with: {typed('python train.py')} --resume {run.folder}"
    )


def check_can_skip(
    error: NotFiniteError | EnvironmentFailedError, run: Run | Follower, *, on_nan: str
) -> None:
    """Checks that training can continue without the failed iteration.

    Raises:
        UserError: it cannot; says what to do.
    """
    skip_nan = isinstance(error, NotFiniteError) and on_nan == "skip"
    if ranks.number() > 1:  # the others have no such failure, and wait
        last = f"; go on from the newest checkpoint with --resume {run.folder}"
        raise UserError(f"iteration {run.iteration + 1}: {error}{last}") from None
    if skip_nan or isinstance(error, TrialLostError):
        return
    advice = (
        "; lower the learning rate or look at the rewards, or go on without such iterations: "
        "--on-nan skip in a new run"
        if isinstance(error, NotFiniteError)
        else f"; once it is fixed, go on with --resume {run.folder}"
    )
    raise UserError(
        f"iteration {run.iteration + 1}: {error}{advice}. The last good state is in {run.save()}"
    ) from None


def hashes_of(
    distribution: TaskDistribution | FewShotDistribution, experiment: Experiment | FewShotExperiment
) -> ContentHashes:
    """Content hashes of tasks and code, by which later changes are detected."""
    return ContentHashes(
        train=distribution.train.content_hash,
        test=distribution.test.content_hash,
        module=getattr(distribution, "module_hash", None) or file_hash(experiment.env.kind),
        agent=file_hash(experiment.agent.kind),
    )
