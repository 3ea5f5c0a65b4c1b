"""Pictures show the states upright, as official environments draw them; nothing hangs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
import pytest

from envs.metaworld import MetaWorld
from envs.metaworld.official import make_official_env, set_official_task
from metarl.errors import UserError
from metarl.rollout.scene import Scene, drawn_state
from metarl.visual.rendering import backends, renderer
from metarl.visual.rendering.artist import is_rolled
from metarl.visual.rendering.backends import Probe, environment, find_backend, probe
from metarl.visual.rendering.renderer import OffscreenRenderer

ROOT = Path(__file__).parents[3]
BALLS = """<mujoco>
  <visual> <global offwidth="64" offheight="48"/> <headlight ambient=".6 .6 .6"/> </visual>
  <statistic center="0 0 1" extent="2"/>
  <worldbody>
    <camera name="heads up" pos="0 -4 1" xyaxes="1 0 0 0 0 1"/>
    <camera name="heads down" pos="0 -4 1" xyaxes="-1 0 0 0 0 -1"/>
    <body name="robot">
      <joint type="slide" axis="1 0 0" damping="1"/>
      <geom type="sphere" size=".3" pos="0 0 1.6" rgba="1 0 0 1"/>
      <geom type="sphere" size=".3" pos="0 0 .4" rgba="0 0 1 1"/>
    </body>
  </worldbody>
</mujoco>"""
"""A red ball above a blue one; they slide along x, to the right of the cameras."""
OFFICIAL = """
import sys
import mujoco
import numpy as np
from envs.metaworld.official import MetaWorldTask, set_official_task
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metarl.rollout.scene import DRAWN_STATE

given = np.load(sys.argv[1])
drawn = {}
for camera in given["cameras"]:
    env = ALL_V3_ENVIRONMENTS["push-v3"](
        render_mode="rgb_array", camera_name=str(camera), width=160, height=120
    )
    set_official_task(env, MetaWorldTask("push-v3", given["goal"]))
    env.reset()
    pictures = []
    for state in given["states"]:
        mujoco.mj_setState(env.model, env.data, state, DRAWN_STATE)
        mujoco.mj_forward(env.model, env.data)
        pictures.append(env.render())
    drawn[str(camera)] = np.stack(pictures)
    env.close()
np.savez(sys.argv[2], **drawn)
"""
"""Program that draws states with the environments' own `render`."""


@cache
def working() -> str:
    """A working back end; without one, the test is skipped."""
    try:
        return find_backend()
    except UserError as error:
        pytest.skip(f"no rendering on this machine: {error}")


@pytest.fixture(scope="module")
def backend() -> str:
    return working()


def balls() -> Scene:
    return Scene(model=mujoco.MjModel.from_xml_string(BALLS), camera="heads up", dt=0.05)


def moving(count: int) -> np.ndarray:
    """States in which the balls move from left to right."""
    return np.linspace(-1, 1, count)[:, None]


def column(picture: np.ndarray, channel: int) -> float:
    """Horizontal position of the ball of this colour (pixels)."""
    return float(np.nonzero(picture[..., channel] > 128)[1].mean())


def row(picture: np.ndarray, channel: int) -> float:
    """Vertical position of the ball of this colour, from the top (pixels)."""
    return float(np.nonzero(picture[..., channel] > 128)[0].mean())


@pytest.fixture
def artist(backend: str) -> Iterator[OffscreenRenderer]:
    with OffscreenRenderer(width=64, height=48, backend=backend, num_workers=2) as opened:
        yield opened


# -- what pictures show ----------------------------------------------------------------------------


