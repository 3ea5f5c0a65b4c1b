"""Pictures of slots, and videos recorded by other packages."""

from pathlib import Path

import av
import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers.vector import RecordVideo
from stable_baselines3.common.vec_env import VecVideoRecorder

import envs  # noqa: F401 - registers the names
from envs.locomotion.distributions import LocomotionConfig
from envs.metaworld import MetaWorld
from envs.stable_baselines3 import SB3VecEnv
from metarl.errors import UserError
from metarl.rollout.slots import SlotEnv
from metarl.visual.rendering.backends import find_backend
from metarl.visual.rendering.renderer import OffscreenRenderer

HORIZON = 8
MOVE = np.array([1.0, 0.5, -1.0, 1.0], np.float32)


@pytest.fixture(autouse=True, scope="module")
def something_draws() -> None:
    try:
        find_backend()
    except UserError as error:
        pytest.skip(str(error))


def drawers(num_envs: int = 2, **keywords) -> SlotEnv:
    return gymnasium.make_vec(
        "metarl/ML1-train-v0", num_envs=num_envs, env_name="drawer-open-v3", num_goals=num_envs,
        horizon=HORIZON, num_threads=1, render_mode="rgb_array", **keywords,
    )  # fmt: skip


def differ(one: np.ndarray, other: np.ndarray) -> float:
    """Share of pixels that clearly differ."""
    return float((np.abs(one.astype(int) - other.astype(int)).max(-1) > 20).mean())


def test_pictures_show_each_slot_with_its_task_and_move_with_it() -> None:
    """Pictures equal those of a renderer of each task's scene, to the bit."""
    env = drawers()
    with pytest.raises(ValueError, match="reset"):
        env.render()
    env.reset()
    env.step(np.tile(MOVE, (2, 1)))
    first = env.render()
    for _ in range(HORIZON - 2):
        env.step(np.tile(MOVE, (2, 1)))
    later = env.call("render")
    assert [picture.shape for picture in first] == [(360, 480, 3)] * 2
    assert differ(*first) > 0.002  # the drawers stand in different places
    assert min(differ(a, b) for a, b in zip(first, later, strict=True)) > 0.005
    with OffscreenRenderer(draft=True, num_workers=1) as renderer:
        for slot, task in enumerate(env.tasks):
            state = env._batch.drawn(slot)[None]
            (expected,) = renderer.frames(env.scene(task), state)
            np.testing.assert_array_equal(later[slot], expected)
    env.step(np.tile(MOVE, (2, 1)))  # the last step: slots have started anew
    again = env.render()
    assert min(differ(a, b) for a, b in zip(again, later, strict=True)) > 0.005
    env.close()


def test_the_reference_engine_is_drawn_from_its_own_physics() -> None:
    """Its states to draw equal those of the native engine, to the bit."""
    task = MetaWorld("ML1-drawer-open-v3").train[3]
    drawn = []
    for engine in ("native", "reference"):
        env = drawers(1, engine=engine)
        env.set_tasks([task])
        env.reset()
        env.step(MOVE[None])
        drawn.append(env._drawn(0))
        assert env._shared_model(task).edited == ("body_pos", "site_pos")
        env.close()
    np.testing.assert_array_equal(*drawn)


def test_robots_are_drawn() -> None:
    env = LocomotionConfig(horizon=20).build().make_env(1, render_mode="rgb_array")
    assert env.metadata["render_fps"] == 20
    env.reset(seed=0)
    (start,) = env.render()
    for _ in range(10):
        env.step(np.full((1, 6), 0.8, np.float32))
    (later,) = env.render()
    assert differ(start, later) > 0.01
    env.close()


def test_without_a_render_mode_there_is_a_hint() -> None:
    env = MetaWorld("ML1-reach-v3").make_env(1)
    env.reset()
    with pytest.raises(ValueError, match="make the environment with render_mode='rgb_array'"):
        env.render()


def frames(folder: Path) -> np.ndarray:
    """The frames of the only video in a folder."""
    (path,) = folder.glob("*.mp4")
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_gymnasium_records_a_video(tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="RecordVideo needs it")
    env = RecordVideo(drawers(1), str(tmp_path / "videos"), video_length=6)
    assert env.frames_per_sec == 80  # real time
    env.reset()
    for _ in range(7):
        env.step(MOVE[None])
    env.close()
    video = frames(tmp_path / "videos")
    assert video.shape[1:] == (360, 480, 3) and len(video) >= 6
    assert differ(video[0], video[-1]) > 0.005


def test_stable_baselines_records_a_video(tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="VecVideoRecorder needs it")
    env = SB3VecEnv(drawers(1))
    assert env.render_mode == "rgb_array"
    recorder = VecVideoRecorder(env, str(tmp_path), lambda step: step == 0, video_length=6)
    assert recorder.frames_per_sec == 80
    recorder.reset()
    for _ in range(7):
        recorder.step(MOVE[None])
    recorder.close()
    video = frames(tmp_path)
    assert video.shape == (7, 360, 480, 3)
    assert differ(video[0], video[-1]) > 0.005
