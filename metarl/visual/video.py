"""Videos of recorded episodes before and after adaptation."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from metarl.errors import UserError, printable
from metarl.rollout.recording import Episode, Recording
from metarl.rollout.scene import Scene
from metarl.system.files import written_whole
from metarl.visual.rendering.renderer import OffscreenRenderer

if TYPE_CHECKING:
    from av.video.stream import VideoStream
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

Frame = UInt8[np.ndarray, "H W 3"]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

ENCODER = "libx264"
MAX_FPS = 40.0
"""Highest frame rate (frames/s); more would not be visible."""
GAP = 4
"""Pixels between two panels."""
WHITE, GREY, GREEN = (255, 255, 255), (190, 190, 190), (70, 220, 110)
SHADE = (0, 0, 0, 150)
"""Colour behind captions; the picture shows through."""


# -- files -----------------------------------------------------------------------------------------


def write_video(path: Path, frames: Iterable[Frame], *, fps: float) -> int:
    """Writes an MP4 (H.264) that browsers play while loading; the file appears whole or not at all.

    Frames of odd size get another row or column, as the format requires even sizes.

    Returns:
        The number of frames.

    Raises:
        UserError: the file cannot be written.
        ValueError: there are no frames, or their sizes differ.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            return _encode(partial, frames, Fraction(fps).limit_denominator(1000))
    except OSError as error:  # PyAV's own errors are among them
        raise UserError(f"cannot write the video {path}: {error}") from None