def test_pictures_are_those_of_a_fresh_official_environment(backend: str, tmp_path: Path) -> None:
    task = MetaWorld("ML1-push-v3", seed=0).train[3]
    env = make_official_env("push-v3")
    set_official_task(env, task)
    env.reset()
    states = [drawn_state(env.model, env.data)]
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 4)).astype(np.float32)
    for action in actions:
        env.step(action)
    states = np.stack([*states, drawn_state(env.model, env.data)])

    model = env.model
    hanging = {"corner", "corner2", "corner3", "corner4"}
    known = [model.camera(number).name for number in range(model.ncam)]
    assert {name for name in known if is_rolled(model, model.camera(name).id)} == hanging
    cameras = ["corner2", "behindGripper"]
    given, drawn = tmp_path / "given.npz", tmp_path / "drawn.npz"
    np.savez(given, states=states, goal=task.rand_vec, cameras=cameras)
    oracle = subprocess.run(
        [sys.executable, "-c", OFFICIAL, str(given), str(drawn)], env=environment(backend),
        capture_output=True, text=True,
    )  # fmt: skip
    assert drawn.exists(), oracle.stderr
    official = np.load(drawn)

    scene = Scene(model=env.model, camera="corner2", dt=env.dt)
    with OffscreenRenderer(width=160, height=120, backend=backend, num_workers=1) as artist:
        for camera in cameras:
            ours = np.stack(list(artist.frames(scene, states, camera=camera)))
            theirs = official[camera]
            theirs = theirs[:, ::-1, ::-1] if camera in hanging else theirs
            np.testing.assert_array_equal(ours, theirs, err_msg=camera)
            assert (ours[0] != ours[1]).any(), f"{camera}: nothing moved"


@pytest.mark.parametrize("camera", ["heads up", "heads down", ""])
def test_up_is_up_and_right_is_right(artist: OffscreenRenderer, camera: str) -> None:
    if camera:  # the free camera follows them
        first, last = artist.frames(balls(), moving(2), camera=camera)
        assert column(first, 0) < 32 < column(last, 0)
    (picture,) = artist.frames(balls(), moving(1), camera=camera)
    assert row(picture, 0) < row(picture, 2)


def test_a_free_camera_goes_with_the_robot(artist: OffscreenRenderer) -> None:
    near, far = artist.frames(balls(), np.array([[0.0], [50.0]]), camera="")
    assert column(far, 0) == pytest.approx(column(near, 0), abs=1)


def test_pictures_come_in_order_however_many_draw(backend: str) -> None:
    drawn = []
    for workers in (1, 3):
        with OffscreenRenderer(width=64, height=48, backend=backend, num_workers=workers) as artist:
            drawn.append(np.stack(list(artist.frames(balls(), moving(40)))))
            assert len(artist._workers) == workers
    np.testing.assert_array_equal(*drawn)
    assert (np.diff([column(picture, 0) for picture in drawn[0]]) > 0).all()


def test_pictures_larger_than_the_models_buffer(backend: str) -> None:
    scene = balls()
    with OffscreenRenderer(width=300, height=200, backend=backend) as artist:
        (picture,) = artist.frames(scene, moving(1))
    assert picture.shape == (200, 300, 3) and picture.max() > 128
    assert scene.model.vis.global_.offwidth == 64  # arguments are not changed


def test_a_draft_shows_the_same(backend: str) -> None:
    pictures = []
    for draft in (False, True):
        with OffscreenRenderer(width=64, height=48, backend=backend, draft=draft) as artist:
            pictures += artist.frames(balls(), moving(1))
    difference = np.abs(pictures[0].astype(int) - pictures[1])
    assert 0 < difference.mean() < 4  # edges only
    assert column(pictures[1], 0) == pytest.approx(column(pictures[0], 0), abs=1)


def test_a_model_that_was_edited_is_drawn_anew(artist: OffscreenRenderer) -> None:
    scene, state = balls(), np.zeros((1, 1))
    (before,) = artist.frames(scene, state)
    scene.model.geom_rgba[0] = (0, 1, 0, 1)
    (after,) = artist.frames(scene, state)
    assert (before[..., 0] > 128).any() and not (after[..., 0] > 128).any()


def test_rows_filled_up_with_zeros_are_understood(artist: OffscreenRenderer) -> None:
    wide = np.concatenate([moving(2), np.zeros((2, 5))], axis=1)
    for plain, padded in zip(
        list(artist.frames(balls(), moving(2))), artist.frames(balls(), wide), strict=True
    ):
        np.testing.assert_array_equal(plain, padded)


def test_an_unknown_camera_is_named_at_once(artist: OffscreenRenderer) -> None:
    with pytest.raises(UserError, match=r"no camera heads.*heads up, heads down\. Did you mean"):
        artist.frames(balls(), moving(1), camera="heads")


# -- processes -------------------------------------------------------------------------------------


