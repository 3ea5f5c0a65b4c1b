"""Observation and reward on made-up states, which no play reaches.

Positions, rotations and the grip are written into the official `mjData`; then the official
`evaluate_state` and the native callback are called on the same numbers. No physics is involved.
"""

import ctypes
import itertools
import zlib
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs.metaworld.native import compiled_observe
from envs.metaworld.official import make_official_env, set_official_task
from envs.metaworld.snapshots import snapshots
from envs.metaworld.tasks import TASK_CLASSES
from envs.metaworld.tasks.interface import (
    MAX_CONSTANTS,
    OBS_SIZE,
    OUTCOME_SIZE,
    Outcome,
    Source,
    TouchForce,
)
from tests.envs.parity import TOLERANCE, official_tasks

STATES = 400
SINGLE = {
    f"{name}-v3"
    for name in (
        *("assembly", "basketball", "bin-picking", "coffee-pull", "coffee-push", "dial-turn"),
        *("disassemble", "drawer-close", "hammer", "hand-insert", "handle-pull"),
        *("handle-pull-side", "peg-insert-side", "peg-unplug-side", "pick-out-of-hole"),
        *("pick-place", "pick-place-wall", "push", "push-wall", "shelf-place", "stick-pull"),
        "stick-push",
    )
}
"""Tasks in which some official results are float32, as they depend on the grip."""
GRIPS = (-1.0, 0.0, 1e-3, 0.3, 0.6999, 0.7, 1.0, 1.7)  # with thresholds of the rewards
PAD_GAPS = (0.004, 0.009, 0.014, 0.0155, 0.022, 0.03, 0.042, 0.045, 0.06)  # pad to object, metres
OPENINGS = (0.0, 0.02, 0.03, 0.045, 0.06)  # half the distance between the fingers
UPRIGHT = (
    (1.0, 0.0, 0.0, 0.0),
    (0.707, 0.0, 0.0, 0.707),
)  # rotations that rewards check
CALLBACK = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)


@dataclass
class Seen:
    """Counts of special states in a comparison."""

    worst: dict[str, float] = field(default_factory=dict)
    single: int = 0
    """States with a float32 in the official result, which depends on the grip."""
    refused: int = 0
    """States for which the official environment raises an error."""
    rewards: set[int] = field(default_factory=set)

    def note(self, name: str, ours: float, theirs: float) -> None:
        apart = abs(ours - theirs)
        self.worst[name] = max(self.worst.get(name, 0.0), np.inf if np.isnan(apart) else apart)


