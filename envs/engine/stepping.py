"""Compiled half of `envs.engine.batch`: the code that a thread runs on the slots of a batch.

Compiled code sees a batch as `work`, one row of int64 with the addresses and sizes that `Batch`
writes, and a slot as a row of a table. This module names the columns of both.
"""

# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# Type checkers take the typing context of intrinsics for an argument, and cannot see mujoco's C
# code.

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite.binding
import mujoco
from numba import types
from numba.core.ccallback import CFunc
from numba.core.typing.templates import Signature
from numba.np.numpy_support import carray

from envs.engine import layout
from envs.engine.compiled import call4, call6, compile_callback, exchange, fetch_add, inner, pointer
from metarl.rollout import scene as drawing

# Columns of `work`: first the addresses of a batch's arrays, then its sizes.
(
    CLAIMED,
    FINISHED,
    TABLE,
    ACTIONS,
    OBS,
    FINAL_OBS,
    OUTCOME,
    START_OUTCOME,
    READINGS,
    SOURCES,
    ELAPSED,
    EPISODE_END,
    UNSTABLE_AT,
    RESTING,
    RECORD,
    NUM_SLOTS,
    ACTION_SIZE,
    OBS_SIZE,
    OUTCOME_SIZE,
    READINGS_SIZE,
    NUM_SUBSTEPS,
    FINISH,
    OVER,
    HORIZON,
    RECORD_SIZE,
    WORK_SIZE,
) = range(26)

# Columns of the table of slots: addresses, and one size.
(
    MODEL,
    SIMULATION,
    WARNINGS,
    MOCAP_POS,
    CTRL,
    ACT,
    OBSERVE,
    CONSTANTS,
    MEMORY,
    MEMORY_BYTES,
    START_STATE,
    START_MEMORY,
    START_OBS,
    NUM_COLUMNS,
) = range(14)

# Computation after the substeps: nothing, a whole `mj_forward`, or contact forces alone.
NOTHING, FORWARD, CONTACT_FORCES = range(3)

FLOAT64, FLOAT32, INT64 = 8, 4, 8  # bytes
STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION.value)
DRAWN_STATE = drawing.DRAWN_STATE

# `mjData.warning` is an array of {int lastinfo; int number;}; the address below is that of the
# first `number`.
WARNING_INTS = 2
BAD_QPOS = WARNING_INTS * int(mujoco.mjtWarning.mjWARN_BADQPOS)
BAD_QVEL = WARNING_INTS * int(mujoco.mjtWarning.mjWARN_BADQVEL)
BAD_QACC = WARNING_INTS * int(mujoco.mjtWarning.mjWARN_BADQACC)
NUM_WARNING_INTS = WARNING_INTS * int(mujoco.mjtWarning.mjNWARNING) - 1

# Offsets, in `mjData` and its contacts, of the fields that make up a touch.
_data, _contact = layout.struct_layout("mjData"), layout.struct_layout("mjContact")
NUM_CONTACTS, CONTACTS, FORCES = _data.ncon.offset, _data.contact.offset, _data.efc_force.offset
CONTACT_GEOMS, CONTACT_FORCE = _contact.geom.offset, _contact.efc_address.offset
CONTACT_BYTES = ctypes.sizeof(_contact)
TOUCH_BASE = 2**31  # `geom * TOUCH_BASE + other` identifies a touch

LIBRARIES = {"win32": "mujoco.dll", "darwin": f"libmujoco.{mujoco.__version__}.dylib"}
LIBRARY = LIBRARIES.get(sys.platform, f"libmujoco.so.{mujoco.__version__}")
llvmlite.binding.load_library_permanently(str(Path(mujoco.__file__).parent / LIBRARY))
_address, _nothing = types.int64, types.void
mj_step = types.ExternalFunction("mj_step", _nothing(_address, _address))
mj_forward = types.ExternalFunction("mj_forward", _nothing(_address, _address))
mj_contact_forces = types.ExternalFunction("mj_rnePostConstraint", _nothing(_address, _address))
mj_reset = types.ExternalFunction("mj_resetData", _nothing(_address, _address))
mj_set_state = types.ExternalFunction(
    "mj_setState", _nothing(_address, _address, _address, types.uint32)
)
mj_get_state = types.ExternalFunction(
    "mj_getState", _nothing(_address, _address, _address, types.uint32)
)
memory_copy = types.ExternalFunction("memmove", _address(_address, _address, _address))
give_way = types.ExternalFunction(
    "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
)


