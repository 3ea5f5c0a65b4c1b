"""A run: its folder, its metrics and its checkpoints.

<run>/config.yaml                 every value, including defaults
<run>/env.json                    versions, machine, git revision and command of each start
<run>/metrics.jsonl               one line per iteration
<run>/**/events.out.tfevents.*    the same for TensorBoard, see `metarl.training.tensorboard`
<run>/checkpoints/<env_steps>/    see `metarl.training.checkpoint`
<run>/replay/<env_steps>/         replay of the two newest checkpoints, of an agent that has one
<run>/eval/                       written by evaluate.py
<run>/.lock                       held while the run is being trained

Few-shot learners play no environment: their runs count `tasks` in place of `env_steps`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, FiniteFloat, ValidationError

from metarl.config import Config, write_yaml
from metarl.errors import NotFiniteError, UserError, note, printable
from metarl.learning import optim
from metarl.learning.replay import PREFIX
from metarl.protocols import Learner
from metarl.system import ranks
from metarl.system.files import check_is_file, set_aside, written_whole
from metarl.system.finite import check_weights
from metarl.tasks import ContentHashes
from metarl.training.checkpoint import (
    GROWING,
    META,
    Meta,
    Saved,
    check_fits,
    load_checkpoint,
    read_meta,
    save_checkpoint,
)
from metarl.training.folder import CHECKPOINTS, CONFIG, LOCK, METRICS, REPLAY, checkpoints
from metarl.training.provenance import append_start, check_same_content
from metarl.training.tensorboard import Board

LONGEST_LINE = 2**20
"""Largest size of a line of metrics (bytes); a longer line was not written by this module."""


class Run:
    """A run folder that is being written to.

    `iteration` and `env_steps` count finished work; `skipped` counts the iterations that taught
    nothing because something was not finite or an environment failed. The newest finished state is
    kept in memory, so that an interrupt in the middle of an iteration can still save it.

    Args:
        folder: folder of the run.
        agent: the agent that is trained and saved.
        unit: name under which `env_steps` is written; few-shot learning uses `tasks`.
        task_hashes: content hashes of the tasks and code; stored with each checkpoint.

    Raises:
        UserError: the run is being trained already, its newest checkpoint cannot be resumed, or it
            was trained on other tasks.
    """

    def __init__(
        self,
        folder: Path,
        agent: Learner,
        *,
        unit: Literal["env_steps", "tasks"] = "env_steps",
        task_hashes: ContentHashes | None = None,
    ) -> None:
        self.folder = folder
        self.agent = agent
        self.unit = unit
        self.task_hashes = task_hashes
        self.iteration = 0
        self.env_steps = 0
        self.skipped = 0
        self.metrics: dict[str, float] = {}
        _check_trainable(folder)
        self._lock = _locked(folder)
        try:
            self._load_newest()
            self._finished = self._snapshot()
            self._cut_metrics()
            append_start(folder)
        except BaseException:
            self._lock.release()
            raise
        self._metrics_file = (folder / METRICS).open("a", encoding="utf-8")
        self.board = Board(folder, first_step=self.env_steps + 1)

    @staticmethod
    def create(folder: Path, config: Config) -> None:
        """Makes the folder of a new run; the folder appears with its config, or not at all.

        Raises:
            UserError: the folder exists already and stays unchanged, or it cannot be made.
        """
        if folder.exists():
            raise UserError(
                f"{folder} exists already; go on with --resume {folder}, "
                "or choose another --seed, --name or --run-dir"
            )
        partial = folder.with_name(f".partial-{folder.name}-{os.getpid()}")
        try:
            partial.mkdir(parents=True)
            write_yaml(config, partial / CONFIG)
            partial.rename(folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"cannot make the run folder {folder}: {error}") from None

    def finish_iteration(self, metrics: dict[str, float], *, env_steps: int) -> None:
        """Counts and logs an iteration that played `env_steps` steps.

        Raises:
            NotFiniteError: a metric or a part of the agent is not finite. Nothing is counted, and
                the last good state is kept.
            OSError: the iteration cannot be logged.
        """
        check_finite_iteration(metrics, self.agent)
        self._count(env_steps, metrics)

    def skip_iteration(self, *, env_steps: int) -> None:
        """Counts an iteration that played `env_steps` steps but taught nothing.

        The agent returns to its last good state.
        """
        self.agent.load_state_dict(self._finished[0])
        self.skipped += 1
        self._count(env_steps, {"skipped": float(self.skipped)})

    def _count(self, env_steps: int, metrics: dict[str, float]) -> None:
        self.iteration += 1
        self.env_steps += env_steps
        self.metrics = metrics
        # The line comes first: if its iteration is never saved, resuming the run drops it.
        line = {"iteration": self.iteration, self.unit: self.env_steps, **metrics}
        self._metrics_file.write(json.dumps(line) + "\n")
        self._metrics_file.flush()
        self._finished = self._snapshot()
        self.board.show(metrics, env_steps=self.env_steps)

    def save(self) -> Path:
        """Writes a checkpoint of the newest finished iteration, even in the middle of the next one.

        Raises:
            OSError: the system refuses to write it, or the run's folder is gone.
        """
        tensors, meta = self._finished
        folder = self.folder / CHECKPOINTS / str(meta.trained_for)
        folder.parent.mkdir(exist_ok=True)
        replay = {name: t for name, t in tensors.items() if name.startswith(PREFIX)}
        if replay:  # first, so that no checkpoint is ever without its replay
            place = self.folder / REPLAY / folder.name
            place.parent.mkdir(exist_ok=True)
            save_checkpoint(place, replay, meta)
        save_checkpoint(
            folder, {name: t for name, t in tensors.items() if name not in replay}, meta
        )
        # The last but one stays too, should the newest checkpoint be damaged.
        for outdated in checkpoints(self.folder / REPLAY)[:-2]:
            shutil.rmtree(outdated, ignore_errors=True)
        return folder

    def close(self) -> None:
        """Closes the log and the event files, and releases the run's lock."""
        with suppress(OSError):  # a line that cannot be written was reported before
            self._metrics_file.close()
        self.board.close()
        self._lock.release()

    def _snapshot(self) -> Saved:
        tensors = {name: t.detach().clone() for name, t in self.agent.state_dict().items()}
        plays = self.unit == "env_steps"
        meta = Meta(
            iteration=self.iteration,
            env_steps=self.env_steps if plays else None,
            tasks=None if plays else self.env_steps,
            skipped=self.skipped,
            task_hashes=self.task_hashes,
            replay=any(name.startswith(PREFIX) for name in tensors) or None,
        )
        return Saved(tensors, meta)

    def _load_newest(self) -> None:
        saved = checkpoints(self.folder / CHECKPOINTS)
        if not saved:
            return
        meta = load_agent(self.agent, saved[-1], replay=self.folder / REPLAY / saved[-1].name)
        if (meta.tasks is None) != (self.unit == "env_steps"):
            raise UserError(f"checkpoint {saved[-1]} does not count {self.unit}; its config is not "
                            "that of this run")  # fmt: skip
        check_same_content(meta.task_hashes, self.task_hashes, folder=self.folder)
        if meta.format == 1:
            note(f"{saved[-1]} predates checksums: whether it is damaged "
                 "cannot be told")  # fmt: skip
        self.iteration, self.env_steps = meta.iteration, meta.trained_for
        self.skipped = meta.skipped

    def _cut_metrics(self) -> None:
        """Drops lines of iterations that will be played again, and a last line that was cut short.

        A log with damaged lines is kept beside the new one.
        """
        path = self.folder / METRICS
        kept = damaged = 0
        try:
            check_is_file(path)
            with path.open("rb") as log, written_whole(path) as partial:
                with partial.open("wb") as whole:
                    kept, damaged = _copy_lines(log, whole, last=self.iteration)
                if damaged:
                    aside = set_aside(path)
                    note(f"{damaged} damaged lines of {path} are dropped; the old file is kept as "
                         f"{aside.name}")  # fmt: skip
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UserError(f"cannot go on with {path}: {printable(error)}") from None
        if kept < self.iteration:
            note(f"{path} lacks {self.iteration - kept} of {self.iteration} iterations")


