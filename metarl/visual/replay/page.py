"""Writing of recordings into one self-contained HTML file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import mujoco
import numpy as np

from metarl.rollout.recording import Episode, Recording
from metarl.rollout.scene import Scene
from metarl.system.files import written_whole
from metarl.visual.replay.geometry import describe, encode, poses

HERE = Path(__file__).parent
FRAME_TIME = 0.025  # seconds between frames; the browser interpolates


def write_replay(path: Path, shown: Sequence[tuple[Scene, Recording]], *, title: str) -> None:
    """Writes a page that plays recordings, beginning with the first."""
    with written_whole(path) as partial:
        partial.write_text(replay_page(shown, title=title), encoding="utf-8")


def replay_page(shown: Sequence[tuple[Scene, Recording]], *, title: str, live: bool = False) -> str:
    """The page as text; a live page asks its server for further trials."""
    content = {**contents(shown), "live": live}
    text = json.dumps(content, separators=(",", ":"))
    packed = gzip.compress(text.encode(), 6, mtime=0)  # the same content gives the same file
    template = jinja2.Template((HERE / "viewer.html").read_text(encoding="utf-8"), autoescape=True)
    return template.render(
        title=title,
        script=(HERE / "viewer.js").read_text(encoding="utf-8"),
        style=(HERE / "viewer.css").read_text(encoding="utf-8"),
        content=base64.b64encode(packed).decode(),
    )


def contents(shown: Sequence[tuple[Scene, Recording]]) -> dict[str, Any]:
    """Recordings with their scenes, and the meshes that the scenes share."""
    tasks = [task_content(scene, recording) for scene, recording in shown]
    meshes: dict[str, int] = {}  # keys are JSON, so that equal meshes are found
    for task in tasks:
        own = [json.dumps(mesh) for mesh in task["scene"].pop("meshes")]
        for part in task["scene"]["drawn"]:
            part["mesh"] = meshes.setdefault(own[part["mesh"]], len(meshes))
    return {"tasks": tasks, "meshes": [json.loads(mesh) for mesh in meshes]}


def task_content(scene: Scene, recording: Recording) -> dict[str, Any]:
    """A scene and the episodes that were played in it."""
    return {
        "name": recording.env_name,
        "task": recording.task,
        "agent": recording.agent,
        "succeeded": recording.succeeded,
        "scene": describe(scene.model),
        "camera": scene.camera,
        "episodes": [episode_content(scene, episode) for episode in recording.episodes],
    }


def episode_content(scene: Scene, episode: Episode) -> dict[str, Any]:
    """Poses of an episode; poses of things that never move are stored once."""
    every = max(1, round(FRAME_TIME / scene.dt))
    data = mujoco.MjData(scene.model)  # pyright: ignore[reportAttributeAccessIssue]
    frames = []
    for state in [*episode.states[:-1:every], episode.states[-1]]:
        scene.show(data, state)
        frames.append(poses(scene.model, data))
    stack = np.round(np.stack(frames), 5)
    moving = np.flatnonzero((stack != stack[0]).any((0, 2)))
    return {
        "before": episode.before,
        "every": every,
        "dt": scene.dt,
        "still": encode(stack[0]),
        "moving": moving.tolist(),
        "poses": encode(stack[:, moving]),
        "reward": encode(episode.reward.astype(np.float32)),
        "success": encode(episode.success.astype(np.uint8)),
    }
