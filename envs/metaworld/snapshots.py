"""Cached snapshots of official resets, from which all episodes of a task start.

For a fixed task the official `reset()` is deterministic, so a single snapshot is enough. The
official environment stays the only source of scenes, goals, resets and constants.
"""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see into mujoco's C code.

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np

from envs.engine.batch import SharedModel, Snapshot
from envs.metaworld.official import MetaWorldTask, make_official_env, set_official_task
from envs.metaworld.tasks import TASK_CLASSES
from envs.metaworld.tasks.interface import (
    ACTION_SCALE,
    EXTRA_CONSTANTS,
    FRAME_SIZE,
    MOCAP_HIGH,
    MOCAP_LOW,
    START_ATTRIBUTES,
    TaskCode,
)
from metarl.rollout import scene as drawing
from metarl.system.cache import cache_folder, read_arrays, write_arrays

EDITED = ("body_pos", "site_pos")  # the only arrays of mjModel that the 50 official resets change
FIELDS = ("state", "edits", "constants", "memory", "obs")
CAMERA = "corner2"
MOCAP_QUAT = (1.0, 0.0, 1.0, 0.0)  # every official step sets it; constant after a reset


class Official(NamedTuple):
    """An official environment, its scene, and its snapshots in memory, by goal."""

    env: object
    scene: SharedModel
    known: dict[bytes, Snapshot]


@cache
def official(env_name: str) -> Official:
    """Official environment of a class, and its scene with the readings of the task's code."""
    env = make_official_env(env_name)
    readings = [source.reading(env.model) for source in TASK_CLASSES[env_name].sources()]
    return Official(env, SharedModel(env.model, EDITED, readings), {})


def take_snapshot(env, scene: SharedModel, task: MetaWorldTask) -> Snapshot:
    """Snapshot of the state right after the official reset to a task."""
    code = TASK_CLASSES[task.env_name]
    set_official_task(env, task)
    obs, _ = env.reset()
    late = [name for name in code.constants if getattr(env, name) is None]
    if late:  # bin-picking: the first step sets it, to the same value for any action
        env.step(np.zeros(4, dtype=np.float32))
        fixed = {name: getattr(env, name) for name in late}
        obs, _ = env.reset()
        for name, value in fixed.items():
            setattr(env, name, value)  # until the next reset
    if not np.array_equal(env.data.mocap_quat, [MOCAP_QUAT]):
        raise RuntimeError(f"{task.env_name}: the reset left the mocap body turned")
    return scene.snapshot(
        env.model,
        env.data,
        constants=_constants(env, code),
        memory=obs[:FRAME_SIZE],
        obs=obs,
    )


def _constants(env, code: TaskCode) -> np.ndarray:
    """Values fixed by the reset, in the layout of the task's compiled code (C,)."""
    extra = [_extra_constant(env, name) for name in code.constants]
    constants = np.full(EXTRA_CONSTANTS, np.nan)
    for name, start in START_ATTRIBUTES.items():
        value = getattr(env, name, None)
        if value is not None and np.shape(value) == (3,) and not _moves(value, env.data):
            constants[start : start + 3] = value
    constants[MOCAP_LOW : MOCAP_LOW + 3] = env.mocap_low
    constants[MOCAP_HIGH : MOCAP_HIGH + 3] = env.mocap_high
    constants[ACTION_SCALE] = env.action_scale
    return np.concatenate([constants, *extra])


def _extra_constant(env, name: str) -> np.ndarray:
    value = getattr(env, name)
    if _moves(value, env.data):
        raise ValueError(f"{name} is a view into mjData: it moves, so read it as a reading")
    numbers = np.ravel(np.asarray(value, dtype=np.float64))
    if not np.isfinite(numbers).all():
        raise ValueError(f"{type(env).__name__}.{name} is {value}: the reset did not fix it")
    return numbers


def _moves(value, simulation: mujoco.MjData) -> bool:
    """True if an attribute is a view of the simulation, which changes with every step."""
    arrays = ("xpos", "xquat", "xmat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "qpos")
    return isinstance(value, np.ndarray) and any(
        np.shares_memory(value, getattr(simulation, array)) for array in arrays
    )


def snapshots(tasks: Sequence[MetaWorldTask]) -> list[Snapshot]:
    """Snapshot of each task, from the cache on disk if it was taken before."""
    for env_name in dict.fromkeys(task.env_name for task in tasks):
        _take_missing(env_name, [t for t in tasks if t.env_name == env_name])
    return [official(task.env_name).known[_goal(task)] for task in tasks]


def drawn_scene(task: MetaWorldTask) -> drawing.Scene:
    """Scene for a task's recordings."""
    (snapshot,) = snapshots([task])
    env, scene, _ = official(task.env_name)
    return drawing.Scene(model=scene.edited_model(snapshot.edits), camera=CAMERA, dt=env.dt)


def _goal(task: MetaWorldTask) -> bytes:
    return np.asarray(task.rand_vec, dtype=np.float64).tobytes()


def _take_missing(env_name: str, tasks: Sequence[MetaWorldTask]) -> None:
    env, scene, known = official(env_name)
    if all(_goal(task) in known for task in tasks):
        return
    path = cache_folder() / "snapshots" / f"{env_name}-{_stamp(TASK_CLASSES[env_name])}.npz"
    for goal, snapshot in _read(path).items():
        known.setdefault(goal, snapshot)
    missing = {_goal(task): task for task in tasks if _goal(task) not in known}
    for goal, task in missing.items():
        known[goal] = take_snapshot(env, scene, task)
    if missing:
        _write(path, known)


def _stamp(code: TaskCode) -> str:
    """Hash of everything that a cached snapshot depends on."""
    versions = (version("metaworld"), mujoco.__version__)
    digest = hashlib.sha256(repr((versions, code.constants, EDITED)).encode())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> dict[bytes, Snapshot]:
    fields = read_arrays(path)
    if fields is None or not {"goals", *FIELDS} <= fields.keys():
        return {}
    return {
        goal.tobytes(): Snapshot(**{name: fields[name][k] for name in FIELDS})
        for k, goal in enumerate(fields["goals"])
    }


def _write(path: Path, known: dict[bytes, Snapshot]) -> None:
    columns = {name: np.stack([getattr(s, name) for s in known.values()]) for name in FIELDS}
    write_arrays(path, {"goals": np.stack([np.frombuffer(goal) for goal in known]), **columns})
