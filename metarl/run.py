"""A run: its folder, its metrics and its checkpoints.

<run>/config.yaml                 every value, defaults too
<run>/env.json                    versions, machine, git revision, command of each start
<run>/metrics.jsonl               a line per iteration
<run>/**/events.out.tfevents.*    the same for TensorBoard, see `metarl.board`
<run>/checkpoints/<env_steps>/    see `metarl.checkpoint`
<run>/eval/                       written by evaluate.py
<run>/.lock                       held while the run is trained

Few-shot learners play no environment: there `tasks` are counted in place of `env_steps`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from metarl import optim
from metarl.board import Board
from metarl.checkpoint import META, check_fits, checkpoints, load_checkpoint, save_checkpoint
from metarl.config import Config, write_yaml
from metarl.errors import NotFiniteError, UserError
from metarl.files import written_whole
from metarl.protocols import Learner

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
PUBLISHED = "published"
"""A fact of checkpoints that were cut down to what the agent acts and adapts with."""
PACKAGES = ("torch", "numpy", "gymnasium", "metaworld", "mujoco")


class Run:
    """A run folder that is being written to.

    `iteration` and `env_steps` count what is finished, `skipped` the iterations that taught nothing
    because something was not finite or an environment failed. The newest finished state is kept in
    memory, so an interrupt in the middle of an iteration can still save it.

    Args:
        folder: of the run.
        agent: what is trained and saved.
        unit: the name under which `env_steps` are written: `tasks` of few-shot learning.

    Raises:
        UserError: it is being trained already, or its newest checkpoint cannot be gone on from.
    """

    def __init__(self, folder: Path, agent: Learner, *, unit: str = "env_steps") -> None:
        self.folder = folder
        self.agent = agent
        self.unit = unit
        self.iteration = 0
        self.env_steps = 0
        self.skipped = 0
        self.metrics: dict[str, float] = {}
        _check_trainable(folder)
        self._lock = _locked(folder)
        self._load_newest()
        self._finished = self._snapshot()
        self._cut_metrics()
        _append_start(folder)
        self._metrics_file = (folder / METRICS).open("a", encoding="utf-8")
        self.board = Board(folder, first_step=self.env_steps + 1)

    @staticmethod
    def create(folder: Path, config: Config) -> None:
        """Makes the folder of a new run; it appears with its config in it, or not at all.

        Raises:
            UserError: it is there already; nothing in it is touched.
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
            NotFiniteError: a metric is not finite. Nothing is counted, and the last good state
                stays in place.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NotFiniteError(name)
        self._count(env_steps, metrics)

    def skip_iteration(self, *, env_steps: int) -> None:
        """Counts an iteration that played `env_steps` steps but taught nothing: the agent goes back
        to its last good state."""
        self.agent.load_state_dict(self._finished[0])
        self.skipped += 1
        self._count(env_steps, {"skipped": float(self.skipped)})

    def _count(self, env_steps: int, metrics: dict[str, float]) -> None:
        self.iteration += 1
        self.env_steps += env_steps
        self.metrics = metrics
        # The line first: one of an iteration that was not saved is dropped when the run goes on.
        line = {"iteration": self.iteration, self.unit: self.env_steps, **metrics}
        self._metrics_file.write(json.dumps(line) + "\n")
        self._metrics_file.flush()
        self._finished = self._snapshot()
        self.board.show(metrics, env_steps=self.env_steps)

    def save(self) -> Path:
        """Writes a checkpoint of the newest finished iteration, wherever the agent is by now."""
        tensors, meta = self._finished
        folder = self.folder / "checkpoints" / str(meta[self.unit])
        save_checkpoint(folder, tensors, meta)
        return folder

    def close(self) -> None:
        """Flushes what was logged; others may train the run."""
        self._metrics_file.close()
        self.board.close()
        self._lock.release()

    def _snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {name: t.detach().clone() for name, t in self.agent.state_dict().items()}
        counters = {
            "iteration": self.iteration, self.unit: self.env_steps, "skipped": self.skipped
        }  # fmt: skip
        return tensors, counters

    def _load_newest(self) -> None:
        whole = checkpoints(self.folder / "checkpoints")
        if whole:
            meta = load_agent(self.agent, whole[-1])
            self.iteration, self.env_steps = meta["iteration"], meta[self.unit]
            self.skipped = meta.get("skipped", 0)

    def _cut_metrics(self) -> None:
        """Drops lines of iterations that are played again, and a last line that was cut short."""
        path = self.folder / METRICS
        if not path.exists():
            return
        kept = [
            line
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["iteration"] <= self.iteration
        ]
        with written_whole(path) as partial:
            partial.write_text("".join(kept), encoding="utf-8")


def _check_trainable(folder: Path) -> None:
    """Checks that a run was not published, before anything is written to it."""
    if any(map(is_published, checkpoints(folder / "checkpoints"))):
        raise UserError(
            f"{folder} was published without what training needs; evaluate it, or train its "
            "config anew"
        )


def _locked(folder: Path) -> FileLock:
    """The lock of a run's folder; the system frees it with the process, however that ends."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is being trained already; wait for that to end, or stop it"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise UserError(f"cannot lock {folder}: {error}") from None
    return lock


def load_agent(agent: Learner, folder: Path) -> dict[str, Any]:
    """Loads a checkpoint into an agent; returns its counters.

    Raises:
        UserError: the checkpoint is damaged or does not fit the agent.
    """
    tensors, meta = load_checkpoint(folder)
    if meta.get(PUBLISHED):
        tensors |= optim.optimizer_tensors(agent.state_dict())
    check_fits(tensors, agent.state_dict(), source=folder)
    agent.load_state_dict({name: tensor.to(agent.device) for name, tensor in tensors.items()})
    return meta


def is_published(checkpoint: Path) -> bool:
    """Whether `publish_checkpoint` wrote it; not where there is none."""
    try:
        return PUBLISHED in json.loads((checkpoint / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever loads it tells what is wrong


def publish_checkpoint(source: Path, target: Path) -> None:
    """Copies a checkpoint but for the optimizer's part: two thirds of an agent that Adam trains."""
    tensors, meta = load_checkpoint(source)
    kept = {
        name: tensors[name] for name in tensors.keys() - optim.optimizer_tensors(tensors).keys()
    }
    save_checkpoint(target, kept, {**meta, PUBLISHED: True})


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device here; use --device cpu or --device auto")
    return torch.device(name)


def environment() -> dict[str, Any]:
    """Versions, machine and command: what a result must be read with."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "git": _git_revision(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_name() -> str:
    """The processor's name, as well as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip()


def _append_start(folder: Path) -> None:
    """Notes this start of the run in env.json; a resumed run has several."""
    path = folder / "env.json"
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        starts = []
    with written_whole(path) as partial:
        partial.write_text(json.dumps([*starts, environment()], indent=1), encoding="utf-8")
