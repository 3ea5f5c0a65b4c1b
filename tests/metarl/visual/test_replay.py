"""The replay page: real geometry and recorded poses, shown in a real browser."""

import base64
import gzip
import http.client
import io
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from PIL import Image

from envs.locomotion import LocomotionConfig
from envs.metaworld import MetaWorld
from metarl.errors import UserError
from metarl.rollout.recording import Episode, Recording
from metarl.rollout.scene import Scene
from metarl.visual.replay import live, live_server, write_replay
from metarl.visual.replay.geometry import PLANE_SIZE, describe
from metarl.visual.replay.page import FRAME_TIME
from tests.browser import LAPTOP, PHONE, fits_its_width, needs_browser, opened

HORIZON = 60


def played(distribution, *, row: int = 0, episodes: int = 2) -> tuple[Scene, Recording]:
    """Episodes of random actions on a held-out task; the last one succeeds at step 30."""
    env, task = distribution.make_env(1), distribution.test[row]
    states: list[np.ndarray] = []
    env.set_tasks([task])
    env.record(lambda every: states.append(every[0].copy()))
    env.reset(seed=0)
    rng = np.random.default_rng(row)
    rewards = []
    for _ in range(episodes * distribution.horizon):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        rewards.append(env.step(action)[1][0])
    reward = np.reshape(rewards, (episodes, -1))
    success = np.zeros(reward.shape, bool)
    success[-1, 29:] = True
    kept = [
        Episode(before=5 * k, states=states[k], reward=reward[k], success=success[k])
        for k in range(episodes)
    ]
    return env.scene(task), Recording(env_name=task.env_name, task=row, episodes=kept)


@pytest.fixture(scope="module")
def reach() -> tuple[Scene, Recording]:
    return played(MetaWorld("ML1-reach-v3", num_goals=2, horizon=HORIZON))


@pytest.fixture(scope="module")
def cheetah() -> tuple[Scene, Recording]:
    return played(LocomotionConfig(variant="HalfCheetah-vel-maml", horizon=HORIZON).build())


def content_of(page: Path) -> dict:
    packed = re.search(r'id="content">([^<]*)<', page.read_text())
    assert packed
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def vertices(mesh: dict) -> np.ndarray:
    place = array(mesh["positions"], "u2").reshape(-1, 3) / 65535
    return np.array(mesh["low"]) + place * np.array(mesh["span"])


