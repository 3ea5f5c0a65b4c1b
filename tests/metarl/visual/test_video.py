"""Videos are complete, playable files that show the recording, with captions."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFont

from metarl.errors import UserError
from metarl.rollout.recording import Episode, Recording
from metarl.training.tensorboard import EventFile
from metarl.visual import video
from metarl.visual.rendering.renderer import OffscreenRenderer
from metarl.visual.video import (
    GAP,
    GREEN,
    Caption,
    adaptation_frames,
    adaptation_video,
    caption,
    captioned,
    fitting,
    gif,
    moving_image,
    side_by_side,
    write_video,
)
from tests.metarl.visual.test_rendering import (
    balls,
    column,
    moving,
    open_files,
    resident_mb,
    working,
)


def numbered(count: int, *, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames with different greys, and a white corner that shows the orientation."""
    frames = [np.full((height, width, 3), 40 + 10 * n, np.uint8) for n in range(count)]
    for frame in frames:
        frame[: height // 2, : width // 2] = 250
    return frames


def decoded(path: Path) -> tuple[list[np.ndarray], "av.VideoStream"]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], stream


def episode(*, before: int, horizon: int, success_at: int | None) -> Episode:
    success = np.zeros(horizon, bool)
    if success_at is not None:
        success[success_at] = True
    return Episode(
        before=before,
        states=moving(horizon + 1),
        reward=np.arange(1.0, horizon + 1),
        success=success,
    )


def recording(*episodes: Episode) -> Recording:
    return Recording(env_name="balls", task=7, episodes=list(episodes))


# -- files -----------------------------------------------------------------------------------------


def test_what_was_written_is_decoded(tmp_path: Path) -> None:
    frames = numbered(12)
    assert write_video(tmp_path / "new" / "a.mp4", iter(frames), fps=80 / 3) == 12
    seen, stream = decoded(tmp_path / "new" / "a.mp4")
    assert len(seen) == 12
    assert float(stream.average_rate) == pytest.approx(80 / 3, rel=1e-3)
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    for frame, copy in zip(frames, seen, strict=True):
        assert np.abs(frame.astype(int) - copy).mean() < 3


def test_it_plays_before_all_of_it_is_there(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(3), fps=20.0)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_odd_sizes_are_rounded_up(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(2, height=47, width=63), fps=20.0)
    assert decoded(tmp_path / "a.mp4")[0][0].shape == (48, 64, 3)


def test_a_video_is_whole_or_not_there(tmp_path: Path) -> None:
    def failing():
        yield from numbered(5)
        raise UserError("the driver fell over")

    with pytest.raises(UserError, match="fell over"):
        write_video(tmp_path / "a.mp4", failing(), fps=20.0)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", [], fps=20.0)
    with pytest.raises(ValueError, match="the first one"):
        write_video(tmp_path / "a.mp4", iter([*numbered(1), *numbered(1, width=32)]), fps=20.0)
    assert list(tmp_path.iterdir()) == []


def test_many_videos_leave_nothing_behind(tmp_path: Path) -> None:
    def write() -> None:
        for _ in range(10):
            write_video(tmp_path / "a.mp4", numbered(5), fps=20.0)

    write()
    files, memory = open_files(), resident_mb("self")
    for _ in range(3):
        write()
    assert open_files() == files
    assert resident_mb("self") < memory + 10


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the video"):
        write_video(tmp_path / "file" / "a.mp4", numbered(2), fps=20.0)


def test_a_gif_moves_at_the_pace_asked_for() -> None:
    image = Image.open(io.BytesIO(gif(numbered(4), fps=10.0)))
    assert (image.n_frames, image.size, image.info["duration"]) == (4, (64, 48), 100)
    for number, frame in enumerate(numbered(4)):
        image.seek(number)
        assert np.abs(np.array(image.convert("RGB")).astype(int) - frame).max() < 8


