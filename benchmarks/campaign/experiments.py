"""Tiny experiments that are attacked, and their results when undisturbed."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from benchmarks.campaign.child import Trap
from benchmarks.campaign.commands import Command
from benchmarks.campaign.verdict import Ended, Verdict

RUN = "run"
"""Folder of every run, below the folder of its attack."""
CONFIG = "tiny.yaml"
MODULE = "tasks.py"
USER_MODULE = '''
"""Numbers to be found; the observation is where the agent is."""
import gymnasium
import numpy as np
from gymnasium import spaces

horizon = 4
train_tasks = [[k / 40] for k in range(40)]
test_tasks = [[k / 10 + 0.013] for k in range(5)]


class Find(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def set_task(self, task):
        self.goal = task[0]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = np.zeros(1, np.float32)
        return self.at, {}

    def step(self, action):
        self.at = self.at + np.float32(0.1) * np.asarray(action, np.float32)
        self.at = self.at + np.float32(self.np_random.normal(0, 0.01))
        off = abs(float(self.at[0]) - self.goal)
        return self.at, -off, False, False, {"success": off < 0.1}


make_env = Find
'''
RL2 = "{kind: rl2, hidden_size: 8, encoder_sizes: [], epochs: 2, num_minibatches: 2}"
PLAYED = "train: {env_steps: %d, meta_batch_size: 4, episodes_per_trial: %d, checkpoint_every: 1}"
LEARNED = "train: {tasks: 40, meta_batch_size: 2, updates_per_iteration: 4, checkpoint_every: 1}"
EXPERIMENTS = {
    "rl2_bandit": f"""
env: {{kind: bandit, num_train_tasks: 20, num_test_tasks: 5}}
agent: {RL2}
{PLAYED % (120, 6)}
""",
    "rl2_point": f"""
env: {{kind: point, horizon: 5, num_train_tasks: 50, num_test_tasks: 8}}
agent: {RL2}
{PLAYED % (200, 2)}
""",
    "maml_trpo_point": f"""
env: {{kind: point, horizon: 5, num_train_tasks: 50, num_test_tasks: 8}}
agent: {{kind: maml_trpo, hidden_sizes: [8], episodes_per_step: 2}}
{PLAYED % (400, 4)}
""",
    "maml_sinusoid": f"""
env: {{kind: sinusoid, num_train_tasks: 50, num_test_tasks: 8}}
agent: {{kind: maml, steps: 1, encoder: {{kind: mlp, hidden_sizes: [8]}}}}
{LEARNED}
""",
    "user_module": f"""
env: {{kind: gymnasium, module: {MODULE}, num_workers: 2}}
agent: {RL2}
{PLAYED % (128, 2)}
""",
}
KILLED = tuple(EXPERIMENTS)
"""Experiments that are killed and stopped at any moment."""
NO_WORKERS = tuple(name for name in EXPERIMENTS if name != "user_module")
RECORDED = "cheetah"
"""Experiment whose physics can be recorded."""
EXPERIMENTS |= {
    RECORDED: f"""
env: {{kind: locomotion, variant: HalfCheetah-vel-maml, horizon: 5, num_test_tasks: 4}}
agent: {RL2}
{PLAYED % (40, 2)}
"""
}
EVALUATING = {name: ["--episodes", "2"] for name in EXPERIMENTS} | {
    "maml_trpo_point": ["--episodes", "4"],
    "maml_sinusoid": ["--num-tasks", "4", "--shots", "[1]"],
    "user_module": ["--episodes", "2", "--trust"],  # a copied run's module is not trusted yet
}
"""Options that make an evaluation of each experiment take about a second."""


@dataclass(frozen=True)
class Trained:
    """Results of a run: the newest checkpoint's tensors, and the log without times."""

    steps: int
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    metrics: list[dict[str, Any]]

    @staticmethod
    def read(run: Path, *, at: int | None = None) -> Trained:
        """Reads the results from a run's folder.

        Args:
            run: the folder.
            at: reads only the checkpoint after this number of steps; by default the newest, and
                all checkpoints are checked.

        Raises:
            ValueError: there is no checkpoint, or one that should be complete is not.
        """
        names = checkpoint_names(run)
        if at is not None:
            names = [name for name in names if name == str(at)]
        if not names:
            raise ValueError("no checkpoint is there")
        tensors: dict[str, Any] = {}
        for name in names:
            folder = run / "checkpoints" / name
            try:
                meta = json.loads((folder / "meta.json").read_bytes())
                tensors = load_file(folder / "tensors.safetensors")
            except Exception as error:
                raise ValueError(f"checkpoint {name} is not whole: {error}") from None
            unit = "tasks" if "tasks" in meta else "env_steps"
            if meta[unit] != int(name):
                raise ValueError(f"checkpoint {name} says {meta[unit]}")
        return Trained(
            steps=int(names[-1]),
            tensors={k: (str(t.dtype), t.shape, t.tobytes()) for k, t in sorted(tensors.items())},
            metrics=metrics(run) if at is None else [],
        )

    def difference(self, other: Trained) -> str:
        """Difference to other results in words; "" if every bit is equal."""
        if difference := self.tensors_differ(other):
            return difference
        if self.metrics != other.metrics:
            lines = [line["iteration"] for line in other.metrics]
            return f"metrics differ; iterations {lines} of {len(self.metrics)}"
        return ""

    def tensors_differ(self, other: Trained) -> str:
        """Difference to other tensors in words; "" if every bit is equal."""
        if self.steps != other.steps:
            return f"{other.steps} steps in place of {self.steps}"
        for name in sorted(self.tensors.keys() | other.tensors.keys()):
            if self.tensors.get(name) != other.tensors.get(name):
                return f"tensor {name} differs"
        return ""


