"""Properties that must be equal where runs are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Identity of a run, and the properties that must be equal where runs are compared."""

    experiment: str
    seed: int
    distribution: str
    split_hash: str
    horizon: int
    """Steps of an episode."""
    reward_version: str | None
    """Version of rewards such as Meta-World's; None if they have none or it is unknown."""
    total_episodes: int
    slots_per_task: int


def check_alike(settings: Sequence[Setting]) -> None:
    """Checks that runs can be compared.

    Raises:
        UserError: runs differ in tasks, horizon or reward version, the seeds of an experiment
            differ in their episodes, or a run is given twice.
    """
    first = settings[0]
    known: set[tuple[str, int]] = set()
    firsts: dict[str, Setting] = {}
    for setting in settings:
        if setting.split_hash != first.split_hash:
            raise UserError(
                f"{first.experiment} was played on tasks of {first.distribution}, "
                f"{setting.experiment} on others of {setting.distribution}; compare runs on "
                "the same tasks, for example with --tasks"
            )
        if setting.horizon != first.horizon:
            raise UserError(
                f"an episode of {first.experiment} has {first.horizon} steps, one of "
                f"{setting.experiment} {setting.horizon}; play the same with --tasks"
            )
        versions = {first.reward_version, setting.reward_version} - {None}
        if len(versions) > 1:
            raise UserError(
                f"{first.experiment} is paid by {first.reward_version} rewards, "
                f"{setting.experiment} by {setting.reward_version}; play the same with --tasks"
            )
        if (setting.experiment, setting.seed) in known:
            raise UserError(
                f"{setting.experiment}, seed {setting.seed}, is there twice; name it once"
            )
        known.add((setting.experiment, setting.seed))
        alike = firsts.setdefault(setting.experiment, setting)
        if (alike.total_episodes, alike.slots_per_task) != (
            setting.total_episodes, setting.slots_per_task,
        ):  # fmt: skip
            raise UserError(
                f"the seeds of {setting.experiment} were played for different numbers of "
                "episodes; evaluate them alike, with --episodes"
            )