class Follower:
    """The run on a rank that is not the first: it learns and counts as the first one does, and
    writes nothing.

    Args:
        folder: folder of the run, for messages.
        agent: the agent that is trained.
    """

    def __init__(self, folder: Path, agent: Learner) -> None:
        self.folder, self.agent = folder, agent
        self.iteration = self.env_steps = self.skipped = 0
        self.metrics: dict[str, float] = {}

    def finish_iteration(self, metrics: dict[str, float], *, env_steps: int) -> None:
        """Counts an iteration.

        Raises:
            NotFiniteError: a metric or a part of the agent is not finite.
        """
        check_finite_iteration(metrics, self.agent)
        self.iteration += 1
        self.env_steps += env_steps
        self.metrics = metrics

    def save(self) -> Path:
        """The folder that the first rank saves in."""
        return self.folder / CHECKPOINTS

    def close(self) -> None:
        """Does nothing."""


def begin_together(run: Run | Follower) -> None:
    """Gives all ranks the first one's progress and everything that its agent has learned."""
    first = (run.iteration, run.env_steps, run.skipped, run.agent.state_dict())
    if ranks.number() > 1:
        run.iteration, run.env_steps, run.skipped, tensors = ranks.from_first(first)
        if isinstance(run, Follower):
            run.agent.load_state_dict({k: t.to(run.agent.device) for k, t in tensors.items()})