@inner
def simulate_slot(work, row, slot):
    """Write the controls and run the substeps; True if MuJoCo stayed stable."""
    action = work[ACTIONS] + slot * work[ACTION_SIZE] * FLOAT32
    call4(row[ACT], action, row[CONSTANTS], row[MOCAP_POS], row[CTRL])
    for _ in range(work[NUM_SUBSTEPS]):
        mj_step(row[MODEL], row[SIMULATION])
    if work[FINISH] == FORWARD:
        mj_forward(row[MODEL], row[SIMULATION])
    elif work[FINISH] == CONTACT_FORCES:
        mj_contact_forces(row[MODEL], row[SIMULATION])
    warnings = carray(pointer(row[WARNINGS], types.int32), NUM_WARNING_INTS)
    return warnings[BAD_QPOS] + warnings[BAD_QVEL] + warnings[BAD_QACC] == 0


@inner
def touch_force(simulation, touch):
    """Sum of `efc_force[contact.efc_address]` over the contacts of two geoms."""
    geom, other = touch // TOUCH_BASE, touch % TOUCH_BASE
    contact = carray(pointer(simulation + CONTACTS, types.int64), 1)[0]
    forces = carray(pointer(simulation + FORCES, types.int64), 1)[0]
    total = 0.0
    for _ in range(carray(pointer(simulation + NUM_CONTACTS, types.int32), 1)[0]):
        pair = carray(pointer(contact + CONTACT_GEOMS, types.int32), 2)
        if (pair[0] == geom and pair[1] == other) or (pair[0] == other and pair[1] == geom):
            at = carray(pointer(contact + CONTACT_FORCE, types.int32), 1)[0]
            if at >= 0:  # a contact without a constraint exerts no force
                total += carray(pointer(forces + at * FLOAT64, types.float64), 1)[0]
        contact += CONTACT_BYTES
    return total


@inner
def observe_slot(work, row, slot, obs_at, outcome_at):
    """Read the scene's readings and turn them into an observation and an outcome."""
    size = work[READINGS_SIZE]
    sources = carray(pointer(work[SOURCES], types.int64), (work[NUM_SLOTS], size))[slot]
    readings = carray(pointer(work[READINGS], types.float64), (work[NUM_SLOTS], size))[slot]
    for k in range(size):
        if sources[k] > 0:
            readings[k] = carray(pointer(sources[k], types.float64), 1)[0]
        else:
            readings[k] = touch_force(row[SIMULATION], -sources[k])
    call6(
        row[OBSERVE],
        work[READINGS] + slot * size * FLOAT64,
        row[CONSTANTS],
        work[ACTIONS] + slot * work[ACTION_SIZE] * FLOAT32,
        row[MEMORY],
        obs_at,
        outcome_at,
    )


@inner
def restart_slot(work, slot):
    """Reset a slot to its snapshot: physics, memory, observation, counters."""
    table = carray(pointer(work[TABLE], types.int64), (work[NUM_SLOTS], NUM_COLUMNS))
    row = table[slot]
    if row[START_OBS] == 0:
        mj_reset(row[MODEL], row[SIMULATION])  # clears the last episode's forces
    mj_set_state(row[MODEL], row[SIMULATION], row[START_STATE], STATE)
    memory_copy(row[MEMORY], row[START_MEMORY], row[MEMORY_BYTES])
    obs_bytes = FLOAT64 * work[OBS_SIZE]
    if row[START_OBS] == 0:
        mj_forward(row[MODEL], row[SIMULATION])
        outcome = work[START_OUTCOME] + slot * work[OUTCOME_SIZE] * FLOAT64
        observe_slot(work, row, slot, work[OBS] + slot * obs_bytes, outcome)
    else:
        memory_copy(work[OBS] + slot * obs_bytes, row[START_OBS], obs_bytes)
    warnings = carray(pointer(row[WARNINGS], types.int32), NUM_WARNING_INTS)
    warnings[BAD_QPOS] = warnings[BAD_QVEL] = warnings[BAD_QACC] = 0
    carray(pointer(work[ELAPSED], types.int64), work[NUM_SLOTS])[slot] = 0


