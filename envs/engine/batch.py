"""Batches of MuJoCo scenes, stepped in threads by compiled code that calls MuJoCo's C library.

A slot holds its own `mjData` and a shallow copy of its scene's `mjModel`: the C struct alone
(5 kB), in which the few arrays that tasks edit point to the slot's own memory. One compiled
function, without the GIL, does everything between actions and observations. Threads take slots one
by one, so that a slow slot delays only its own thread.

This module is independent of Meta-World. Two C callbacks define what a step means for a slot:

- `act(action float32*, constants float64*, mocap_pos float64*, ctrl float64*)` writes the controls;
- `observe(readings float64*, constants float64*, action float32*, memory float64*, obs float64*,
  outcome float64*)` turns readings from `mjData` into an observation and scalars, the first of
  which is the reward. `memory` holds what it carries from one step to the next.

An episode starts from a snapshot: either always at the same moment, with the snapshot's
observation, or in a state that is drawn for each episode and then observed.
"""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see into mujoco's C code.

import ctypes
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, index
from queue import SimpleQueue
from typing import Literal, NamedTuple

import mujoco
import numpy as np
from numba.core.ccallback import CFunc

from envs.engine import stepping
from envs.engine.layout import struct_layout
from metarl.system.hardware import num_processors

STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value
MEAN_INERTIA = "stat.meaninertia"
"""The only number inside the C struct that tasks may edit; the solver scales tolerances by it."""
Finish = Literal["forward", "contact forces", "nothing"]
FINISH: dict[Finish, int] = {
    "forward": stepping.FORWARD,
    "contact forces": stepping.CONTACT_FORCES,
    "nothing": stepping.NOTHING,
}


class Reading(NamedTuple):
    """Numbers read from `mjData` after each step: `size` float64 of `array`, from index `start`."""

    array: str
    start: int
    size: int

    def sources(self, simulation: mujoco.MjData) -> np.ndarray:
        """The addresses of the numbers."""
        first = getattr(simulation, self.array).ctypes.data
        return first + 8 * (self.start + np.arange(self.size))


class Touch(NamedTuple):
    """Contact force between two geoms (N), one number read after each step.

    It sums, over their contacts, the force of the contact's first constraint: the normal force for
    elliptic friction cones, one edge of the pyramid for pyramidal cones.
    """

    geom: int
    other: int
    size: int = 1

    def sources(self, simulation: mujoco.MjData) -> np.ndarray:
        """Minus a number that encodes both geoms, because contacts have no lasting address."""
        return np.array([-(self.geom * stepping.TOUCH_BASE + self.other)])


@dataclass(frozen=True)
class Snapshot:
    """A moment to which a slot can be reset, and the values that are fixed from then on.

    Attributes:
        state: (S,) full integration state, `mjSTATE_INTEGRATION`. It is read at every start of an
            episode; writing to it changes the starts that follow.
        edits: (E,) the scene's edited model arrays, concatenated.
        constants: (C,) numbers for `act` and `observe`.
        memory: (M,) values that `observe` carries from step to step, as of this moment.
        obs: (O,) the observation of this moment, or None to observe `state` at every start:
            `mj_resetData`, then one `mj_forward`.
    """

    state: np.ndarray
    edits: np.ndarray
    constants: np.ndarray
    memory: np.ndarray
    obs: np.ndarray | None


