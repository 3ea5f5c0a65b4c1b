"""MuJoCo scenes stepped in batches, in threads, by compiled code that calls MuJoCo's C library.

A slot holds its own `mjData` and a shallow copy of its scene's `mjModel`: the C struct alone
(5 kB), with the few arrays that tasks edit redirected to memory of its own. All between actions and
observations happens in one compiled function without the GIL; threads take slots as they go.

This module knows nothing of Meta-World. Two C callbacks say what a step means for a slot:

- `act(action float32*, constants float64*, mocap_pos float64*, ctrl float64*)` writes the controls;
- `observe(readings float64*, constants float64*, action float32*, memory float64*, obs float64*,
  outcome float64*)` turns what was read from `mjData` into an observation and scalars, of which the
  first is the reward. `memory` is what it carries from one step to the next.

An episode starts from a snapshot: always in the same moment, with the observation that the snapshot
holds, or in a state that is drawn anew each time and observed then.
"""

# pyright: reportAttributeAccessIssue=false
# Type checkers see nothing of mujoco's C code.

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
"""The one number in the C struct itself that tasks may edit: tolerances scale by it."""
Finish = Literal["forward", "contact forces", "nothing"]
FINISH: dict[Finish, int] = {
    "forward": stepping.FORWARD,
    "contact forces": stepping.CONTACT_FORCES,
    "nothing": stepping.NOTHING,
}


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
        state: (S,) full integration state, `mjSTATE_INTEGRATION`. It is read at every start of an
            episode: who writes another one there changes the starts that follow.
        edits: (E,) the scene's edited model arrays, one after the other.
        constants: (C,) numbers for `act` and `observe`.
        memory: (M,) what `observe` carries from step to step, as it is at this moment.
        obs: (O,) the observation of this moment, or None to have `state` observed at every start:
            `mj_resetData`, then one `mj_forward`.
    """

    state: np.ndarray
    edits: np.ndarray
    constants: np.ndarray
    memory: np.ndarray
    obs: np.ndarray | None


class SharedModel:
    """A compiled MuJoCo model that many slots share, and what is read from it.

    Args:
        model: the compiled model; kept, never changed.
        edited: names of the float64 model arrays that snapshots set for their slot, MEAN_INERTIA
            among them where it changes.
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
            there = attrgetter(name)
            same = (
                there(struct) == there(model)
                if name == MEAN_INERTIA
                else there(struct) == there(model).ctypes.data
            )
            if not same:
                raise RuntimeError(f"mjModel.{name} is not where mujoco.introspect says it is")

    def edits(self, model: mujoco.MjModel) -> np.ndarray:
        """(E,) what is edited, as it is in a model of this scene."""
        parts = [np.ravel(attrgetter(name)(model)) for name in self.edited]
        return np.concatenate(parts) if parts else np.empty(0)

    def edited_model(self, edits: np.ndarray) -> mujoco.MjModel:
        """A whole model of its own with these edits (E,); 21 MB of a Meta-World scene."""
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
        """The present of `simulation` and `model` (a model of this scene, edited)."""
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
    """N slots stepped together by `num_threads` threads, the caller's among them.

    A slot's result depends on its own snapshot and actions only: neither on the number of threads
    nor on its neighbours. A slot whose episode ends is set back to its snapshot at once.

    Args:
        num_slots: N.
        action_size, obs_size, outcome_size: A, O and the number of scalars that `observe` writes.
        num_substeps: calls of `mj_step` in a step.
        finish: what follows them: a whole `mj_forward`, or `mj_rnePostConstraint` for the forces of
            contacts on bodies, or nothing.
        over: which of the scalars, not the first, puts a slot to rest when it is above 0; None for
            none of them.
        horizon: steps in an episode.
        num_threads: None for one per processor that this process may use; one per slot at most.

    Raises:
        ValueError: no slot, no step, or no thread.
        TypeError: their number is no whole number.

    Attributes:
        obs: (N, O) what an agent acts on next: of the new episode where one has just ended.
        final_obs: (N, O) the true next observation of every slot.
        outcome: (N, outcome_size); the first is the reward.
        episode_end: (N,) bool.
        elapsed: (N,) steps taken in the episode.
        unstable_at: (N,) the step of the episode at which MuJoCo warned of instability, or 0. The
            slot rests from that step on.
        resting: (N,) bool; such a slot keeps its last observation, with an outcome of zeros, until
            its episode ends.
        record: (N, horizon + 1, R) what can be drawn (`metarl.rollout.scene.DRAWN_STATE`) of
            the episode that is played, or None; see `keep_record`.
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
        self._start_outcome = np.zeros((num_slots, outcome_size))  # of starts; nobody looks at it
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
        # A thread may wake up late, when nobody else holds the batch any more.
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

    def keep_record(self, wanted: bool) -> None:
        """Write down every state in `record` from the next `restart` on, or no longer."""
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
        """Start a new episode in these slots (n,), or in all: `obs` becomes that of snapshots."""
        chosen = np.arange(self.num_slots) if slots is None else slots.astype(np.int64)
        self._restart(self._work.ctypes.data, chosen.ctypes.data, len(chosen))

    def drawn(self, slot: int) -> np.ndarray:
        """What can be drawn of a slot's present, then what is edited of its model."""
        held = self._slots[slot]
        assert held is not None
        state = np.empty(mujoco.mj_stateSize(held.scene.model, stepping.DRAWN_STATE))
        mujoco.mj_getState(held.scene.model, held.simulation, state, stepping.DRAWN_STATE)
        return np.concatenate([state, held.edits])

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
    """A thread's life: whenever woken, take slots until none is left."""
    while wake.get():
        run(memory[0].ctypes.data, False)


def _dismiss(wake: SimpleQueue, threads: list[threading.Thread]) -> None:
    """Let the threads end; they hold the memory until they have."""
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
        """Write the slot's row of the table, and the snapshot's edits into its model."""
        self._kept_alive = snapshot, act, observe  # compiled code knows only their addresses
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