SHAPES = {  # MJCF, and half the extent along each axis
    "sphere": ('type="sphere" size=".2"', (0.2, 0.2, 0.2)),
    "capsule": ('type="capsule" size=".1 .3"', (0.1, 0.1, 0.4)),
    "cylinder": ('type="cylinder" size=".1 .3"', (0.1, 0.1, 0.3)),
    "ellipsoid": ('type="ellipsoid" size=".1 .2 .3"', (0.1, 0.2, 0.3)),
    "box": ('type="box" size=".1 .2 .3"', (0.1, 0.2, 0.3)),
    "plane": ('type="plane" size="1 0 .1"', (1.0, PLANE_SIZE, 0.0)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_their_size_and_face_outwards(shape: str) -> None:
    text, half = SHAPES[shape]
    xml = f"<mujoco><worldbody><geom {text}/></worldbody></mujoco>"
    (mesh,) = describe(mujoco.MjModel.from_xml_string(xml))["meshes"]
    corners = vertices(mesh)
    np.testing.assert_allclose(np.abs(corners).max(0), half, atol=0.01 * max(half))
    normals = array(mesh["normals"], "i1").reshape(-1, 3) / 127
    triangles = array(mesh["triangles"], "u2").reshape(-1, 3)
    a, b, c = (corners[triangles[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    real = np.linalg.norm(across, axis=1) > 1e-9  # at the poles triangles are degenerate
    assert ((across * normals[triangles].mean(1)).sum(1)[real] != 0).all()
    if shape != "plane":
        assert (normals * corners).sum(1).min() > -1e-2, "normals point away from the middle"


def test_meshes_are_the_models_own(reach) -> None:
    model = reach[0].model
    described = describe(model)
    geom = int(np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)[0])
    mesh = int(model.geom_dataid[geom])
    start = model.mesh_vertadr[mesh]
    own = model.mesh_vert[start : start + model.mesh_vertnum[mesh]]
    place = np.round(model.geom_pos[geom], 5).tolist()
    part = next(p for p in described["drawn"] if p["position"] == place)
    shown = vertices(described["meshes"][part["mesh"]])
    np.testing.assert_allclose(shown.min(0), own.min(0), atol=1e-4)
    np.testing.assert_allclose(shown.max(0), own.max(0), atol=1e-4)
    assert len(array(described["meshes"][part["mesh"]]["triangles"], "u2")) == (
        3 * model.mesh_facenum[mesh]
    )


def test_the_page_holds_the_recorded_places(reach, tmp_path: Path) -> None:
    scene, recording = reach
    write_replay(tmp_path / "replay.html", [reach, reach], title="twice")
    content = content_of(tmp_path / "replay.html")
    assert len(content["tasks"]) == 2
    single = len(describe(scene.model)["meshes"])
    assert len(content["meshes"]) == single, "scenes share equal meshes"
    episode = content["tasks"][0]["episodes"][1]
    every = round(FRAME_TIME / scene.dt)
    assert episode["every"] == every
    still = array(episode["still"], "f4").reshape(-1, 7)
    moving = array(episode["poses"], "f4").reshape(-1, len(episode["moving"]), 7)
    assert len(moving) == HORIZON // every + 1
    data = mujoco.MjData(scene.model)
    for frame in (0, 7, len(moving) - 1):
        scene.show(data, recording.episodes[1].states[frame * every])
        places = still.copy()
        places[episode["moving"]] = moving[frame]
        np.testing.assert_allclose(places[: scene.model.nbody, :3], data.xpos, atol=6e-6)
        np.testing.assert_allclose(places[scene.model.nbody :, :3], data.cam_xpos, atol=6e-6)
    np.testing.assert_array_equal(
        array(episode["reward"], "f4"), recording.episodes[1].reward.astype("f4")
    )


def settle(page, *, step: int) -> None:
    page.wait_for_function("window.replay && window.replay.episode")
    page.evaluate(f"replay.playing = false; replay.step = {step}")
    page.wait_for_function(f"document.querySelector('#left').innerText.includes('step {step} of')")
    page.wait_for_timeout(100)


def picture(page) -> np.ndarray:
    shot = page.locator("#view").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(LAPTOP, False), (PHONE, True)])
def test_a_browser_shows_episodes_offline(reach, cheetah, tmp_path, size, dark) -> None:
    page_file = tmp_path / "replay.html"
    write_replay(page_file, [reach, cheetah], title="two scenes")
    with opened(page_file.as_uri(), size=size, dark=dark) as page:
        settle(page, step=29)
        caption = page.inner_text("#left")
        total = reach[1].episodes[1].reward[:29].sum()
        assert "reach-v3, task 0" in caption and f"return {total:.1f}" in caption
        assert "after 5 episodes of experience" in caption and "no success yet" in caption
        before = picture(page)
        settle(page, step=30)
        assert "✓ success" in page.inner_text("#left")
        settle(page, step=HORIZON)
        moved = np.abs(picture(page) - before).max(2) > 30
        assert 0.0005 < moved.mean() < 0.5, "the arm moves, and the room stays"
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(20, 23, 28)") == dark
        assert fits_its_width(page)
        # pickers
        page.select_option("#episode", "0")
        settle(page, step=10)
        assert "after 0 episodes of experience" in page.inner_text("#left")
        page.select_option("#task", "1")
        page.check("#beside")
        settle(page, step=20)
        assert "HalfCheetah-vel-maml" in page.inner_text("#right")
        named = picture(page)
        page.mouse.move(200, 300)
        page.mouse.down()
        page.mouse.move(260, 330)
        page.mouse.up()
        assert page.input_value("#camera") == "free"
        page.wait_for_timeout(100)
        assert (np.abs(picture(page) - named).max(2) > 30).mean() > 0.01, "the mouse turns it"
        # time
        page.evaluate("replay.step = 0; replay.playing = true")
        page.wait_for_function("replay.step > 5")
        page.keyboard.press("Space")
        assert page.evaluate("replay.playing") is False


@needs_browser
def test_the_browser_shows_what_mujocos_renderer_shows(reach, tmp_path: Path) -> None:
    """The arm covers the same pixels, seen by the same camera."""
    from metarl.visual.rendering.renderer import OffscreenRenderer

    page_file = tmp_path / "replay.html"
    write_replay(page_file, [reach], title="reach")
    with opened(page_file.as_uri(), size=(900, 760)) as page:
        settle(page, step=40)
        shot = picture(page)[:, :]
    scene, recording = reach
    height, width = shot.shape[:2]
    try:
        renderer = OffscreenRenderer(width=width, height=height, num_workers=1)
    except UserError as error:
        pytest.skip(str(error))
    with renderer:
        (official,) = renderer.frames(scene, recording.episodes[1].states[40:41])

    def arm(pixels: np.ndarray) -> np.ndarray:
        red, green = pixels[..., 0].astype(int), pixels[..., 1].astype(int)
        return (red > 50) & (red > 3 * green)

    ours, theirs = arm(shot), arm(official)
    assert theirs.mean() > 0.01
    shared = (ours & theirs).sum() / (ours | theirs).sum()
    assert shared > 0.85, shared


@needs_browser
def test_live_plays_trial_after_trial(cheetah, tmp_path: Path) -> None:
    scene, recording = cheetah
    asked = 0

    def next_trial() -> tuple[Scene, Recording]:
        nonlocal asked
        asked += 1
        return scene, Recording(env_name="run", task=asked, episodes=recording.episodes[:1])

    server = live_server(next_trial, title="live", port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/"
        with opened(address) as page:
            page.wait_for_function("window.replay && replay.tasks.length >= 2")
            page.wait_for_function("left.innerText.includes('run, task 1')")  # once drawn
            page.select_option("#speed", "4")
            page.wait_for_function("replay.task.task >= 2", timeout=20_000)
            # Hours later, old trials are gone, also from graphics memory.
            page.evaluate("replay.playing = false")  # otherwise it requests trials itself
            for trial in range(3, 14):
                page.evaluate("replay.chooseTask(replay.tasks.length - 1)")
                page.wait_for_function(f"replay.tasks.at(-1).task >= {trial}")
                page.wait_for_timeout(60)  # time to draw, which loads its meshes
            assert page.evaluate("replay.tasks.length") == 8
            assert page.evaluate("replay.painter.loaded.size") <= 8
            meshes = page.evaluate("new Set(replay.task.scene.drawn.map((p) => p.mesh)).size")
            assert page.evaluate("replay.painter.meshes.size") <= 8 * meshes
            assert page.evaluate("replay.painter.gl.getError()") == 0
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + "etc/passwd")
        with pytest.raises(UserError, match=r"port \d+: .*--port"):
            live_server(next_trial, title="second", port=server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def test_what_stops_a_live_agent_ends_the_server_in_one_line(capsys) -> None:
    def next_trial() -> tuple[Scene, Recording]:
        raise UserError("the checkpoint is gone")

    server = live_server(next_trial, title="live", port=0)
    failures: list[str] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/next")
        except urllib.error.HTTPError as error:
            failures.append(str(error.code))

    asking = threading.Thread(target=ask)
    with server, pytest.raises(UserError, match="the checkpoint is gone"):
        asking.start()
        server.serve()
    asking.join(timeout=10)
    assert failures == ["500"], "the page hears of it"
    assert capsys.readouterr() == ("", ""), "no traceback"


@pytest.fixture
def served():
    """A live server in a thread, which plays nothing."""

    def next_trial() -> tuple[Scene, Recording]:
        raise AssertionError("nothing here asks for a trial and may")

    server = live_server(next_trial, title="live", port=0)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)
    assert not thread.is_alive()


def status(server, path: str, headers: list[tuple[str, str]]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers:
        connection.putheader(name, value.format(port=server.server_port))
    connection.endheaders()
    code = connection.getresponse().status
    connection.close()
    return code


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/", [("Host", "127.0.0.1:{port}")], 200),
        ("/", [("Host", "LOCALHOST:9999"), ("Origin", "http://localhost:9999")], 200),
        ("/", [("Host", "[::1]:{port}"), ("Sec-Fetch-Site", "cross-site")], 200),  # a link to it
        ("/../../etc/passwd", [("Host", "localhost")], 404),
        ("/", [], 403),
        ("/", [("Host", "rebound.example:{port}")], 403),
        ("/", [("Host", "127.0.0.1.rebound.example")], 403),
        ("/", [("Host", "localhost"), ("Host", "rebound.example")], 403),
        ("/next", [("Host", "localhost:{port}"), ("Origin", "http://page.example")], 403),
        ("/next", [("Host", "localhost:{port}"), ("Origin", "http://localhost:3000")], 403),
        ("/next", [("Host", "localhost:{port}"), ("Origin", "null")], 403),
        ("/next", [("Host", "localhost:{port}"), ("Sec-Fetch-Site", "cross-site")], 403),
    ],
)  # fmt: skip
def test_live_answers_only_its_own_page(served, path, headers, expected) -> None:
    """Other pages can reach the port too, by a domain name that points here or by guessing."""
    assert status(served, path, headers) == expected


def test_silent_connections_are_few_and_short(served, monkeypatch) -> None:
    """Neither many connections at once nor slow ones block others from the page."""
    address = ("127.0.0.1", served.server_port)
    silent = [socket.create_connection(address) for _ in range(4 * live.MAX_CONNECTIONS)]
    assert status(served, "/", [("Host", "localhost")]) == 200
    assert len(served._held) <= live.MAX_CONNECTIONS
    handlers = [t for t in threading.enumerate() if "process_request_thread" in t.name]
    assert len(handlers) <= 2 * live.MAX_CONNECTIONS
    monkeypatch.setattr(live, "ASK_SECONDS", 0.1)
    slow = socket.create_connection(address)
    slow.settimeout(10)
    slow.sendall(b"GET / HTTP/1.1\r\nHost: local")
    assert slow.recv(1) == b"", "closed"
    for connection in [*silent, slow]:
        connection.close()
    assert status(served, "/", [("Host", "localhost")]) == 200


@needs_browser
@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_agents_are_shown_side_by_side(cheetah, tmp_path, size) -> None:
    """Two agents on two tasks, with names too long for half of a phone's screen."""
    scene, recording = cheetah
    names = ("an_agent_with_a_name_that_goes_on_and_on_and_on", "other")
    shown = [
        (scene, replace(recording, task=task, agent=name)) for task in (3, 7) for name in names
    ]
    write_replay(tmp_path / "replay.html", shown, title="two agents")
    with opened((tmp_path / "replay.html").as_uri(), size=size) as page:
        settle(page, step=29)
        left, right = (page.locator(f"#captions div:nth-child({k})") for k in (1, 2))
        assert names[0] in left.inner_text() and names[1] in right.inner_text()
        assert all("task 3" in one.inner_text() for one in (left, right))
        boxes = left.bounding_box(), right.bounding_box()
        assert boxes[0]["x"] + boxes[0]["width"] <= size[0] / 2 <= boxes[1]["x"]
        assert fits_its_width(page)
        assert page.inner_text("#task option:nth-child(3)") == (
            f"HalfCheetah-vel-maml, task 7: succeeds ({names[0]})"
        )
        page.check("#beside")
        settle(page, step=10)
        assert "after 0 episodes" in left.inner_text() and names[0] in right.inner_text()
        page.uncheck("#beside")
        settle(page, step=11)
        assert not right.is_visible()