class SharedModel:
    """A compiled MuJoCo model that many slots share, and its readings.

    Args:
        model: the compiled model; kept, never changed.
        edited: names of the float64 model arrays that snapshots set for their slot, with
            MEAN_INERTIA if tasks change it.
        readings: the numbers passed to `observe`, in this order.
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
            there = attrgetter(name)
            same = (
                there(struct) == there(model)
                if name == MEAN_INERTIA
                else there(struct) == there(model).ctypes.data
            )
            if not same:
                raise RuntimeError(f"mjModel.{name} is not where mujoco.introspect says it is")

    def edits(self, model: mujoco.MjModel) -> np.ndarray:
        """Values of the edited arrays in a model of this scene (E,)."""
        parts = [np.ravel(attrgetter(name)(model)) for name in self.edited]
        return np.concatenate(parts) if parts else np.empty(0)

    def edited_model(self, edits: np.ndarray) -> mujoco.MjModel:
        """A full copy of the model with these edits (E,); 21 MB for a Meta-World scene."""
        model = self.model.__copy__()
        place = 0
        for name in self.edited:
            size = np.size(attrgetter(name)(model))
            if name == MEAN_INERTIA:
                model.stat.meaninertia = edits[place]
            else:
                getattr(model, name).flat = edits[place : place + size]
            place += size
        return model

    def snapshot(
        self,
        model: mujoco.MjModel,
        simulation: mujoco.MjData,
        *,
        constants: np.ndarray,
        memory: np.ndarray,
        obs: np.ndarray,
    ) -> Snapshot:
        """Snapshot of the current `simulation` and `model` (an edited model of this scene)."""
        state = np.empty(self.state_size)
        mujoco.mj_getState(model, simulation, state, STATE)
        return Snapshot(
            state=state,
            edits=self.edits(model),
            constants=np.array(constants, dtype=np.float64),
            memory=np.array(memory, dtype=np.float64),
            obs=np.array(obs, dtype=np.float64),
        )


class Batch:
    """N slots stepped together by `num_threads` threads, including the caller's.

    A slot's result depends only on its own snapshot and actions, not on the number of threads or on
    other slots. A slot is reset to its snapshot as soon as its episode ends.

    Args:
        num_slots: N.
        action_size, obs_size, outcome_size: A, O and the number of scalars that `observe` writes.
        num_substeps: calls of `mj_step` per step.
        finish: computation after the substeps: a whole `mj_forward`, `mj_rnePostConstraint` for the
            contact forces on bodies, or nothing.
        over: index of the scalar (not the first) that puts a slot to rest when it is above 0; None
            for no such scalar.
        horizon: steps per episode.
        num_threads: at most one per slot; None for one per processor that this process may use.

    Raises:
        ValueError: num_slots, horizon or num_threads is below 1.
        TypeError: one of them is not an integer.

    Attributes:
        obs: (N, O) the observation to act on next; after the end of an episode, that of the next.
        final_obs: (N, O) the true next observation of every slot.
        outcome: (N, outcome_size); the first is the reward.
        episode_end: (N,) bool.
        elapsed: (N,) steps taken in the episode.
        unstable_at: (N,) the step of the episode at which MuJoCo warned of instability, or 0. The
            slot rests from that step on.
        resting: (N,) bool; a resting slot keeps its last observation, with an outcome of zeros,
            until its episode ends.
        record: (N, horizon + 1, R) drawable states (`metarl.rollout.scene.DRAWN_STATE`) of the
            current episode, or None; see `keep_record`.
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
        finish: Finish,
        over: int | None = None,
        horizon: int,
        num_threads: int | None = None,
    ):
        for name, count in (
            ("num_slots", num_slots), ("horizon", horizon), ("num_threads", num_threads)
        ):  # fmt: skip
            if count is not None and index(count) < 1:
                raise ValueError(f"{name} must be at least 1, not {count}")
        self.num_slots = num_slots
        self.num_threads = min(num_threads or num_processors(), num_slots)
        self.obs = np.zeros((num_slots, obs_size))
        self.final_obs = np.zeros((num_slots, obs_size))
        self.outcome = np.zeros((num_slots, outcome_size))
        self.episode_end = np.zeros(num_slots, dtype=np.bool_)
        self.elapsed = np.zeros(num_slots, dtype=np.int64)
        self.unstable_at = np.zeros(num_slots, dtype=np.int64)
        self.resting = np.zeros(num_slots, dtype=np.bool_)
        self.record: np.ndarray | None = None
        self._actions = np.zeros((num_slots, action_size), dtype=np.float32)
        self._start_outcome = np.zeros((num_slots, outcome_size))  # written at starts, never read
        self._readings = np.zeros((num_slots, readings_size))
        self._sources = np.zeros((num_slots, readings_size), dtype=np.int64)
        self._table = np.zeros((num_slots, stepping.NUM_COLUMNS), dtype=np.int64)
        self._counters = np.full(16, num_slots)  # two counters, a cache line apart
        self._slots: list[_Slot | None] = [None] * num_slots
        self._spare: dict[SharedModel, list[_Slot]] = {}
        self._work = np.zeros(stepping.WORK_SIZE, dtype=np.int64)
        addressed = (
            (stepping.CLAIMED, self._counters[0:]),
            (stepping.FINISHED, self._counters[8:]),
            (stepping.TABLE, self._table),
            (stepping.ACTIONS, self._actions),
            (stepping.OBS, self.obs),
            (stepping.FINAL_OBS, self.final_obs),
            (stepping.OUTCOME, self.outcome),
            (stepping.START_OUTCOME, self._start_outcome),
            (stepping.READINGS, self._readings),
            (stepping.SOURCES, self._sources),
            (stepping.ELAPSED, self.elapsed),
            (stepping.EPISODE_END, self.episode_end),
            (stepping.UNSTABLE_AT, self.unstable_at),
            (stepping.RESTING, self.resting),
        )
        for column, array in addressed:
            self._work[column] = array.ctypes.data
        # A thread may wake up late, when the batch is no longer referenced elsewhere.
        self._memory = (self._work, addressed, self._slots, self._spare)
        for column, size in (
            (stepping.NUM_SLOTS, num_slots),
            (stepping.ACTION_SIZE, action_size),
            (stepping.OBS_SIZE, obs_size),
            (stepping.OUTCOME_SIZE, outcome_size),
            (stepping.READINGS_SIZE, readings_size),
            (stepping.NUM_SUBSTEPS, num_substeps),
            (stepping.FINISH, FINISH[finish]),
            (stepping.OVER, over or 0),
            (stepping.HORIZON, horizon),
        ):
            self._work[column] = size
        self._run = stepping.compiled_step().ctypes
        self._restart = stepping.compiled_restart().ctypes
        self._threads: list[threading.Thread] = []
        self._wake: SimpleQueue[bool] = SimpleQueue()
        weakref.finalize(self, _dismiss, self._wake, self._threads)

    def place(
        self, slot: int, scene: SharedModel, snapshot: Snapshot, act: CFunc, observe: CFunc
    ) -> None:
        """Set a slot's scene, snapshot and callbacks; `restart` then starts its episode."""
        held = self._slots[slot]
        if held is None or held.scene is not scene:
            if held is not None:
                self._spare.setdefault(held.scene, []).append(held)
            spare = self._spare.get(scene)
            held = self._slots[slot] = spare.pop() if spare else _Slot(scene)
            # Columns beyond the scene's readings need a readable address; their values are unused.
            self._sources[slot] = held.sources[0]
            self._sources[slot, : scene.num_readings] = held.sources
        held.fill(self._table[slot], snapshot, act, observe)

    def keep_record(self, wanted: bool) -> None:
        """Start storing every state in `record` at the next `restart`, or stop."""
        if wanted:
            scenes = {held.scene for held in self._slots if held is not None}
            size = max(mujoco.mj_stateSize(s.model, stepping.DRAWN_STATE) for s in scenes)
            shape = (self.num_slots, int(self._work[stepping.HORIZON]) + 1, size)
            if self.record is None or self.record.shape != shape:
                self.record = np.zeros(shape)
            self._work[stepping.RECORD] = self.record.ctypes.data
            self._work[stepping.RECORD_SIZE] = size
        else:
            self._work[stepping.RECORD] = 0
            self.record = None

    def restart(self, slots: np.ndarray | None = None) -> None:
        """Start a new episode in these slots (n,), or in all; `obs` is then that of the start."""
        chosen = np.arange(self.num_slots) if slots is None else slots.astype(np.int64)
        self._restart(self._work.ctypes.data, chosen.ctypes.data, len(chosen))

    def drawn(self, slot: int) -> np.ndarray:
        """The slot's current drawable state, followed by the edited arrays of its model (R,)."""
        held = self._slots[slot]
        assert held is not None
        state = np.empty(mujoco.mj_stateSize(held.scene.model, stepping.DRAWN_STATE))
        mujoco.mj_getState(held.scene.model, held.simulation, state, stepping.DRAWN_STATE)
        return np.concatenate([state, held.edits])

    def step(self, actions: np.ndarray) -> None:
        """Step every slot with its row of `actions` (N, A). The attributes hold the results."""
        self._actions[:] = actions
        if self.num_threads > 1 and not self._threads:
            self._start_threads()
        for _ in self._threads:
            self._wake.put(True)
        self._run(self._work.ctypes.data, True)

    def close(self) -> None:
        """Stop the threads. The next `step` starts them again."""
        _dismiss(self._wake, self._threads)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start_threads(self) -> None:
        for _ in range(self.num_threads - 1):
            thread = threading.Thread(
                target=_help, args=(self._wake, self._run, self._memory), daemon=True
            )
            thread.start()
            self._threads.append(thread)


