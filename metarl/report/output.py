"""The files of a report: page, replay, videos, and what is said of them on the terminal."""

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

LONGEST_NAME = 150  # of a folder, in characters
FILMS = "films.json"
"""Which videos lie in a folder, and what they show."""
FIRST_AND_LAST = (
    "The first and the last episode of a trial, tasks that were failed in the end before those "
    "that were solved."
)
Shown = Sequence[tuple[Scene, Recording]]


def recordings_file(evaluation: Path) -> Path:
    """Where the recordings of a stored evaluation are."""
    return evaluation.with_suffix(".recordings.npz")


def comparison_folder(above: Path, runs: Sequence[str], evaluation: str) -> Path:
    """Where the report on several runs is written.

    Args:
        above: the folder that all comparisons lie in.
        runs: the names of all.
        evaluation: the name of what was evaluated.
    """
    name = "_".join([*runs, evaluation])
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return above / "comparisons" / name


def can_show(distribution: TaskDistribution) -> bool:
    """Whether what is played can be recorded."""
    with closing(distribution.make_env(1)) as env:
        return isinstance(env, Recorder)


def check_shows(distribution: TaskDistribution, tasks: TaskSet, *, camera: str | None) -> None:
    """Checks, before anything is played, that it can be shown afterwards.

    Raises:
        UserError: there is no physics to show, or no such camera.
    """
    with closing(distribution.make_env(1)) as env:
        if not isinstance(env, Recorder):
            raise UserError(NOTHING_TO_SHOW)
        if camera:
            check_camera(env.scene(tasks[0]), camera)


def with_scenes(
    distribution: TaskDistribution, tasks: TaskSet, recordings: Sequence[Recording]
) -> Shown:
    """Recordings with what they are drawn in, one scene for each task.

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
    """Writes the replay and, if wanted, a video for each recording; says where they are.

    Args:
        text: what a report says of them.
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
    """Renders first and last episodes side by side, a file for each recording."""
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
    """Removes the videos that were written here before and are none of these, and lists these."""
    listed = folder / FILMS
    try:
        earlier = read_json(listed, dict[str, str])
    except FileNotFoundError:
        earlier = {}
    except UserError as error:
        note(f"{error}; videos of before stay where they are")
        earlier = {}
    for name in set(earlier) - {film.file for film in films}:
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)
    listed.write_text(
        json.dumps({film.file: film.caption for film in films}, indent=1), encoding="utf-8"
    )


@contextmanager
def or_what_is_safe(safe: str) -> Iterator[None]:
    """Turns an error of the system into a line that says what is safe and how to go on."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write: {error}; {safe}. Make room, or put results elsewhere: --output DIR"
        ) from None


@contextmanager
def or_without_picture() -> Iterator[None]:
    """A picture that fails has its line, and nothing else fails with it."""
    try:
        yield
    except Exception as error:
        note(f"no picture: {error}")