def _encode(path: Path, frames: Iterable[Frame], fps: Fraction) -> int:
    import av  # imported late, as nothing else needs it

    count, stream, shape = 0, None, (0, 0, 3)
    faststart = {"movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", options=faststart) as container:
        for frame in frames:
            if stream is None:
                shape = frame.shape
                options = {"crf": "20", "preset": "veryfast"}
                stream = cast("VideoStream", container.add_stream(ENCODER, fps, options))
                stream.height, stream.width = (size + size % 2 for size in shape[:2])
                stream.pix_fmt = "yuv420p"
            if frame.shape != shape:
                raise ValueError(f"a frame has shape {frame.shape}, the first one {shape}")
            even = np.pad(frame, [(0, shape[0] % 2), (0, shape[1] % 2), (0, 0)], mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            count += 1
        if stream is None:
            raise ValueError("a video needs at least one frame")
        container.mux(stream.encode(None))
    return count


def gif(frames: Iterable[Frame], *, fps: float) -> bytes:
    """The frames as an animated GIF that loops forever."""
    images = [Image.fromarray(frame) for frame in frames]
    if not images:
        raise ValueError("a GIF needs at least one frame")
    file = io.BytesIO()
    # GIFs count hundredths of a second, and browsers slow down frames shorter than two of them.
    duration = max(20, 10 * round(100 / fps))
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return file.getvalue()


def moving_image(tag: str, frames: Sequence[Frame], *, fps: float) -> Summary:
    """Frames as an animated image for TensorBoard."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

    height, width = frames[0].shape[:2]
    # torch's add_video gives the same, but needs moviepy and with it ffmpeg.
    picture = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=gif(frames, fps=fps)
    )
    return Summary(value=[Summary.Value(tag=tag, image=picture)])


# -- pictures --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Caption:
    """Text over a picture."""

    title: str
    subtitle: str
    step: int
    """Steps of the episode played so far."""
    horizon: int
    total: float
    """The return so far."""
    success: bool
    """True if there was a success so far."""


def captioned(frame: Frame, caption: Caption) -> Frame:
    """The picture with its caption over the upper and lower edge."""
    height, width = frame.shape[:2]
    size = max(8, round(min(height / 22, width / 30)))
    font = ImageFont.load_default(size)
    bar, margin = round(1.7 * size), round(0.6 * size)
    middle = bar // 2
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image, "RGBA")
    title, subtitle = printable(caption.title), printable(caption.subtitle)
    needed = sum(draw.textlength(text, font) for text in (title, subtitle))
    rows = 1 if needed + 3 * margin <= width else 2  # with the subtitle below the title
    title = fitting(title, font, width - 2 * margin)
    draw.rectangle((0, 0, width, rows * bar), fill=SHADE)
    draw.rectangle((0, height - bar, width, height), fill=SHADE)
    draw.text((margin, middle), title, WHITE, font, anchor="lm")
    place = (width - margin, middle) if rows == 1 else (margin, middle + bar)
    draw.text(place, subtitle, WHITE, font, anchor="rm" if rows == 1 else "lm")
    line = height - middle
    digits = len(str(caption.horizon))
    step = f"step {caption.step:>{digits}} / {caption.horizon}"
    draw.text((margin, line), step, WHITE, font, anchor="lm")
    draw.text((width / 2, line), f"return {caption.total:.1f}", WHITE, font, anchor="mm")
    word, colour = ("success", GREEN) if caption.success else ("no success", GREY)
    draw.text((width - margin, line), word, colour, font, anchor="rm")
    right = width - 1.5 * margin - draw.textlength(word, font)
    dot = 0.35 * size
    place = (right - 2 * dot, line - dot, right, line + dot)
    draw.ellipse(place, fill=colour if caption.success else None, outline=colour, width=2)
    return np.array(image)


def fitting(text: str, font: Font, width: int) -> str:
    """The text, shortened in its middle to fit: its ends name the agent and the task."""
    shown, kept = text, len(text)
    while kept > 2 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return shown


def side_by_side(panels: Sequence[Frame]) -> UInt8[np.ndarray, "H row 3"]:
    """Pictures of the same height in a row."""
    gap = np.zeros((panels[0].shape[0], GAP, 3), np.uint8)
    row = [part for panel in panels for part in (gap, panel)]
    return np.concatenate(row[1:], axis=1)


# -- recordings ------------------------------------------------------------------------------------


def adaptation_video(
    renderer: OffscreenRenderer,
    *,
    scene: Scene,
    recording: Recording,
    path: Path,
    camera: str | None = None,
    speed: float = 1.0,
) -> int:
    """Writes an MP4 of the first and the last episode of a recording, side by side.

    Args:
        camera: name of a camera, or '' for a free camera; by default the scene's camera.
        speed: playback speed; 2 plays twice as fast as real time.

    Returns:
        The number of frames.

    Raises:
        UserError: there is no such camera, or drawing or writing failed.
    """
    frames, fps = adaptation_frames(
        renderer, scene=scene, recording=recording, camera=camera, speed=speed
    )
    return write_video(path, frames, fps=fps)


def adaptation_frames(
    renderer: OffscreenRenderer,
    *,
    scene: Scene,
    recording: Recording,
    camera: str | None = None,
    speed: float = 1.0,
    max_fps: float = MAX_FPS,
) -> tuple[Iterator[Frame], float]:
    """The frames of such a video, and their rate (frames/s).

    The first frame shows the start and the last one the end of the episodes; a shorter episode
    stays at its end until the longer one ends.
    """
    if speed <= 0:
        raise UserError(f"the speed of a video must be above 0, not {speed:g}")
    episodes = recording.episodes
    shown = [episodes[0], episodes[-1]] if len(episodes) > 1 else list(episodes)
    every = max(1, math.ceil(speed / (scene.dt * max_fps) - 1e-6))
    steps = _shown_steps(max(len(episode.reward) for episode in shown), every)
    # Panels in turn, so that the renderer draws all panels of a frame, then those of the next.
    states = np.stack(
        [episode.states[min(step, len(episode.reward))] for step in steps for episode in shown]
    )
    drawn = renderer.frames(scene, states, camera=camera)
    return _composed(drawn, recording, shown, steps), speed / (scene.dt * every)


def _composed(
    drawn: Iterator[Frame], recording: Recording, shown: list[Episode], steps: Int[np.ndarray, " F"]
) -> Iterator[Frame]:
    for step in steps:
        yield side_by_side(
            [
                captioned(next(drawn), caption(recording.title, episode, int(step)))
                for episode in shown
            ]
        )


def caption(title: str, episode: Episode, step: int) -> Caption:
    """Caption of an episode after a number of steps."""
    horizon = len(episode.reward)
    played = min(step, horizon)
    when = "after" if episode.before else "before"
    return Caption(
        title=title,
        subtitle=f"episode {episode.before + 1}, {when} adaptation",
        step=played,
        horizon=horizon,
        total=float(episode.reward[:played].sum()),
        success=bool(episode.success[:played].any()),
    )


def _shown_steps(horizon: int, every: int) -> Int[np.ndarray, " F"]:
    """Every n-th step from the start, and the last step."""
    return np.unique(np.append(np.arange(0, horizon, every), horizon))


NOTHING_TO_SHOW = (
    "nothing to show: only the engines of Meta-World and locomotion, and environments of yours "
    "with a MuJoCo model, record what is played; --report shows the rest"
)