def _help(wake: SimpleQueue, run, memory: tuple[np.ndarray, *tuple[object, ...]]) -> None:
    """Thread body: on each wake-up, take slots until none is left."""
    while wake.get():
        run(memory[0].ctypes.data, False)


def _dismiss(wake: SimpleQueue, threads: list[threading.Thread]) -> None:
    """Tell the threads to end; they keep the memory alive until then."""
    for _ in threads:
        wake.put(False)


class _Slot:
    """The memory of one slot: an `mjData`, a shallow `mjModel`, and its snapshot."""

    def __init__(self, scene: SharedModel):
        self.scene = scene
        self.simulation = mujoco.MjData(scene.model)
        self.sources = np.concatenate([r.sources(self.simulation) for r in scene.readings])
        struct = struct_layout("mjModel")
        self._struct = struct.from_buffer_copy(struct.from_address(scene.model._address))
        self.edits = scene.edits(scene.model)
        self._mean_inertia_at: int | None = None
        place = 0
        for name in scene.edited:
            if name == MEAN_INERTIA:
                self._mean_inertia_at = place
                place += 1
            else:
                setattr(self._struct, name, self.edits[place:].ctypes.data)
                place += getattr(scene.model, name).size
        self._row = np.zeros(stepping.NUM_COLUMNS, dtype=np.int64)
        self._row[stepping.MODEL] = ctypes.addressof(self._struct)
        self._row[stepping.SIMULATION] = self.simulation._address
        self._row[stepping.WARNINGS] = self.simulation.warning.number.ctypes.data
        self._row[stepping.MOCAP_POS] = self.simulation.mocap_pos.ctypes.data
        self._row[stepping.CTRL] = self.simulation.ctrl.ctypes.data

    def fill(self, row: np.ndarray, snapshot: Snapshot, act: CFunc, observe: CFunc) -> None:
        """Write the slot's row of the table, and apply the snapshot's edits to its model."""
        self._kept_alive = snapshot, act, observe  # compiled code holds only their addresses
        self._memory = snapshot.memory.copy()
        self.edits[:] = snapshot.edits
        if self._mean_inertia_at is not None:
            self._struct.stat.meaninertia = snapshot.edits[self._mean_inertia_at]
        row[:] = self._row
        row[stepping.ACT] = act.address
        row[stepping.OBSERVE] = observe.address
        row[stepping.CONSTANTS] = snapshot.constants.ctypes.data
        row[stepping.MEMORY] = self._memory.ctypes.data
        row[stepping.MEMORY_BYTES] = self._memory.nbytes
        row[stepping.START_STATE] = snapshot.state.ctypes.data
        row[stepping.START_MEMORY] = snapshot.memory.ctypes.data
        row[stepping.START_OBS] = 0 if snapshot.obs is None else snapshot.obs.ctypes.data