@inner
def record_slot(work, row, slot, elapsed):
    """Store the drawable state; for a resting slot, repeat the last one."""
    size = work[RECORD_SIZE] * FLOAT64
    here = work[RECORD] + (slot * (work[HORIZON] + 1) + elapsed) * size
    if carray(pointer(work[RESTING], types.uint8), work[NUM_SLOTS])[slot] == 0:
        mj_get_state(row[MODEL], row[SIMULATION], here, DRAWN_STATE)
    else:
        memory_copy(here, here - size, size)


@inner
def step_slot(work, slot):
    """Step one slot, and start its next episode if this one ends."""
    num_slots = work[NUM_SLOTS]
    row = carray(pointer(work[TABLE], types.int64), (num_slots, NUM_COLUMNS))[slot]
    elapsed = carray(pointer(work[ELAPSED], types.int64), num_slots)
    unstable_at = carray(pointer(work[UNSTABLE_AT], types.int64), num_slots)
    resting = carray(pointer(work[RESTING], types.uint8), num_slots)
    size = work[OUTCOME_SIZE]
    outcome_at = work[OUTCOME] + slot * size * FLOAT64
    outcome = carray(pointer(outcome_at, types.float64), size)
    obs_bytes = FLOAT64 * work[OBS_SIZE]
    obs, final_obs = work[OBS] + slot * obs_bytes, work[FINAL_OBS] + slot * obs_bytes
    if elapsed[slot] == 0:
        unstable_at[slot] = 0
        resting[slot] = 0
        memory_copy(final_obs, obs, obs_bytes)
        if work[RECORD] != 0:
            record_slot(work, row, slot, 0)
    elapsed[slot] += 1
    if resting[slot] == 0 and not simulate_slot(work, row, slot):
        unstable_at[slot] = elapsed[slot]
        resting[slot] = 1
    if work[RECORD] != 0:
        record_slot(work, row, slot, elapsed[slot])
    if resting[slot] == 0:
        observe_slot(work, row, slot, final_obs, outcome_at)
        if work[OVER] > 0 and outcome[work[OVER]] > 0:
            resting[slot] = 1  # from the next step on
    else:  # keep the last observation
        for k in range(size):
            outcome[k] = 0.0
    memory_copy(obs, final_obs, obs_bytes)
    episode_end = carray(pointer(work[EPISODE_END], types.uint8), num_slots)
    episode_end[slot] = elapsed[slot] == work[HORIZON]
    if episode_end[slot]:
        restart_slot(work, slot)


def _step(work_address, leads):
    """Take slots until none is left.

    The leading thread opens the work and returns only when all slots have been stepped, so that no
    interrupt can fall in between. Helpers that arrive early or late find no slot to take.
    """
    work = carray(pointer(work_address, types.int64), WORK_SIZE)
    if leads:
        exchange(work[FINISHED], 0)
        exchange(work[CLAIMED], 0)
    while True:
        slot = fetch_add(work[CLAIMED], 1)
        if slot >= work[NUM_SLOTS]:
            break
        step_slot(work, slot)
        fetch_add(work[FINISHED], 1)
    while leads and fetch_add(work[FINISHED], 0) < work[NUM_SLOTS]:
        give_way()


def _restart(work_address, slots_address, count):
    """Reset some slots to their snapshots."""
    work = carray(pointer(work_address, types.int64), WORK_SIZE)
    slots = carray(pointer(slots_address, types.int64), count)
    for k in range(count):
        restart_slot(work, slots[k])


@cache
def compiled_step() -> CFunc:
    """The C function `void step(int64 work, bool leads)`: one thread leads, others help."""
    signature = types.void(types.int64, types.boolean)
    return _compiled(_step, signature, name="step")


@cache
def compiled_restart() -> CFunc:
    """The C function `void restart(int64 work, int64 slots, int64 count)`."""
    signature = types.void(types.int64, types.int64, types.int64)
    return _compiled(_restart, signature, name="restart")


def _compiled(function: Callable, signature: Signature, *, name: str) -> CFunc:
    """A compiled function of this module; it contains offsets of this version of MuJoCo."""
    sources = [__file__, layout.__file__, drawing.__file__]
    return compile_callback(
        function, signature, name=f"{name}_{mujoco.__version__}", sources=sources
    )
