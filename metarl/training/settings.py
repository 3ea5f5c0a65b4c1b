"""Settings of a run that do not depend on what is learned."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from metarl.config import Config, Count, Seed, Size

NAME_LENGTH = 100
NO_NAME = re.compile(r'[/\\<>:"|?*\s]|^[.~-]|\.$')
"""What no file system takes as part of a name, or what commands take for something else."""


def _fit_for_files(name: str) -> str:
    bad = NO_NAME.search(name.replace(" ", "_")) or not name.isprintable()
    if not name or name != name.strip() or bad or len(name.encode()) > NAME_LENGTH:
        raise ValueError(
            f"should be a name for a folder: letters, digits, - and _, at most {NAME_LENGTH}"
        )
    return name


Name = Annotated[str, AfterValidator(_fit_for_files)]


class TrainConfig(Config):
    """How long to train, and on how much at once."""

    env_steps: Count = 1_000_000
    """Environment steps to train for; rounded up to whole iterations."""
    tasks_per_trial: Size = 40
    """Tasks that are played side by side in an iteration (the meta-batch)."""
    episodes_per_trial: Size = 2
    """Episodes of experience with each task, over which the agent adapts."""
    checkpoint_every: Count = 10
    """Iterations from one checkpoint to the next. The first and the last state are always saved."""
    video_every: Annotated[int, Field(ge=0, le=10**12)] = 0
    """Iterations from one video in TensorBoard to the next, of a training task before and after
    adaptation; 0 for none."""


class FewShotTrainConfig(Config):
    """How long to train, and on how much at once, where tasks are given by labelled examples."""

    tasks: Count = 100_000
    """Tasks to train on, the same ones counted again; rounded up to whole iterations."""
    tasks_per_update: Size = 4
    """Tasks of a meta-update (the meta-batch)."""
    updates_per_iteration: Size = 50
    """Meta-updates that are logged together, as their mean."""
    checkpoint_every: Count = 20
    """Iterations from one checkpoint to the next. The first and the last state are always saved."""


class RunConfig(Config):
    """What every run depends on."""

    name: Name = "experiment"
    """The run goes to runs/<name>/seed<seed>."""
    seed: Seed = 1
    """Of the agent: initial weights, sampled tasks, actions. Goals have their own, env.seed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the agent lives; auto takes CUDA where there is one."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A NaN or an infinity ends the run, or drops the iteration: the agent stays as it was."""
