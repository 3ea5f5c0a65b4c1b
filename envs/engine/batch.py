"""MuJoCo scenes stepped in batches, in threads, by compiled code that calls MuJoCo's C library.

A slot holds its own `mjData` and a shallow copy of its scene's `mjModel`: the C struct alone
(5 kB), with the few arrays that tasks edit redirected to memory of its own. All between actions and
observations happens in one compiled function without the GIL; threads take slots as they go.

This module knows nothing of Meta-World. Two C callbacks say what a step means for a slot:

- `act(action float32*, constants float64*, mocap_pos float64*, ctrl float64*)` writes the controls;
- `observe(readings float64*, constants float64*, action float32*, memory float64*, obs float64*,
  outcome float64*)` turns what was read from `mjData` into an observation and scalars, of which the
  first is the reward. `memory` is what it carries from one step to the next.
"""

# pyright: reportAttributeAccessIssue=false
# Type checkers see nothing of mujoco's C code.

import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NamedTuple

import mujoco
import numpy as np
from numba.core.ccallback import CFunc

from envs.engine import stepping
from envs.engine.layout import struct_layout

STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value


class Reading(NamedTuple):
    """Numbers read from `mjData` after each step: `size` float64 of `array` from `start` on."""

    array: str
    start: int
    size: int

    def sources(self, simulation: mujoco.MjData) -> np.ndarray:
        """The addresses of the numbers."""
        first = getattr(simulation, self.array).ctypes.data
        return first + 8 * (self.start + np.arange(self.size))


class Touch(NamedTuple):
    """One number read after each step: how hard two geoms touch, in newtons.

    The sum, over their contacts, of the force of the contact's first constraint: the pressure for
    elliptic friction cones, one edge of the pyramid for pyramidal ones.
    """

    geom: int
    other: int
    size: int = 1

    def sources(self, simulation: mujoco.MjData) -> np.ndarray:
        """No address, as contacts have none that lasts: minus one number for both geoms."""
        return np.array([-(self.geom * stepping.TOUCH_BASE + self.other)])


@dataclass(frozen=True)
class Snapshot:
    """A moment that a slot can be set back to, and what is fixed from then on.

    Attributes:
        state: (S,) full integration state, `mjSTATE_INTEGRATION`.
        edits: (E,) the scene's edited model arrays, one after the other.
        constants: (C,) numbers for `act` and `observe`.
        memory: (M,) what `observe` carries from step to step, as it is at this moment.
        obs: (O,) the observation of this moment.
    """

    state: np.ndarray
    edits: np.ndarray
    constants: np.ndarray
    memory: np.ndarray
    obs: np.ndarray


class Scene:
    """A compiled MuJoCo model that many slots share, and what is read from it.

    Args:
        model: the compiled model; kept, never changed.
        edited: names of the float64 model arrays that snapshots set for their slot.
        readings: what `observe` gets, in this order.
    """

    def __init__(
        self, model: mujoco.MjModel, edited: Sequence[str], readings: Sequence[Reading | Touch]
    ):
        self.model = model
        self.edited = tuple(edited)
        self.readings = tuple(readings)
        self.state_size = mujoco.mj_stateSize(model, STATE)
        self.num_readings = sum(r.size for r in self.readings)
        struct = struct_layout("mjModel").from_address(model._address)
        for name in self.edited:
            if getattr(struct, name) != getattr(model, name).ctypes.data:
                raise RuntimeError(f"mjModel.{name} is not where mujoco.introspect says it is")

    def snapshot(
        self,
        model: mujoco.MjModel,
        simulation: mujoco.MjData,
        *,
        constants: np.ndarray,
        memory: np.ndarray,
        obs: np.ndarray,
    ) -> Snapshot:
        """The present of `simulation` and `model` (a model of this scene, edited)."""
        state = np.empty(self.state_size)
        mujoco.mj_getState(model, simulation, state, STATE)
        edits = [np.ravel(getattr(model, name)) for name in self.edited]
        return Snapshot(
            state=state,
            edits=np.concatenate(edits) if edits else np.empty(0),
            constants=np.array(constants, dtype=np.float64),
            memory=np.array(memory, dtype=np.float64),
            obs=np.array(obs, dtype=np.float64),
        )