def test_tensorboard_finds_the_gif(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    file = EventFile(tmp_path, first_step=1)
    file.add(moving_image("adaptation", numbered(4), fps=10.0), step=500)
    file.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    (found,) = events.Images("adaptation")
    assert (found.step, found.width, found.height) == (500, 64, 48)
    assert Image.open(io.BytesIO(found.encoded_image_string)).n_frames == 4


# -- pictures --------------------------------------------------------------------------------------


def test_a_caption_says_how_far_the_episode_is() -> None:
    one = episode(before=9, horizon=4, success_at=2)  # rewards 1, 2, 3, 4
    said = [caption("balls, task 7", one, step) for step in (0, 2, 3, 4, 99)]
    assert [each.step for each in said] == [0, 2, 3, 4, 4]
    assert [each.total for each in said] == [0, 3, 6, 10, 10]
    assert [each.success for each in said] == [False, False, True, True, True]
    assert said[0].subtitle == "episode 10, after adaptation"
    first = caption("balls, task 7", episode(before=0, horizon=4, success_at=None), 0)
    assert first.subtitle == "episode 1, before adaptation"


@pytest.mark.parametrize("success", [False, True])
def test_success_is_green(success: bool) -> None:
    frame = np.zeros((360, 480, 3), np.uint8)
    written = captioned(
        frame,
        Caption(title="reach-v3, task 7", subtitle="episode 20, after adaptation", step=100,
                horizon=500, total=-1234.5, success=success),
    )  # fmt: skip
    assert not frame.any()  # arguments are not changed
    assert bool((written[-30:] == GREEN).all(axis=-1).any()) is success
    assert not written[40:-40].any()  # the middle of the picture is not covered
    assert written[:30].max() == written[-30:].max() == 255


@pytest.mark.parametrize("title", ["a-class-of-tasks-with-a-long-name, task 7", "long " * 30 + "7"])
def test_a_long_title_has_a_row_of_its_own(title: str) -> None:
    """Title and subtitle drawn alone equal both drawn together, so neither covers the other."""
    black = np.zeros((360, 480, 3), np.uint8)

    def written(title: str, subtitle: str) -> np.ndarray:
        one = Caption(title=title, subtitle=subtitle, step=1, horizon=5, total=0.0, success=False)
        return captioned(black, one)[:60].max(2)

    when = "episode 20, after adaptation"
    both, alone = written(title, when), written(title, "x" * 60)
    below = written("w" * 200, when)
    rows = np.flatnonzero((both > 200).any(1))
    gap = np.flatnonzero(np.diff(rows) > 3)
    assert len(gap) == 1, "two rows of letters"
    half = int(rows[gap[0]]) + 2
    np.testing.assert_array_equal(both[:half], alone[:half])
    np.testing.assert_array_equal(both[half:], below[half:])
    margins = np.concatenate([both[:half, :8], both[:half, -8:]], axis=1)
    assert not (margins > 200).any(), "the title ends before the picture does"


def test_a_title_loses_its_middle() -> None:
    font = ImageFont.load_default(16)
    assert fitting("reach-v3, task 7", font, 400) == "reach-v3, task 7"
    shown = fitting("an_agent: a-long-name-of-a-class, task 49", font, 200)
    assert shown.startswith("an_agent: ") and shown.endswith(", task 49") and "…" in shown
    assert font.getlength(shown) <= 200


def test_panels_stand_side_by_side() -> None:
    left, right = numbered(2)
    row = side_by_side([left, right])
    np.testing.assert_array_equal(row[:, :64], left)
    np.testing.assert_array_equal(row[:, 64 + GAP :], right)


# -- recordings ------------------------------------------------------------------------------------


def test_the_first_and_the_last_frame_show_what_the_states_say(tmp_path: Path) -> None:
    played = recording(
        episode(before=0, horizon=10, success_at=None),
        episode(before=1, horizon=10, success_at=1),
        episode(before=2, horizon=6, success_at=4),
    )
    path = tmp_path / "a.mp4"
    with OffscreenRenderer(width=160, height=120, backend=working(), num_workers=1) as artist:
        count = adaptation_video(
            artist, scene=balls(), recording=played, path=path, speed=8.0
        )  # a step lasts 1/20 s: at 40 frames a second, every 4th
        plain = list(artist.frames(balls(), np.array([[-1.0], [1.0]])))
    seen, stream = decoded(path)
    assert len(seen) == count == 4  # steps 0, 4, 8 and 10
    assert float(stream.average_rate) == 40
    assert seen[0].shape == (120, 160 + GAP + 160, 3)
    for frame, truth in ((seen[0], plain[0]), (seen[-1], plain[-1])):
        for panel in (frame[:, :160], frame[:, -160:]):
            difference = np.abs(panel[25:-25].astype(int) - truth[25:-25])
            assert difference.mean() < 3
            assert column(panel[25:-25], 0) == pytest.approx(column(truth[25:-25], 0), abs=1.5)


def test_a_slow_model_is_drawn_step_by_step() -> None:
    only = recording(episode(before=0, horizon=5, success_at=None))
    with OffscreenRenderer(width=64, height=48, backend=working(), num_workers=1) as artist:
        frames, fps = adaptation_frames(artist, scene=balls(), recording=only)
        drawn = list(frames)
    assert fps == pytest.approx(20)  # 1 / dt: real time
    assert len(drawn) == 6 and drawn[0].shape == (48, 64, 3)  # one episode, one panel


def test_a_camera_that_is_not_there_leaves_no_file(tmp_path: Path) -> None:
    only = recording(episode(before=0, horizon=5, success_at=None))
    with (
        OffscreenRenderer(width=64, height=48, backend="never started") as artist,
        pytest.raises(UserError, match="no camera corner"),
    ):
        adaptation_video(
            artist, scene=balls(), recording=only, path=tmp_path / "a.mp4", camera="corner"
        )
    assert list(tmp_path.iterdir()) == []


def test_speed_is_above_nothing() -> None:
    only = recording(episode(before=0, horizon=5, success_at=None))
    with (
        OffscreenRenderer(backend="never started") as artist,
        pytest.raises(UserError, match="speed"),
    ):
        adaptation_frames(artist, scene=balls(), recording=only, speed=0.0)


def test_the_encoder_is_one_that_pyav_has() -> None:
    assert av.Codec(video.ENCODER, "w").is_encoder