def test_an_iteration_can_be_left_and_another_begun(artist: OffscreenRenderer) -> None:
    left = artist.frames(balls(), moving(40))
    next(left)
    again = list(artist.frames(balls(), moving(3), camera="heads down"))
    assert np.diff([column(picture, 0) for picture in again]).min() > 0
    with pytest.raises(RuntimeError, match="other states"):
        next(left)


def test_a_worker_that_dies_is_an_error(artist: OffscreenRenderer) -> None:
    frames = artist.frames(balls(), moving(100))
    next(frames)
    artist._workers[0]._process.kill()
    with pytest.raises(UserError, match="was killed by SIGKILL"):
        list(frames)
    with pytest.raises(ValueError, match="closed"):
        artist.frames(balls(), moving(1))


def test_a_worker_that_hangs_is_an_error(
    artist: OffscreenRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = artist.frames(balls(), moving(100))
    next(frames)
    monkeypatch.setattr(renderer, "PATIENCE", 1.0)
    for worker in artist._workers:
        os.kill(worker._process.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="did not answer for 1 s"):
        list(frames)


def test_a_back_end_that_does_not_exist_says_so() -> None:
    with (
        OffscreenRenderer(backend="nonsense") as artist,
        pytest.raises(UserError, match="exit code 1, saying: RuntimeError: invalid value for"),
    ):
        list(artist.frames(balls(), moving(1)))


def test_many_videos_leave_nothing_behind(backend: str) -> None:
    def once() -> None:
        with OffscreenRenderer(width=64, height=48, backend=backend, num_workers=1) as artist:
            for _ in range(10):
                assert len(list(artist.frames(balls(), moving(5)))) == 5
                pids.append(artist._workers[0]._process.pid)

    pids: list[int] = []
    once()
    files, memory = open_files(), resident_mb("self")
    for _ in range(3):
        once()
    assert open_files() == files
    assert resident_mb("self") < memory + 10
    assert len(set(pids)) == 4
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_worker_does_not_grow(backend: str) -> None:
    with OffscreenRenderer(width=64, height=48, backend=backend, num_workers=1) as artist:
        sizes = []
        for number in range(24):
            scene = balls()
            scene.model.geom_rgba[0, 1] = number / 24  # another model, so everything is rebuilt
            assert len(list(artist.frames(scene, moving(2)))) == 2
            sizes.append(resident_mb(artist._workers[0]._process.pid))
    assert sizes[-1] < sizes[8] + 10


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_mb(pid: int | str) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def test_workers_do_not_import_torch() -> None:
    """The import would cost each of them seconds and 300 MB."""
    check = "import sys, metarl.visual.rendering.worker; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


# -- finding out -----------------------------------------------------------------------------------


def test_the_first_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(backends, "BACKENDS", ("egl", "osmesa", "glfw"))
    monkeypatch.setattr(backends, "probe", lambda name, patience: Probe(name != "egl", "broken"))
    assert find_backend() == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert find_backend() == "glfw"
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(UserError, match=r"MUJOCO_GL=egl does not work here \(egl: broken\)"):
        find_backend()
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(UserError, match="switches rendering off"):
        find_backend()


def test_where_nothing_draws_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(backends, "probe", lambda name, patience: Probe(False, f"no {name}"))
    with pytest.raises(UserError, match=r"osmesa: no osmesa.*libosmesa6.*metarl\.doctor"):
        find_backend()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "crashes with SIGABRT"),
        ("import time; time.sleep(60)", "does not answer in 1.5 s"),
        ("print('no driver'); raise SystemExit(1)", "no driver"),
        ("raise OSError('no such library')", "OSError: no such library"),
    ],
)
def test_a_driver_may_do_anything(
    monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    monkeypatch.setattr(backends, "command", lambda *_: [sys.executable, "-c", program])
    started = time.monotonic()
    assert probe(f"test: {reason}", 1.5) == Probe(works=False, reason=reason)
    assert time.monotonic() - started < 10


def test_what_this_process_chose_does_not_bind_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing mujoco with one back end prevents PyOpenGL from using another."""
    monkeypatch.setenv("PYOPENGL_PLATFORM", "egl")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert "PYOPENGL_PLATFORM" not in environment("osmesa")
    assert environment("osmesa")["MUJOCO_GL"] == "osmesa"
