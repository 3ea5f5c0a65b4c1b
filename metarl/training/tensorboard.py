"""TensorBoard output of a run: train, adaptation, classes, update, timing, hyperparameters and
videos."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.errors import UserError, note, printable
from metarl.protocols import TaskVectorEnv
from metarl.rollout.recording import Recorder, Recording
from metarl.rollout.scene import Scene
from metarl.visual.rendering.backends import find_backend
from metarl.visual.rendering.renderer import OffscreenRenderer
from metarl.visual.video import NOTHING_TO_SHOW, adaptation_frames, moving_image

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

VIDEO_SIZE, VIDEO_SPEED, VIDEO_FPS = (240, 180), 2.0, 8.0
LINES = ("first_episode", "last_episode")
"""Metrics of a trial that become two lines of one chart. TensorBoard draws metrics of the same name
in several folders into one chart, so each line has its own folder."""
EVENTS = "events.out.tfevents."
"""Prefix of the names of the files that TensorBoard reads."""


class Board:
    """Writer of the event files of a run folder.

    A failure to write them must not end the run: it is reported once, and the run continues
    without TensorBoard.

    Args:
        first_step: earlier events at or after this step are void, as their iterations are played
            again.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._folder = folder
        self._first_step = first_step
        self._files: dict[str, EventFile] = {}
        self._failed = False
        with self._or_go_on_without():
            self._file()

    def show(self, metrics: Mapping[str, float], *, env_steps: int) -> None:
        """Draws the metrics of an iteration, `group/name`: one chart each, sorted by group."""
        with self._or_go_on_without():
            for name, value in metrics.items():
                tag, _, line = name.rpartition("/")
                if line in LINES:
                    self._file(line).add(_scalar(f"adaptation/{tag}", value), step=env_steps)
                else:
                    self._file().add(_scalar(name, value), step=env_steps)
            self._flush()

    def show_hyperparameters(self, values: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Adds the run to the table of hyperparameters, with its final metrics."""
        with self._or_go_on_without():
            from torch.utils.tensorboard.summary import hparams

            plain = {name: v if isinstance(v, bool | int | float) else printable(v)
                     for name, v in flat(values).items()}  # fmt: skip
            final = {f"final/{name}": value for name, value in metrics.items()}
            for summary in hparams(plain, final):
                self._file().add(summary)
            for name, value in final.items():
                self._file().add(_scalar(name, value))
            self._flush()

    def show_video(self, scene: Scene, recording: Recording, *, env_steps: int) -> None:
        """Shows the first and the last episode of a recording side by side, among the images."""
        with OffscreenRenderer(width=VIDEO_SIZE[0], height=VIDEO_SIZE[1], draft=True) as renderer:
            frames, fps = adaptation_frames(
                renderer, scene=scene, recording=recording, speed=VIDEO_SPEED, max_fps=VIDEO_FPS
            )
            shown = moving_image("adaptation/video", list(frames), fps=fps)
        with self._or_go_on_without():
            self._file().add(shown, step=env_steps)
            self._flush()

    def close(self) -> None:
        """Closes the files."""
        with self._or_go_on_without():
            for file in self._files.values():
                file.close()

    def _file(self, line: str = "") -> EventFile:
        """The event file of the run, or of a line of a chart; created when first used.

        Lines have no file unless there are trials.
        """
        if line not in self._files:
            self._files[line] = EventFile(self._folder / line, first_step=self._first_step)
        return self._files[line]

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()

    @contextmanager
    def _or_go_on_without(self) -> Iterator[None]:
        if self._failed:
            with suppress(Exception):
                yield
            return
        try:
            yield
        except Exception as error:
            self._failed = True
            note(f"TensorBoard shows no more of {self._folder}, which goes on without: {error}")


class EventFile:
    """A file that TensorBoard reads, written synchronously by the calling thread.

    TensorBoard reads the files of a folder in the order of their names, which begin with a time,
    and drops events that a later file declares void. So the time of a new file, and the times in
    it, are later than those of all existing files, even if the clock was set back.

    Args:
        first_step: events at or after it in earlier files are void.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        # Imported late, as the import is slow and evaluation does not need it.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        self._new_event = Event
        self._time = max([time.time(), *(1 + t for file in folder.glob(EVENTS + "*")
                                         for t in _times(file))])  # fmt: skip
        path = folder / f"{EVENTS}{int(self._time):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._writer = RecordWriter(path.open("xb"))
        self._write(Event(step=first_step, file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=first_step, session_log=start))
        self.flush()

    def add(self, summary: Summary, *, step: int | None = None) -> None:
        """Writes a summary for a step."""
        self._write(self._new_event(summary=summary, step=step))

    def flush(self) -> None:
        """Flushes written events to the system, so that TensorBoard sees them."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        self._time = event.wall_time = max(time.time(), self._time)
        self._writer.write(event.SerializeToString())


def _times(file: Path) -> list[float]:
    """Times (s) at which an event file was last written and, by its name, begun."""
    begun, _, _ = file.name.removeprefix(EVENTS).partition(".")
    return [file.stat().st_mtime, *([float(begun)] if begun.isdecimal() else [])]


def _scalar(tag: str, value: int | float) -> Summary:
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def check_can_film(env: TaskVectorEnv) -> None:
    """Checks, before hours of training, that videos of the training tasks can be made.

    Raises:
        UserError: the environment has no physics to show, or this machine cannot draw.
    """
    if not isinstance(env, Recorder):
        raise UserError(NOTHING_TO_SHOW)
    find_backend()


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values under dotted names, without those that are None."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": v for inner, v in flat(value).items()}
        elif value is not None:
            found[name] = value
    return found
