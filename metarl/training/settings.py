"""Settings of a run that do not depend on its tasks or its algorithm."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from metarl.config import Config, Count, Seed, Size

NAME_LENGTH = 100
NO_NAME = re.compile(r'[/\\<>:"|?*\s]|^[.~-]|\.$')
"""Characters that some file system or command does not accept in a file name."""


def _fit_for_files(name: str) -> str:
    bad = NO_NAME.search(name.replace(" ", "_")) or not name.isprintable()
    if not name or name != name.strip() or bad or len(name.encode()) > NAME_LENGTH:
        raise ValueError(
            f"should be a name for a folder: letters, digits, - and _, at most {NAME_LENGTH}"
        )
    return name


Name = Annotated[str, AfterValidator(_fit_for_files)]


class TrainConfig(Config):
    """Length of training and amount of data per iteration."""

    env_steps: Count = 1_000_000
    """Environment steps to train for; rounded up to whole iterations."""
    meta_batch_size: Size = 40
    """Tasks played side by side in an iteration (the meta-batch)."""
    episodes_per_trial: Size = 2
    """Episodes of a trial, over which the agent adapts to its task."""
    rollout_steps: Count | None = None
    """Steps of a trial after which the agent (RL²) learns before the trial goes on. If not given,
    it learns once, from whole trials."""
    checkpoint_every: Count = 10
    """Iterations between checkpoints. The first and the last state are always saved."""
    video_every: Annotated[int, Field(ge=0, le=10**12)] = 0
    """Iterations between videos in TensorBoard, which show a training task before and after
    adaptation; 0 for no videos."""


class FewShotTrainConfig(Config):
    """Length of training and amount of data per iteration, for few-shot learning."""

    tasks: Count = 100_000
    """Tasks to train on, counting repeated ones again; rounded up to whole iterations."""
    meta_batch_size: Size = 4
    """Tasks per meta-update (the meta-batch)."""
    updates_per_iteration: Size = 50
    """Meta-updates per iteration; their mean is logged."""
    checkpoint_every: Count = 20
    """Iterations between checkpoints. The first and the last state are always saved."""


class RunConfig(Config):
    """Settings that every run has."""

    name: Name = "experiment"
    """Name of the run; its folder is runs/<name>/seed<seed>."""
    seed: Seed = 1
    """Seed of initial weights, task sampling and actions. Goals have their own seed, env.seed."""
    start_from: str | None = None
    """Folder of a run, or of one of its checkpoints, whose weights and normalizers a new run begins
    with, as if it had learned them; if not given, it begins with random weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the agent; auto chooses CUDA if there is a CUDA device."""
    on_nan: Literal["stop", "skip"] = "stop"
    """Response to a NaN or an infinity: stop, or skip the iteration and restore the agent."""
