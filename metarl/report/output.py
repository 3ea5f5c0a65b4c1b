"""The files of a report: page, replay, videos, and what is said of them on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from metarl.errors import UserError
from metarl.protocols import TaskDistribution
from metarl.recording import Recorder, Recording, read_recordings
from metarl.rendering.renderer import OffscreenRenderer
from metarl.replay import write_replay
from metarl.report.adaptation import adaptation_report
from metarl.report.blocks import Film, Section
from metarl.report.page import write_report
from metarl.result import Evaluation
from metarl.scene import Scene
from metarl.tasks import TaskSet
from metarl.video import adaptation_video

NOTHING_TO_SHOW = (
    "nothing to show: only the engines of Meta-World and locomotion, and environments of yours "
    "with a MuJoCo model, record what is played; --report shows the rest"
)
Shown = Sequence[tuple[Scene, Recording]]


def recordings_file(evaluation: Path) -> Path:
    """Where the recordings of a stored evaluation are."""
    return evaluation.with_suffix(".recordings.npz")


def recorded(distribution: TaskDistribution, tasks: TaskSet, file: Path) -> Shown:
    """What was recorded of these tasks, with the scenes it is shown in; nothing where there is no
    physics to show."""
    with closing(distribution.make_env(1)) as env:
        if not isinstance(env, Recorder):
            return []
        return [(env.scene(tasks[r.task]), r) for r in read_recordings(file)]


def write_rollouts(
    folder: Path, shown: Shown, *, title: str, video: bool, fine: bool, camera: str | None
) -> tuple[Path, list[Film]]:
    """Writes the replay and, if wanted, a video for each task; says where they are."""
    if not shown:
        raise UserError(NOTHING_TO_SHOW)
    folder.mkdir(parents=True, exist_ok=True)
    replay = folder / "replay.html"
    write_replay(replay, shown, title=title)
    films = write_films(folder, shown, fine=fine, camera=camera) if video else []
    for film in films:
        print(f"Video: {folder / film.file}")
    print(f"Replay: {replay}")
    return replay, films


def write_films(folder: Path, shown: Shown, *, fine: bool, camera: str | None) -> list[Film]:
    """Renders first and last episodes side by side, a file for each task."""
    films = []
    with OffscreenRenderer(draft=not fine) as renderer:
        for scene, recording in shown:
            file = f"{recording.env_name}_{recording.task}.mp4"
            adaptation_video(
                renderer, scene=scene, recording=recording, path=folder / file, camera=camera
            )
            outcome = "succeeds in the end" if recording.succeeded else "fails in the end"
            films.append(
                Film(caption=f"{recording.env_name}, task {recording.task}: {outcome}", file=file)
            )
    return films


def write_adaptation(
    folder: Path,
    evaluation: Evaluation,
    more: Sequence[Section],
    *,
    films: Sequence[Film],
    replay: Path | None,
) -> None:
    """Writes the report on one run, and says where it is."""
    report = adaptation_report(evaluation, more)
    print(f"Report: {write_report(folder, report, films=films, replay=replay)}")
