"""Files of a report, such as replay and videos, and the lines printed about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from metarl.errors import UserError, note
from metarl.protocols import TaskDistribution
from metarl.report.blocks import Film, Rollouts
from metarl.rollout.recording import (
    Recorder,
    Recording,
)
from metarl.rollout.scene import Scene
from metarl.system.files import read_json
from metarl.tasks import TaskSet
from metarl.visual.rendering.renderer import OffscreenRenderer, check_camera
from metarl.visual.replay import write_replay
from metarl.visual.video import NOTHING_TO_SHOW, adaptation_video

LONGEST_NAME = 150  # longest name of a folder, in characters
FILMS = "films.json"
"""File that lists the videos of a folder with their captions."""
FIRST_AND_LAST = (
    "The first and the last episode of a trial; tasks that failed in the end come before tasks "
    "that were solved."
)
Shown = Sequence[tuple[Scene, Recording]]


def recordings_file(evaluation: Path) -> Path:
    """Path of the recordings of a stored evaluation."""
    return evaluation.with_suffix(".recordings.npz")


def comparison_folder(above: Path, runs: Sequence[str], evaluation: str) -> Path:
    """Folder of the report on several runs.

    Args:
        above: folder around all comparisons.
        runs: names of all runs.
        evaluation: name of the evaluation.
    """
    name = "_".join([*runs, evaluation])
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return above / "comparisons" / name


def can_show(distribution: TaskDistribution) -> bool:
    """True if rollouts on these tasks can be recorded."""
    with closing(distribution.make_env(1)) as env:
        return isinstance(env, Recorder)


def check_shows(distribution: TaskDistribution, tasks: TaskSet, *, camera: str | None) -> None:
    """Checks, before anything is played, that rollouts can be shown afterwards.

    Raises:
        UserError: the tasks have no physics to show, or no such camera.
    """
    with closing(distribution.make_env(1)) as env:
        if not isinstance(env, Recorder):
            raise UserError(NOTHING_TO_SHOW)
        if camera:
            check_camera(env.scene(tasks[0]), camera)


def with_scenes(
    distribution: TaskDistribution, tasks: TaskSet, recordings: Sequence[Recording]
) -> Shown:
    """Recordings with the scenes to draw them in, one scene per task.

    Raises:
        UserError: there is no physics to show.
    """
    with closing(distribution.make_env(1)) as env:
        if not isinstance(env, Recorder):
            raise UserError(NOTHING_TO_SHOW)
        scenes: dict[int, Scene] = {}
        for recording in recordings:
            number = recording.task
            if number >= len(tasks) or tasks[number].env_name != recording.env_name:
                raise UserError(
                    f"the recordings of {recording.title} are of other tasks; leave --stored out"
                )
            scenes[number] = scenes.get(number) or env.scene(tasks[number])
            if recording.episodes[0].states.shape[1] < scenes[number].state_size:
                raise UserError(
                    f"the recordings of {recording.title} are of another model; leave --stored out"
                )
    return [(scenes[recording.task], recording) for recording in recordings]


def write_rollouts(
    folder: Path,
    shown: Shown,
    *,
    title: str,
    text: str,
    video: bool,
    fine: bool,
    camera: str | None,
) -> Rollouts:
    """Writes the replay and, if requested, a video per recording; prints their paths.

    Args:
        text: text about them in the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replay = folder / "replay.html"
    write_replay(replay, shown, title=title)
    films = write_films(folder, shown, fine=fine, camera=camera) if video else []
    for film in films:
        print(f"Video: {folder / film.file}")
    print(f"Replay: {replay}")
    return Rollouts(text=text, replay=replay.name, films=films)


def write_films(folder: Path, shown: Shown, *, fine: bool, camera: str | None) -> list[Film]:
    """Renders first and last episodes side by side, one file per recording."""
    films = []
    with OffscreenRenderer(draft=not fine) as renderer:
        for scene, recording in shown:
            parts = [recording.agent, recording.env_name, str(recording.task)]
            file = "_".join(filter(None, parts)).replace("/", "-").replace(" ", "-") + ".mp4"
            adaptation_video(
                renderer, scene=scene, recording=recording, path=folder / file, camera=camera
            )
            outcome = "succeeds in the end" if recording.succeeded else "fails in the end"
            films.append(Film(caption=f"{recording.title}: {outcome}", file=file))
    remove_others(folder, films)
    return films


def remove_others(folder: Path, films: Sequence[Film]) -> None:
    """Removes earlier videos of the folder that are not among `films`, and lists `films`."""
    listed = folder / FILMS
    try:
        earlier = read_json(listed, dict[str, str])
    except FileNotFoundError:
        earlier = {}
    except UserError as error:
        note(f"{error}; earlier videos are kept")
        earlier = {}
    for name in set(earlier) - {film.file for film in films}:
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)
    listed.write_text(
        json.dumps({film.file: film.caption for film in films}, indent=1), encoding="utf-8"
    )


@contextmanager
def or_what_is_safe(safe: str) -> Iterator[None]:
    """Turns a write error into a message that says what is safe and what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write: {error}; {safe}. Make room, or put results elsewhere: --output DIR"
        ) from None


@contextmanager
def or_without_picture() -> Iterator[None]:
    """Reports a failed picture in a line, so that nothing else fails."""
    try:
        yield
    except Exception as error:
        note(f"no picture: {error}")
