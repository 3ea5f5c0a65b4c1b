"""Trains small runs for five iterations each; started by tests/test_ranks.py, alone or by torchrun.

    python -m tests.ranks_worker FOLDER NAME…     trains into FOLDER/NAME

With the environment variable FAULT=RANK:UPDATE:HOW a rank comes to harm in an update of RL²; not
again once torchrun has started the ranks anew. HOW: raise, kill, stop or hang; or later: the
rank of any agent is killed UPDATE milliseconds after the beginning.
"""

import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from agents.rl2 import RL2
from metarl.errors import EnvironmentFailedError
from metarl.system import ranks
from metarl.system.command_line import one_line_errors
from metarl.training.experiment import load
from metarl.types import Rollout
from train import start

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "rl2": (
        "rl2_point",
        {"agent.hidden_size": 8, "agent.encoder_sizes": [8], "train.meta_batch_size": 6,
         "train.episodes_per_trial": 2},
    ),
    "rl2_bandit": (
        "rl2_bandit",
        {"train.meta_batch_size": 5, "train.episodes_per_trial": 20, "train.rollout_steps": 10,
         "agent.chunk_length": 5, "agent.per_action": False, "agent.prediction_coef": 0},
    ),
    "varibad": (
        "varibad_point",
        {"train.meta_batch_size": 15, "agent.vae_updates": 2, "agent.vae_batch_size": 5,
         "agent.replay_trials": 40},
    ),
    "pearl": (
        "pearl_point",
        {"train.meta_batch_size": 4, "agent.gradient_steps": 3, "agent.tasks_per_step": 6,
         "agent.batch_size": 8, "agent.hidden_sizes": [8], "agent.encoder_sizes": [8],
         "agent.replay_trials": 30},
    ),
    "maml_trpo": (
        "maml_trpo_point",
        {"train.meta_batch_size": 5, "agent.hidden_sizes": [8], "agent.cg_damping": 0.1},
    ),
    "promp": (
        "promp_point",
        {"train.meta_batch_size": 5, "agent.hidden_sizes": [8]},
    ),
    "maml": ("maml_sinusoid", {"train.meta_batch_size": 5}),
    "reptile": ("reptile_sinusoid", {"train.meta_batch_size": 12}),
    "prototypical": ("prototypical_glyphs",
                     {"train.meta_batch_size": 5, "agent.encoder.filters": 4}),
    "matching": ("matching_sinusoid", {"train.meta_batch_size": 5}),
}  # fmt: skip
FEW_SHOT = ("maml", "reptile", "prototypical", "matching")
ITERATIONS = 5
RESTARTED = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def experiment_of(name: str) -> Any:
    """The experiment of a small run, with a budget that five iterations spend."""
    config, options = SMALL[name]
    options = {"name": name, **options}
    path = CONFIGS / f"{config}.yaml"
    if name in FEW_SHOT:
        options["train.updates_per_iteration"] = 2
        options["train.tasks"] = ITERATIONS * 2 * options["train.meta_batch_size"]
        return load(path, options)
    experiment: Any = load(path, options)
    plan = experiment.train
    shape = experiment.agent.trial_shape(plan.episodes_per_trial, training=True)
    horizon = experiment.env.build().horizon
    played = ITERATIONS * plan.meta_batch_size * shape.total_episodes * horizon
    return load(path, options | {"train.env_steps": played})


def with_fault(rank: int, update: int, how: str) -> None:
    """Lets a rank come to harm in RL²'s update of that number, or later."""
    if how == "later":
        if not RESTARTED and ranks.own() == rank:
            threading.Timer(update / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return
    learn, updates = RL2.meta_update, itertools.count()

    def meta_update(self: RL2, trial: list[Rollout], **options: Any) -> dict[str, float]:
        if next(updates) == update and ranks.own() == rank and not RESTARTED:
            if how == "raise":
                raise EnvironmentFailedError("slot 0 is on fire")
            elif how == "hang":
                time.sleep(3600)
            else:
                os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[how])
        return learn(self, trial, **options)

    RL2.meta_update = meta_update


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    with one_line_errors("ranks_worker"), ranks.joined("ranks_worker"):
        if fault := os.environ.get("FAULT"):
            rank, update, how = fault.split(":")
            with_fault(int(rank), int(update), how)
        for each in names or SMALL:
            # Few-shot examples are float32.
            torch.set_default_dtype(torch.float32 if each in FEW_SHOT else torch.float64)
            start(experiment_of(each), Path(folder) / each, new=True)
