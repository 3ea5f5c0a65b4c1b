"""Searches by Optuna: one study for each combination of the values that are set.

A trial is asked for, run and told here, in the storage that all processes of the sweep share. What
a trial tries follows from the trials before it and from its number, so a search that was stopped
goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from metarl.errors import UserError, printable
from metarl.sweep.jobs import claimed
from metarl.sweep.plan import LOCKS, Plan, Trial
from metarl.sweep.settings import Choice, Range
from metarl.system.files import read_text
from metarl.system.seeding import derive_seed

if TYPE_CHECKING:
    import optuna

SEED = 1
"""Seed of the sampler: the values that a search tries do not depend on the seeds of its runs."""
FIRST_PRUNED = 5
"""Trials that are finished before one is pruned."""
WARM_UP = 3
"""Parts of a trial before it is pruned: early on, curves say little of how they end."""
OWNER = "sweep"
"""Attribute of a trial: the id of the sweep's folder that has its runs."""
PATIENCE = 60.0
"""Seconds to wait while another process asks for a trial."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trial of a search that this process runs."""

    study: optuna.Study
    told: optuna.Trial
    number: int
    values: dict[str, Any]
    reported: set[int]
    """Steps that were reported before the trial was interrupted."""

    def is_worse(self, step: int, score: float) -> bool:
        """Reports what is known of a trial after a step; True if it should end early."""
        if step not in self.reported:
            self.reported.add(step)
            self.told.report(score, step)
        return bool(self.told.should_prune())


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the storage knows of a trial."""

    number: int
    values: dict[str, Any]
    state: str
    """finished, pruned, failed or unfinished."""
    value: float | None


class Search:
    """The studies of a sweep.

    Args:
        plan: the sweep.
        minimize: whether lower is better.

    Raises:
        UserError: Optuna is not installed, or the storage cannot be used.
    """

    def __init__(self, plan: Plan, *, minimize: bool) -> None:
        check_installed()
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._plan = plan
        self._seen: set[str] = set()
        with told_in_a_line(plan), self._alone():
            storage = storage_of(plan)
            self._studies = [
                (point, self._study(storage, point, minimize=minimize)) for point in plan.grid
            ]

    def _study(self, storage: Any, point: dict[str, Any], *, minimize: bool) -> optuna.Study:
        import optuna

        plan = self._plan
        content = plan.settings.model_dump(mode="json", exclude={"id", "trials", "storage"})
        facts = {"settings": content, "base": text_hash(plan.base)}
        # Folders of one name share a study; a folder with a storage of its own may be renamed.
        sweep = plan.folder.resolve().name if plan.settings.storage else plan.settings.name
        name = f"{sweep}: {plan.point_name(point)}"
        study = optuna.create_study(
            study_name=name, storage=storage, load_if_exists=True,
            direction="minimize" if minimize else "maximize",
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=FIRST_PRUNED, n_warmup_steps=WARM_UP
            ) if plan.settings.prune else optuna.pruners.NopPruner(),
        )  # fmt: skip
        if not study.user_attrs:
            study.set_user_attr("sweep", facts)
        elif study.user_attrs.get("sweep") != facts:
            raise UserError(
                f"the storage has a study {name!r} of another sweep; name another --folder"
            )
        return study

    @contextmanager
    def next(self) -> Iterator[tuple[Asked, Trial | UserError] | None]:
        """The next trial to run, held for this process: one that was interrupted, or a new one;
        None if all are run. With it comes what it runs, or why its values are not allowed."""
        with ExitStack() as held:
            with told_in_a_line(self._plan), self._alone():
                asked = self._interrupted(held) or self._new(held)
            if asked is None:
                yield None
                return
            try:
                trial: Trial | UserError = self._plan.trial(asked.values, number=asked.number)
            except UserError as error:
                trial = error
            yield asked, trial

    def tell(self, asked: Asked, *, value: float | None = None, state: str) -> None:
        """Stores the end of a trial: finished with its value, pruned, or failed."""
        from optuna.trial import TrialState

        states = {
            "finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL
        }  # fmt: skip
        with told_in_a_line(self._plan):
            asked.study.tell(asked.told, value, state=states[state])

    def known(self) -> list[Known]:
        """All trials of all studies, in the order in which they were asked for."""
        from optuna.trial import TrialState

        states = {
            TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"
        }  # fmt: skip
        with told_in_a_line(self._plan):
            return [
                Known(
                    number=each.number,
                    values={**point, **each.params},
                    state=states.get(each.state, "unfinished"),
                    value=each.value if each.state is TrialState.COMPLETE else None,
                )
                for point, study in self._studies
                for each in study.get_trials(deepcopy=False)
                if each.params.keys() == self._plan.ranges.keys()
            ]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Context that one process at a time is in, of those that share the folder."""
        folder = self._plan.folder / LOCKS
        try:
            folder.mkdir(exist_ok=True)
            with FileLock(folder / "search").acquire(timeout=PATIENCE):
                yield
        except Timeout:
            raise UserError(
                f"{folder / 'search'} is held by another process for too long"
            ) from None

    def _interrupted(self, held: ExitStack) -> Asked | None:
        """A trial of this folder whose process has ended before it."""
        import optuna
        from optuna.trial import TrialState

        for point, study in self._studies:
            for each in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                mine = each.user_attrs.get(OWNER) == self._plan.settings.id
                if mine and self._is_free(point, each.number, held):
                    study.sampler = sampler(each.number)
                    # Optuna has no other way back to a trial; its values and reports are kept.
                    trial = optuna.Trial(study, each._trial_id)
                    return self._asked(study, point, trial, set(each.intermediate_values))
        return None

    def _new(self, held: ExitStack) -> Asked | None:
        """A new trial, of the study that has the fewest."""
        counts = [len(study.get_trials(deepcopy=False)) for _, study in self._studies]
        number = min(counts)
        if number >= (self._plan.settings.trials or 0):
            return None
        point, study = self._studies[counts.index(number)]
        study.sampler = sampler(number)
        trial = study.ask()
        trial.set_user_attr(OWNER, self._plan.settings.id)
        self._is_free(point, trial.number, held)
        return self._asked(study, point, trial, set())

    def _is_free(self, point: Mapping[str, Any], number: int, held: ExitStack) -> bool:
        """Holds the lock of a trial, if no process does and this one has not run it before."""
        name = f"{self._plan.point_name(point)}-{number}"
        if name in self._seen or not held.enter_context(claimed(self._plan.folder / LOCKS / name)):
            return False
        self._seen.add(name)
        return True

    def _asked(
        self, study: optuna.Study, point: dict[str, Any], trial: optuna.Trial, reported: set[int]
    ) -> Asked:
        values = {key: suggested(trial, key, each) for key, each in self._plan.ranges.items()}
        return Asked(
            study=study,
            told=trial,
            number=trial.number,
            values={**point, **values},
            reported=reported,
        )