def checkpoint_names(run: Path) -> list[str]:
    """Names of checkpoints, oldest first."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((n for n in names if re.fullmatch("[0-9]+", n)), key=int)


def metrics(run: Path) -> list[dict[str, Any]]:
    """Logged lines without measured times."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("timing/")} for line in lines]


@dataclass(frozen=True)
class Reference:
    """An experiment trained undisturbed."""

    folder: Path
    seconds: float
    trained: Trained
    operations: list[str]
    """Every file operation in the run's folder, in order."""


@dataclass
class Place:
    """Workplace of the attacks of one process."""

    base: Path
    project: Path
    patience: float
    """Time limit of a command that usually takes a second (s)."""
    folder: Path = Path()
    """Folder of this attack; new and empty."""
    _references: dict[str, Reference] = field(default_factory=dict)

    def command(self, *arguments: str, patience: float = 1.0, **options: Any) -> Command:
        """A command in the folder of this attack.

        Args:
            arguments: arguments, beginning with the program.
            patience: multiple of the usual time limit.
            options: other options of `Command`.
        """
        options = {"cwd": self.folder, "project": self.project, **options}
        return Command(arguments, patience=self.patience * patience, **options)

    def run(self, *arguments: str, **options: Any) -> Ended:
        """Runs a command in the folder of this attack to its end."""
        return self.command(*arguments, **options).run()

    def lay_out(self, experiment: str) -> list[str]:
        """Writes an experiment's files here; returns the arguments that train it."""
        write_experiment(self.folder, experiment)
        return training(experiment)

    def copy_of(self, experiment: str) -> Reference:
        """Copies an undisturbed run here."""
        reference = self.reference(experiment)
        shutil.copytree(reference.folder, self.folder, dirs_exist_ok=True)
        return reference

    def reference(self, experiment: str) -> Reference:
        """The undisturbed experiment; trained when first requested.

        Raises:
            RuntimeError: the undisturbed training fails.
        """
        if experiment not in self._references:
            folder = self.base / "references" / experiment
            folder.mkdir(parents=True)
            write_experiment(folder, experiment)
            log = self.base / "operations"
            started = time.monotonic()
            ended = self.command(
                *training(experiment), patience=4, cwd=folder, trap=Trap(folder / RUN, log=log)
            ).run()
            seconds = time.monotonic() - started
            if ended.code != 0:
                raise RuntimeError(f"{experiment} cannot be trained: {ended.err[-500:]}")
            self._references[experiment] = Reference(
                folder,
                seconds,
                Trained.read(folder / RUN),
                log.read_text(encoding="utf-8").splitlines(),
            )
        return self._references[experiment]

    def finish(self, experiment: str, attack: str) -> Verdict:
        """Resumes a run until its end, and compares it with the undisturbed one."""
        begun = (self.folder / RUN).exists()
        ended = self.run(*(["train.py", "--resume", RUN] if begun else training(experiment)))
        if fault := ended.fault(f"{attack}, then resumed"):
            return fault
        if refused := ended.refused(attack):
            return Verdict("other", attack, f"cannot be resumed: {refused.said}")
        return self.compare(experiment, attack)

    def compare(self, experiment: str, attack: str) -> Verdict:
        """Compares the bits of the run here with those of the undisturbed one."""
        try:
            trained = Trained.read(self.folder / RUN)
            difference = self.reference(experiment).trained.difference(trained)
        except (OSError, ValueError) as error:
            return Verdict("differs", attack, str(error))
        return Verdict("differs" if difference else "survived", attack, difference)


def write_experiment(folder: Path, experiment: str) -> None:
    """Writes the files of an experiment."""
    (folder / CONFIG).write_text(EXPERIMENTS[experiment], encoding="utf-8")
    if experiment == "user_module":
        (folder / MODULE).write_text(USER_MODULE, encoding="utf-8")


def training(experiment: str) -> list[str]:
    """The command that trains an experiment."""
    del experiment
    return ["train.py", CONFIG, "--run-dir", RUN]