def check_finite_iteration(metrics: dict[str, float], agent: Learner) -> None:
    """Checks what an iteration measured and taught.

    Raises:
        NotFiniteError: a metric or a part of the agent is not finite.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NotFiniteError(name)
    check_weights(agent)
    check_alike(agent)


def check_alike(agent: Learner) -> None:
    """Checks that all ranks have learned the same, up to rounding on unlike processors.

    Raises:
        UserError: they have not.
    """
    if ranks.number() == 1:
        return
    tensors = {k: t for k, t in agent.state_dict().items() if not k.startswith(PREFIX)}
    sums = torch.stack([t.double().abs().sum().cpu() for t in tensors.values()])
    means = ranks.summed(sums) / ranks.number()
    for name, own, mean in zip(tensors, sums, means, strict=True):
        if abs(own - mean) > 1e-3 * (1 + abs(mean)):
            raise UserError(
                f"{name} differs between ranks: the agent learns from its own rank alone. Sum over "
                "ranks what it learns (metarl.system.ranks), or leave out learns_on_ranks"
            )


def _copy_lines(log: BinaryIO, whole: BinaryIO, *, last: int) -> tuple[int, int]:
    """Copies the lines of iterations up to `last`; returns the numbers of copied and of damaged
    lines."""
    seen: set[int] = set()
    damaged = 0
    while line := log.readline(LONGEST_LINE):
        if not line.endswith(b"\n"):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = log.readline(LONGEST_LINE)
            # A line that was being written when the process died does not count as damage.
            damaged += len(line) == LONGEST_LINE
            continue
        try:
            iteration = _Line.model_validate_json(line, strict=True).iteration
        except ValidationError:
            iteration = 0
        if iteration < 1 or iteration in seen:
            damaged += 1
        elif iteration <= last:
            seen.add(iteration)
            whole.write(line)
    return len(seen), damaged


class _Line(BaseModel, extra="allow"):
    """A line of metrics: the iteration, and any other finite numbers."""

    __pydantic_extra__: dict[str, FiniteFloat]  # pyright: ignore
    iteration: int


def _check_trainable(folder: Path) -> None:
    """Checks that a run is not a published one, before anything is written to it."""
    if any(map(is_published, checkpoints(folder / CHECKPOINTS))):
        raise UserError(
            f"{folder} was published without what training needs; evaluate it, or train its "
            "config anew"
        )


def _locked(folder: Path) -> FileLock:
    """The lock of a run's folder; the system releases it when the process ends, in any way."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is being trained already; wait for that to end, or stop it"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise UserError(f"cannot lock {folder}: {error}") from None
    return lock


def load_agent(agent: Learner, folder: Path, *, replay: Path | None = None) -> Meta:
    """Loads a checkpoint into an agent; returns the checkpoint's progress.

    Args:
        agent: the agent to change.
        folder: the checkpoint.
        replay: folder of the checkpoint's replay, if the agent is to learn on and needs one.

    Raises:
        UserError: the checkpoint is damaged or does not fit the agent, or its replay is gone.
    """
    tensors, meta = load_checkpoint(folder)
    if meta.replay and replay is not None:
        if not os.path.lexists(replay):
            raise UserError(
                f"{replay} is gone, without which training cannot go on from {folder}; evaluate "
                "it, or train its config anew"
            )
        tensors |= load_checkpoint(replay).tensors
    if meta.published:
        tensors |= optim.optimizer_tensors(agent.state_dict())
    check_fits(tensors, agent.state_dict(), source=folder)
    try:
        agent.load_state_dict({name: tensor.to(agent.device) for name, tensor in tensors.items()})
    except UserError as error:
        raise UserError(f"checkpoint {folder} does not fit: {error}") from None
    return meta


def begin_with(agent: Learner, source: Path) -> None:
    """Gives an agent what another has learned: all but its optimizer's moments and its replay.

    Args:
        agent: a new agent.
        source: folder of a run, whose newest checkpoint is taken, or of a checkpoint.

    Raises:
        UserError: there is no checkpoint, it is damaged, or it does not fit the agent.
    """
    folder = checkpoint_of(source)
    tensors, own = load_checkpoint(folder).tensors, agent.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(GROWING)}
    tensors |= {name: tensor for name, tensor in own.items() if name.startswith(GROWING)}
    check_fits(tensors, own, source=folder)
    agent.load_state_dict({name: tensor.to(agent.device) for name, tensor in tensors.items()})


def checkpoint_of(source: Path) -> Path:
    """The newest checkpoint of a run, or the checkpoint itself.

    Raises:
        UserError: it is neither.
    """
    of_run = checkpoints(source / CHECKPOINTS)
    folder = of_run[-1] if of_run else source
    if not os.path.lexists(folder / META):
        raise UserError(f"start_from: {source} is no run with a checkpoint, and no checkpoint")
    return folder


def is_published(checkpoint: Path) -> bool:
    """True if `publish_checkpoint` wrote the checkpoint; False if it cannot be read."""
    try:
        return read_meta(checkpoint).published
    except UserError:
        return False  # loading it reports what is wrong


def publish_checkpoint(source: Path, target: Path) -> None:
    """Copies a checkpoint without the optimizer's state, two thirds of an agent trained by Adam."""
    tensors, meta = load_checkpoint(source)
    kept = {
        name: tensors[name] for name in tensors.keys() - optim.optimizer_tensors(tensors).keys()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(target, kept, meta.model_copy(update={"published": True}))


def choose_device(name: str) -> torch.device:
    """The device of this name; `auto` chooses CUDA if there is a CUDA device.

    Raises:
        UserError: CUDA is requested, but there is no CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device here; use --device cpu or --device auto")
    return torch.device(name)
