"""What TensorBoard shows of a run: train, adaptation, classes, update, timing, hyperparameters and
videos."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from metarl.errors import UserError, printable
from metarl.protocols import TaskVectorEnv
from metarl.recording import Recorder, Recording
from metarl.rendering.backends import find_backend
from metarl.rendering.renderer import OffscreenRenderer
from metarl.report.output import NOTHING_TO_SHOW
from metarl.scene import Scene
from metarl.video import adaptation_frames, tensorboard_video

VIDEO_SIZE, VIDEO_SPEED, VIDEO_FPS = (240, 180), 2.0, 8.0
LINES = ("first_episode", "last_episode")
"""Of a trial: two lines of one chart. TensorBoard draws what has the same name in several folders
into one chart, so each line has a folder of its own."""


class Board:
    """Writes the event files of a run folder.

    Args:
        first_step: events at or after it, of an iteration that is played again, are void.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        # Imported late: it takes a second that evaluation need not wait for.
        from torch.utils.tensorboard.writer import SummaryWriter

        self._folder = folder
        self._new_writer = partial(SummaryWriter, purge_step=first_step)
        self.writer = self._new_writer(str(folder))
        self._lines: dict[str, SummaryWriter] = {}

    def show(self, metrics: Mapping[str, float], *, env_steps: int) -> None:
        """Draws the metrics of an iteration, `group/name`: a chart each, groups side by side."""
        for name, value in metrics.items():
            tag, _, line = name.rpartition("/")
            if line in LINES:
                if line not in self._lines:  # only where there are trials
                    self._lines[line] = self._new_writer(str(self._folder / line))
                self._lines[line].add_scalar(f"adaptation/{tag}", value, env_steps)
            else:
                self.writer.add_scalar(name, value, env_steps)

    def show_hyperparameters(self, values: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Enters a run into the table of hyperparameters, with what came of them."""
        from torch.utils.tensorboard.summary import hparams

        plain = {name: v if isinstance(v, bool | int | float) else printable(v)
                 for name, v in flat(values).items()}  # fmt: skip
        final = {f"final/{name}": value for name, value in metrics.items()}
        for summary in hparams(plain, final):
            file_writer = self.writer.file_writer
            assert file_writer is not None
            file_writer.add_summary(summary)
        for name, value in final.items():
            self.writer.add_scalar(name, value)

    def show_video(self, scene: Scene, recording: Recording, *, env_steps: int) -> None:
        """Shows the first and the last episode of a recording side by side, among the images."""
        with OffscreenRenderer(width=VIDEO_SIZE[0], height=VIDEO_SIZE[1], draft=True) as renderer:
            frames, fps = adaptation_frames(
                renderer, scene=scene, recording=recording, speed=VIDEO_SPEED, max_fps=VIDEO_FPS
            )
            tensorboard_video(
                self.writer, tag="adaptation/video", frames=list(frames),
                env_steps=env_steps, fps=fps,
            )  # fmt: skip

    def close(self) -> None:
        """Flushes what was written."""
        for writer in (self.writer, *self._lines.values()):
            writer.close()


def check_can_film(env: TaskVectorEnv) -> None:
    """Checks, before hours of training, that videos can be made of what is trained on.

    Raises:
        UserError: there is no physics to show, or nothing on this machine can draw it.
    """
    if not isinstance(env, Recorder):
        raise UserError(NOTHING_TO_SHOW)
    find_backend()


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": v for inner, v in flat(value).items()}
        elif value is not None:
            found[name] = value
    return found
