"""A run while it is trained: its budget, failures, signals, progress and saving.

A training loop needs to show none of that:

    with training_session(…) as session:
        while session.goes_on():
            with session.iteration() as step:
                …
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
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
from metarl.system import stopping
from metarl.system.command_line import take_any_output
from metarl.tasks import ContentHashes
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import Experiment, FewShotExperiment, codes_of, file_hash
from metarl.training.iteration import Iteration
from metarl.training.progress import Progress
from metarl.training.run import Run
from metarl.training.trust import trust


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train."""

    unit: Literal["env_steps", "tasks"]
    total: int
    """Training ends with the first iteration that reaches it."""
    per_iteration: int


class Session:
    """A run that is being trained; see `training_session`."""

    def __init__(
        self,
        run: Run,
        progress: Progress,
        experiment: Experiment | FewShotExperiment,
        budget: Budget,
    ) -> None:
        self.run = run
        self._progress = progress
        self._experiment = experiment
        self._budget = budget

    def goes_on(self) -> bool:
        """Whether the budget allows another iteration."""
        return self.run.env_steps < self._budget.total

    @contextmanager
    def iteration(self) -> Iterator[Iteration]:
        """One iteration: it is logged and counted when its body ends, and saved when it is due.

        What fails in the body ends the training, or costs the iteration where that is allowed; the
        agent is then as it was before.

        Raises:
            UserError: something was not finite, or an environment failed, and training stops.
        """
        run, step = self.run, self._budget.per_iteration
        iteration = Iteration(self._experiment.seed, run.iteration, run.agent.device)
        started = time.perf_counter()
        try:
            with stopping.interruptible():
                yield iteration
            if self._budget.unit == "env_steps":
                speed = step / (time.perf_counter() - started)
                iteration.log({"env_steps_per_s": speed}, group="timing")
            run.finish_iteration(iteration.metrics, env_steps=step)
        except (NotFiniteError, EnvironmentFailedError) as error:
            check_can_skip(error, run, on_nan=self._experiment.on_nan)
            run.skip_iteration(env_steps=step)
            self._progress.note(f"iteration {run.iteration} skipped: {error}")
        else:
            self._progress.show(run.metrics, iteration=run.iteration, env_steps=run.env_steps)
        if run.iteration % self._experiment.train.checkpoint_every == 0:
            run.save()

    @contextmanager
    def or_not_shown(self) -> Iterator[None]:
        """A part that shows something; it may fail, as no picture is worth a training."""
        try:
            with stopping.interruptible():
                yield
        except Exception as error:
            self._progress.note(
                f"nothing shown of iteration {self.run.iteration}: {printable(error)}"
            )

    def compare_by(self, names: Sequence[str]) -> None:
        """Fills TensorBoard's table of hyperparameters with the run's last value of each metric."""
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
    """Begins a run, or goes on from its newest checkpoint; saves it however the body ends.

    Args:
        experiment: what is trained.
        folder: folder of the run.
        learner: starts as the checkpoint says.
        distribution: what the learner learns from.
        budget: how long to train.
        shown: metrics that the progress display shows, and how they are formatted.
        interface: sizes and bounds between an agent and its environments.
        new: whether the run begins here.

    Raises:
        UserError: the run cannot be gone on from, or cannot be written.
    """
    if new:
        for code in codes_of(experiment):  # first: whoever is killed in between need not be asked
            trust(code)
        Run.create(folder, experiment)
    try:
        if interface is not None:
            interface.check(folder)
        run = Run(
            folder,
            learner,
            unit=budget.unit,
            task_hashes=hashes_of(distribution, experiment.agent.kind),
        )
        if interface is not None:  # only now: published runs stay as they are
            interface.keep(folder)
    except OSError as error:
        raise UserError(f"cannot write the run {folder}: {error}") from None
    progress = Progress(
        f"{experiment.name}: {distribution.name}",
        total_env_steps=budget.total,
        done_env_steps=run.env_steps,
        unit=budget.unit.replace("_", " "),
        shown=shown,
    )
    with closing(run), how_it_ends(run), progress, saved_first(run):
        yield Session(run, progress, experiment, budget)


@contextmanager
def saved_first(run: Run) -> Iterator[None]:
    """Saves the newest finished state before anything is closed, whatever ends the training."""
    try:
        run.save()
        yield
    finally:
        with stopping.deferred():
            run.save()


@contextmanager
def how_it_ends(run: Run) -> Iterator[None]:
    """Says what is saved and how to go on, whatever ends the training: its budget, a signal, or a
    system that lets nothing be written.

    Raises:
        UserError: something cannot be written.
    """
    unit = run.unit.replace("_", " ")
    try:
        yield
        take_any_output()  # An environment may have closed it.
        print(f"Trained for {run.env_steps:,} {unit}; saved in {run.save()}. Evaluate with:\n"
              f"  python evaluate.py {run.folder}")  # fmt: skip
    except KeyboardInterrupt:
        with suppress(OSError):  # The terminal may be what has gone.
            print(f"\nStopped, saved at {run.env_steps:,} {unit}. Go on with:\n"
                  f"  python train.py --resume {run.folder}", flush=True)  # fmt: skip
        raise SystemExit(stopping.EXIT_CODE) from None
    except BrokenPipeError:  # for whoever runs the command: `train.py | head`
        raise
    except OSError as error:
        raise UserError(f"cannot write: {error}; {what_is_saved(run)}") from None


def what_is_saved(run: Run) -> str:
    """What is left of a run that cannot be written to, and how to go on with it."""
    if not run.folder.is_dir():
        return f"{run.folder} is gone, and what was learned with it"
    whole = checkpoints(run.folder / "checkpoints")
    return (
        f"{f'saved is {whole[-1]}' if whole else 'nothing is saved yet'}. Make room or let it be "
        f"written to, then go on with: python train.py --resume {run.folder}"
    )


def check_can_skip(
    error: NotFiniteError | EnvironmentFailedError, run: Run, *, on_nan: str
) -> None:
    """Checks that training can go on without the iteration that failed.

    Raises:
        UserError: it cannot; says what to do.
    """
    skip_nan = isinstance(error, NotFiniteError) and on_nan == "skip"
    if skip_nan or isinstance(error, TrialLostError):
        return
    advice = (
        "; lower the learning rate or look at the rewards, or go on without such iterations: "
        "--on-nan skip in a new run"
        if isinstance(error, NotFiniteError)
        else f"; once it is mended go on with --resume {run.folder}"
    )
    raise UserError(
        f"iteration {run.iteration + 1}: {error}{advice}. The last good state is in {run.save()}"
    ) from None


def hashes_of(distribution: TaskDistribution | FewShotDistribution, agent: str) -> ContentHashes:
    """Content hashes of what is trained with: they tell whether it has changed.

    Args:
        agent: kind of the algorithm.
    """
    return ContentHashes(
        train=distribution.train.content_hash,
        test=distribution.test.content_hash,
        module=getattr(distribution, "module_hash", None),  # where they come from a user's module
        agent=file_hash(agent),
    )