def check_installed() -> None:
    """Checks that Optuna is installed.

    Raises:
        UserError: it is not; says how to install it.
    """
    if find_spec("optuna") is None:
        raise UserError("--search needs Optuna; install it with: pip install 'optuna>=4'")


def sampler(number: int) -> optuna.samplers.BaseSampler:
    """The sampler of a trial: its random stream follows from the trial's number alone."""
    import optuna

    return optuna.samplers.TPESampler(seed=derive_seed(SEED, "trial", number) % 2**32)


def suggested(trial: optuna.Trial, key: str, of: Range) -> Any:
    """The value of a key in a trial."""
    if isinstance(of, Choice):
        return trial.suggest_categorical(key, of.values)
    if of.scale == "int":
        return trial.suggest_int(key, int(of.low), int(of.high))
    return trial.suggest_float(key, of.low, of.high, log=of.scale == "log")


def storage_of(plan: Plan) -> Any:
    """Optuna's storage: the one that was named, or a file in the folder of the sweep.

    Raises:
        UserError: it cannot be used.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    named = plan.settings.storage
    with told_in_a_line(plan):
        if named is not None and named.startswith("journal:"):
            file = JournalFileBackend(named.removeprefix("journal:"))
            return optuna.storages.JournalStorage(file)
        url = named or f"sqlite:///{(plan.folder / 'optuna.db').absolute()}"
        # Processes that share a file wait for each other.
        options = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else {}
        return optuna.storages.RDBStorage(url, engine_kwargs=options)


@contextmanager
def told_in_a_line(plan: Plan) -> Iterator[None]:
    """Turns failures of the storage into one line.

    Raises:
        UserError: the storage failed; says which.
    """
    try:
        yield
    except Exception as error:
        ours = type(error).__module__.startswith(("optuna", "sqlalchemy"))
        if not ours and not isinstance(error, ImportError | OSError):
            raise
        where = plan.settings.storage or plan.folder / "optuna.db"
        raise UserError(f"cannot use the storage {where}: {printable(error)}") from error


def text_hash(path: Path) -> str:
    """SHA-256 of a text file."""
    return hashlib.sha256(read_text(path).encode()).hexdigest()