class Batch:
    """N slots stepped together by `num_threads` threads, the caller's among them.

    A slot's result depends on its own snapshot and actions only: neither on the number of threads
    nor on its neighbours. A slot whose episode ends is set back to its snapshot at once.

    Args:
        num_slots: N.
        action_size, obs_size, outcome_size: A, O and the number of scalars that `observe` writes.
        num_substeps: calls of `mj_step` in a step; one `mj_forward` follows them.
        horizon: steps in an episode.
        num_threads: None for one per processor that this process may use.

    Attributes:
        obs: (N, O) what an agent acts on next: of the new episode where one has just ended.
        final_obs: (N, O) the true next observation of every slot.
        outcome: (N, outcome_size); the first is the reward.
        episode_end: (N,) bool.
        elapsed: (N,) steps taken in the episode.
        unstable_at: (N,) the step of the episode at which MuJoCo warned of instability, or 0. The
            slot then rests, with its last stable observation and an outcome of zeros, until its
            episode ends.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        action_size: int,
        obs_size: int,
        outcome_size: int,
        readings_size: int,
        num_substeps: int,
        horizon: int,
        num_threads: int | None = None,
    ):
        self.num_slots = num_slots
        self.num_threads = num_threads or _num_processors()
        self.obs = np.zeros((num_slots, obs_size))
        self.final_obs = np.zeros((num_slots, obs_size))
        self.outcome = np.zeros((num_slots, outcome_size))
        self.episode_end = np.zeros(num_slots, dtype=np.bool_)
        self.elapsed = np.zeros(num_slots, dtype=np.int64)
        self.unstable_at = np.zeros(num_slots, dtype=np.int64)
        self._actions = np.zeros((num_slots, action_size), dtype=np.float32)
        self._readings = np.zeros((num_slots, readings_size))
        self._sources = np.zeros((num_slots, readings_size), dtype=np.int64)
        self._table = np.zeros((num_slots, stepping.NUM_COLUMNS), dtype=np.int64)
        self._counters = np.full(16, num_slots)  # two counters, a cache line apart
        self._slots: list[_Slot | None] = [None] * num_slots
        self._spare: dict[Scene, list[_Slot]] = {}
        self._work = np.zeros(stepping.WORK_SIZE, dtype=np.int64)
        for column, array in (
            (stepping.CLAIMED, self._counters[0:]),
            (stepping.FINISHED, self._counters[8:]),
            (stepping.TABLE, self._table),
            (stepping.ACTIONS, self._actions),
            (stepping.OBS, self.obs),
            (stepping.FINAL_OBS, self.final_obs),
            (stepping.OUTCOME, self.outcome),
            (stepping.READINGS, self._readings),
            (stepping.SOURCES, self._sources),
            (stepping.ELAPSED, self.elapsed),
            (stepping.EPISODE_END, self.episode_end),
            (stepping.UNSTABLE_AT, self.unstable_at),
        ):
            self._work[column] = array.ctypes.data
        for column, size in (
            (stepping.NUM_SLOTS, num_slots),
            (stepping.ACTION_SIZE, action_size),
            (stepping.OBS_SIZE, obs_size),
            (stepping.OUTCOME_SIZE, outcome_size),
            (stepping.READINGS_SIZE, readings_size),
            (stepping.NUM_SUBSTEPS, num_substeps),
            (stepping.HORIZON, horizon),
        ):
            self._work[column] = size
        self._run = stepping.compiled_step().ctypes
        self._restart = stepping.compiled_restart().ctypes
        self._threads: list[threading.Thread] = []
        self._wake: SimpleQueue[bool] = SimpleQueue()

    def place(
        self, slot: int, scene: Scene, snapshot: Snapshot, act: CFunc, observe: CFunc
    ) -> None:
        """Give a slot a scene, a snapshot and callbacks; `restart` then starts its episode."""
        held = self._slots[slot]
        if held is None or held.scene is not scene:
            if held is not None:
                self._spare.setdefault(held.scene, []).append(held)
            spare = self._spare.get(scene)
            held = self._slots[slot] = spare.pop() if spare else _Slot(scene)
            # what lies beyond the scene's readings: a place that can be read; nobody looks at it
            self._sources[slot] = held.sources[0]
            self._sources[slot, : scene.num_readings] = held.sources
        held.fill(self._table[slot], snapshot, act, observe)

    def restart(self) -> None:
        """Start a new episode in every slot: `obs` becomes that of the snapshots."""
        self._restart(self._work.ctypes.data)

    def step(self, actions: np.ndarray) -> None:
        """Step every slot with its row of actions (N, A). Results stand in the attributes."""
        self._actions[:] = actions
        if self.num_threads > 1 and not self._threads:
            self._start_threads()
        for _ in self._threads:
            self._wake.put(True)
        self._run(self._work.ctypes.data, True)

    def close(self) -> None:
        """Stop the threads. The batch can still be stepped: it starts them again."""
        for _ in self._threads:
            self._wake.put(False)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _start_threads(self) -> None:
        for _ in range(min(self.num_threads, self.num_slots) - 1):
            thread = threading.Thread(
                target=_help, args=(self._wake, self._run, self._work), daemon=True
            )
            thread.start()
            self._threads.append(thread)


def _num_processors() -> int:
    """How many this process may use, where the system tells; else how many there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _help(wake: SimpleQueue, run, work: np.ndarray) -> None:
    """A thread's life: whenever woken, take slots until none is left."""
    while wake.get():
        run(work.ctypes.data, False)