class Crafted:
    """An official environment with made-up states."""

    def __init__(self, env_name: str, rng: np.random.Generator):
        self._rng = rng
        self._sources = TASK_CLASSES[env_name].sources()
        (task,) = official_tasks(env_name, seed=int(rng.integers(2**31)), count=1)
        self.env = make_official_env(env_name)
        set_official_task(self.env, task)
        self.env.reset()
        self.env.step(np.zeros(4, dtype=np.float32))  # sets the last constants of the episode
        self.start = snapshots([task])[0]
        self._target = np.array(self.env._target_pos, dtype=np.float64)
        self._centres = [self._target, np.array(self.env.obj_init_pos), np.array(self.env.init_tcp)]
        corners = [self._view(s).copy() for s in self._sources if _fixed(s)]
        self._centres += [(a + b) / 2.0 for a, b in itertools.pairwise(corners)]
        self._touches = False
        # called for the main object; it only returns this value
        self.env.touching_object = lambda geom: self._touches

    def _near(self, point: np.ndarray, *spreads: float) -> np.ndarray:
        return point + self._rng.normal(0.0, self._rng.choice(spreads), 3)

    def _view(self, source) -> np.ndarray:
        """Writable view of the numbers in `mjData` that a source reads."""
        reading = source.reading(self.env.model)
        flat = getattr(self.env.data, reading.array).reshape(-1)
        return flat[reading.start : reading.start + reading.size]

    def craft(self) -> np.ndarray:
        """Write a new state; return its readings as the native callback gets them."""
        rng = self._rng
        obj = self._near(self._centres[rng.integers(len(self._centres))], 0.0, 0.01, 0.05, 0.2)
        if rng.random() < 0.5:
            obj[2] = abs(obj[2])
        tcp = self._near(obj, 0.001, 0.005, 0.02, 0.1)
        if rng.random() < 0.2:
            tcp[0] += 0.015  # a stick is held off its centre
        other = self._near((self._target, obj)[rng.integers(2)], 0.02, 0.1)
        other[1] -= rng.choice((0.0, 0.09))
        half = np.array([0.0, rng.choice(OPENINGS) + rng.normal(0.0, 0.002), 0.0])
        gaps = rng.choice(PAD_GAPS, 2) + rng.normal(0.0, 0.002, 2)
        known = {
            "hand": tcp + np.array([0.0, 0.0, 0.05]),
            "rightclaw": tcp - half,
            "leftclaw": tcp + half,
            "rightEndEffector": tcp - half,
            "leftEndEffector": tcp + half,
            "leftpad": obj + np.array([0.0, gaps[0], 0.0]),
            "rightpad": obj - np.array([0.0, gaps[1], 0.0]),
            "insertion": other,
            "bin_goal": other,
            "stick_end": self._near(other, 0.04),
        }
        self._touches = bool(rng.random() < 0.7)
        for source in self._sources:
            if isinstance(source, TouchForce) or _fixed(source):
                continue
            view = self._view(source)
            if source.size == 3:
                view[:] = known.get(source.name, obj)
            elif source.size == 1:
                view[:] = rng.normal()
            else:
                turned = rng.normal(
                    UPRIGHT[rng.integers(len(UPRIGHT))], rng.choice((0.05, 0.3, 1.0))
                )
                turned /= np.linalg.norm(turned)
                view[:] = turned if source.size == 4 else Rotation(turned).as_matrix().ravel()
        forces = iter((1.0, float(self._touches)) if rng.random() < 0.5 else (self._touches, 1.0))
        return np.concatenate(
            [
                [next(forces)] if isinstance(source, TouchForce) else self._view(source)
                for source in self._sources
            ],
            dtype=np.float64,
        )

    def action(self) -> np.ndarray:
        """A random action, often with a grip at a threshold."""
        action = self._rng.uniform(-1.0, 1.0, 4)
        if self._rng.random() < 0.6:
            action[3] = self._rng.choice(GRIPS)
        elif self._rng.random() < 0.5:
            action[3] = abs(action[3])
        return action.astype(np.float32)


def _fixed(source) -> bool:
    """True for corners of the box that pegs go into, which never moves."""
    return isinstance(source, Source) and "corner" in source.name


def compare_crafted(env_name: str, states: int) -> Seen:
    """Compare both engines on made-up states of a task."""
    crafted, seen = Crafted(env_name, np.random.default_rng(zlib.crc32(env_name.encode()))), Seen()
    env, space = crafted.env, crafted.env.sawyer_observation_space
    compiled = compiled_observe(env_name)
    observe = CALLBACK(compiled.address)
    constants = np.full(MAX_CONSTANTS, np.nan)
    constants[: len(crafted.start.constants)] = crafted.start.constants
    obs, outcome = np.zeros(OBS_SIZE), np.zeros(OUTCOME_SIZE)
    for _ in range(states):
        readings, action = crafted.craft(), crafted.action()
        memory = np.array(env._prev_obs, dtype=np.float64)
        official_obs = np.clip(env._get_obs(), space.low, space.high)
        try:
            reward, info = env.evaluate_state(official_obs, action)
        except (AssertionError, ValueError):
            seen.refused += 1
            continue
        arrays = (readings, constants, action, memory, obs, outcome)
        observe(*(array.ctypes.data for array in arrays))
        seen.note("obs", float(np.abs(obs - official_obs).max()), 0.0)
        for name, ours in zip(Outcome._fields, outcome, strict=True):
            seen.note(name, float(ours), float(reward if name == "reward" else info[name]))
        seen.single += any(isinstance(x, np.float32) for x in (reward, *info.values()))
        seen.rewards.add(round(float(reward)))
    return seen


@pytest.mark.parametrize("env_name", TASK_CLASSES)
def test_same_as_official_on_crafted_states(env_name: str) -> None:
    seen = compare_crafted(env_name, STATES)
    assert max(seen.worst.values()) <= TOLERANCE, seen
    assert seen.refused < STATES / 2
    assert (seen.single > 0) == (env_name in SINGLE), seen