class _Slot:
    """The memory of one slot: an `mjData`, a shallow `mjModel`, and its snapshot."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.simulation = mujoco.MjData(scene.model)
        self.sources = np.concatenate([r.sources(self.simulation) for r in scene.readings])
        struct = struct_layout("mjModel")
        self._struct = struct.from_buffer_copy(struct.from_address(scene.model._address))
        parts = [getattr(scene.model, name) for name in scene.edited]
        self._edits = np.concatenate([p.ravel() for p in parts]) if parts else np.empty(0)
        address = self._edits.ctypes.data
        for name, part in zip(scene.edited, parts, strict=True):
            setattr(self._struct, name, address)
            address += part.nbytes
        self._row = np.zeros(stepping.NUM_COLUMNS, dtype=np.int64)
        self._row[stepping.MODEL] = ctypes.addressof(self._struct)
        self._row[stepping.SIMULATION] = self.simulation._address
        self._row[stepping.WARNINGS] = self.simulation.warning.number.ctypes.data
        self._row[stepping.MOCAP_POS] = self.simulation.mocap_pos.ctypes.data
        self._row[stepping.CTRL] = self.simulation.ctrl.ctypes.data

    def fill(self, row: np.ndarray, snapshot: Snapshot, act: CFunc, observe: CFunc) -> None:
        """Write the slot's row of the table, and the snapshot's edits into its model."""
        self._kept_alive = snapshot, act, observe  # compiled code knows only their addresses
        self._memory = snapshot.memory.copy()
        self._edits[:] = snapshot.edits
        row[:] = self._row
        row[stepping.ACT] = act.address
        row[stepping.OBSERVE] = observe.address
        row[stepping.CONSTANTS] = snapshot.constants.ctypes.data
        row[stepping.MEMORY] = self._memory.ctypes.data
        row[stepping.MEMORY_BYTES] = self._memory.nbytes
        row[stepping.START_STATE] = snapshot.state.ctypes.data
        row[stepping.START_MEMORY] = snapshot.memory.ctypes.data
        row[stepping.START_OBS] = snapshot.obs.ctypes.data
