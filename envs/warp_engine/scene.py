"""A scene on the device: a model, one world per slot, and captured graphs.

On a GPU a control step is one CUDA graph, launched on the scene's own stream; on Warp's CPU device
the same calls run one after the other.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportMissingImports=false
# pyright: reportCallIssue=false, reportIndexIssue=false
# Type checkers cannot see into mujoco's C code, Warp, or functions compiled by numba.

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import mujoco
import mujoco_warp as mjw
import numpy as np
import warp as wp

from envs.engine.batch import MEAN_INERTIA, STATE, Reading, Snapshot, Touch
from envs.warp_engine import kernels
from envs.warp_engine.contacts import mujocos_contacts
from envs.warp_engine.slots import SlotTable, compiled_view, flat_view
from envs.warp_engine.spec import Room, SceneSpec
from envs.warp_engine.worlds import THREADS, world_kernels, world_loops
from metarl.errors import UserError
from metarl.rollout.scene import DRAWN_STATE

UNUSED = frozenset({"dof_M0"})
"""Arrays of `mjModel` that tasks edit but MuJoCo Warp does not have."""


def _as_mujoco_places_sites(model: mujoco.MjModel, positions: np.ndarray) -> np.ndarray:
    """Edits of `site_pos` (n, E); sites whose edits MuJoCo ignores get their compiled position.

    MuJoCo goes by flags of the compiled model: a site that was compiled in the frame of its body
    stays there, whatever its edit. The goal of Meta-World's basketball is one; the official reward
    expects it there.
    """
    rows = positions.reshape(-1, *model.site_pos.shape).copy()
    same = model.site_sameframe
    rows[:, same == int(mujoco.mjtSameFrame.mjSAMEFRAME_BODY)] = 0.0
    inertial = same == int(mujoco.mjtSameFrame.mjSAMEFRAME_INERTIA)
    rows[:, inertial] = model.body_ipos[model.site_bodyid[inertial]]
    return rows


class DeviceScene:
    """The worlds of a scene.

    Args:
        spec: the scene.
        num_worlds: number of worlds.
        constants_size: number of constants in a snapshot.
        table: the environment's arrays; worlds read and write the rows of their slots.
        horizon: steps per episode.
        room: capacity of the buffers.
    """

    def __init__(
        self,
        spec: SceneSpec,
        *,
        num_worlds: int,
        constants_size: int,
        table: SlotTable,
        horizon: int,
        room: Room,
    ) -> None:
        self.spec, self.room, self.num_worlds = spec, room, num_worlds
        self._table, self._horizon = table, horizon
        self.device = device = table.device
        self.stream = wp.Stream(device) if device.is_cuda else None
        model = spec.scene.model
        if model.na or (model.neq and not model.eq_active0.all()):
            raise UserError(
                f"engine 'warp' takes no actuators with a state and no switched constraints, which "
                f"{spec.code.name} has; use engine 'native'"
            )
        with wp.ScopedDevice(device):
            self.model = mjw.put_model(model)
            # Two touching boxes then have as many contacts as in MuJoCo, by the same method;
            # otherwise they often have a single one, and grips slip.
            self.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_NATIVECCD)
            self.data = mjw.make_data(
                model, nworld=num_worlds, nconmax=room.contacts, njmax=room.constraints
            )
            self._make_arrays(constants_size)
        self._unmoved = copy.copy(self.model)  # a model in which no body is static
        self._unmoved.body_weldid = wp.ones(model.nbody, dtype=int, device=device)
        make = world_kernels if device.is_cuda else world_loops
        self._functions = make(spec.code, observed=spec.noise is not None)
        self._launched: dict[str, Callable] = {}
        if device.is_cuda:
            self._configure_kernels()
        self._graphs: dict[str, Any] = {}

    def _make_arrays(self, constants_size: int) -> None:
        spec, count, device = self.spec, self.num_worlds, self.device
        data, model = self.data, spec.scene.model

        def zeros(size: int, dtype: Any) -> wp.array:
            return wp.zeros((count, max(size, 1)), dtype=dtype, device=device)

        self.needs = wp.zeros(kernels.NUM_NEEDS, dtype=int)
        self.slots = wp.full(count, -1, dtype=int)
        self.starting = wp.zeros(count, dtype=bool)
        self._stable = wp.ones(count, dtype=bool)
        self._broken = wp.zeros(count, dtype=bool)
        self._readings = zeros(spec.scene.num_readings, wp.float64)
        self._constants = zeros(constants_size, wp.float64)
        self._memory, self._start_memory = (zeros(spec.memory_size, wp.float64) for _ in range(2))
        self._start_obs = zeros(self._table.obs.shape[1], wp.float64)
        self._start_outcome = zeros(self._table.outcome.shape[1], wp.float64)
        self._start = {
            name: wp.clone(getattr(data, name))
            for name in ("qpos", "qvel", "qacc_warmstart", "ctrl", "mocap_pos", "mocap_quat")
        }
        for name in spec.scene.edited:
            if name in UNUSED:
                continue
            owner, last = self._owner(name)
            field = getattr(owner, last)
            shape = (count, *field.shape[1:])
            setattr(owner, last, wp.empty(shape, dtype=field.dtype))
        self._gathered = self._gathers(spec.scene.readings)
        nothing = wp.zeros((count, 1), dtype=float)
        self._mocap_pos = flat_view(data.mocap_pos) if model.nmocap else nothing
        self._ctrl = data.ctrl if model.nu else nothing

    def _owner(self, name: str) -> tuple[Any, str]:
        """Object that holds an edited array, and the array's name there."""
        if name == MEAN_INERTIA:
            return self.model.stat, "meaninertia"
        return self.model, name

    def _gathers(self, readings: Sequence[Reading | Touch]) -> dict[str, tuple]:
        """Source array, its columns (geom pairs for touches) and the readings' columns, by name."""
        columns: dict[str, list[Any]] = {}
        places: dict[str, list[int]] = {}
        place = 0
        for reading in readings:
            name = "touch" if isinstance(reading, Touch) else reading.array
            wanted = columns.setdefault(name, [])
            if isinstance(reading, Touch):
                wanted.append((reading.geom, reading.other))
            else:
                wanted.extend(range(reading.start, reading.start + reading.size))
            places.setdefault(name, []).extend(range(place, place + reading.size))
            place += reading.size
        return {
            name: (
                None if name == "touch" else flat_view(getattr(self.data, name)),
                wp.array(wanted, dtype=wp.vec2i if name == "touch" else int),
                wp.array(places[name], dtype=int),
            )
            for name, wanted in columns.items()
        }

    # -- placing slots -----------------------------------------------------------------------------

    def place(self, slots: Sequence[int], snapshots: Sequence[Snapshot]) -> None:
        """Assigns slots and their snapshots to the first worlds; `start` then begins episodes.

        Spare worlds play the first snapshot, and their results are ignored.
        """
        count = self.num_worlds
        padded = [*snapshots, *[snapshots[0]] * (count - len(snapshots))]
        numbers = np.full(count, -1, dtype=np.int32)
        numbers[: len(slots)] = slots
        with wp.ScopedDevice(self.device):
            self.slots.assign(numbers)
            self._constants.assign(np.stack([s.constants for s in padded]))
            self._start_memory.assign(np.stack([s.memory for s in padded]))
            if self.spec.noise is None:
                self._start_obs.assign(np.stack([s.obs for s in padded]))
            self._place_edits(np.stack([s.edits for s in padded]))
            self._place_states(padded)
            self.starting.fill_(True)
            self._restore(self.starting)
            self._settle()
            if self.device.is_cuda and not self._graphs:
                self._capture()
            self.needs.zero_()

    def _place_edits(self, edits: np.ndarray) -> None:
        place, model = 0, self.spec.scene.model
        for name in self.spec.scene.edited:
            size = np.size(attrgetter(name)(model))
            if name not in UNUSED:
                owner, last = self._owner(name)
                field = getattr(owner, last)
                rows = edits[:, place : place + size].astype(np.float32)
                if name == "site_pos":
                    rows = _as_mujoco_places_sites(model, rows)
                shape = (
                    *field.shape,
                    *getattr(field.dtype, "_shape_", ()),
                )  # plus vector components
                field.assign(np.ascontiguousarray(rows).reshape(shape))
            place += size

    def _place_states(self, snapshots: Sequence[Snapshot]) -> None:
        """Sets the starts; MuJoCo itself splits each state into its arrays."""
        simulation, model = mujoco.MjData(self.spec.scene.model), self.spec.scene.model
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self._start}
        apart: dict[int, dict[str, np.ndarray]] = {}  # several slots may share a state
        for snapshot in snapshots:
            key = id(snapshot)
            if key not in apart:
                mujoco.mj_setState(model, simulation, snapshot.state, STATE)
                apart[key] = {name: getattr(simulation, name).copy() for name in parts}
            for name, rows in parts.items():
                rows.append(apart[key][name])
        for name, rows in parts.items():
            if self._start[name].size:
                self._start[name].assign(np.stack(rows).astype(np.float32))

    def _settle(self) -> None:
        """Computes all bodies' poses, also of static ones, which MuJoCo Warp computes only once."""
        mjw.kinematics(self._unmoved, self.data)

    # -- a step, the start of an episode -----------------------------------------------------------

    def step(self) -> None:
        """Launches a control step in all worlds."""
        self._launch("step", self._step)

    def start(self) -> None:
        """Launches the start of an episode in the worlds marked in `starting`."""
        self._launch("start", self._begin)

    def _launch(self, name: str, otherwise: Callable[[], None]) -> None:
        if name in self._graphs:
            wp.capture_launch(self._graphs[name], stream=self.stream)
        else:
            with wp.ScopedDevice(self.device), mujocos_contacts():
                otherwise()

    def _step(self) -> None:
        table, model, data = self._table, self.model, self.data
        self._call(
            "act", self.slots, table.actions, self._constants, self._mocap_pos, self._ctrl,
            table.obs, table.final_obs, table.elapsed, table.unstable_at, table.bad_action_at,
            table.resting,
        )  # fmt: skip
        for _ in range(self.spec.num_substeps):
            mjw.step(model, data)
            self._note_needs()
        self._finish()
        self._observe()
        self._restore(self._broken)

    def observe_present(self) -> None:
        """Observes and rewards the current state, as a step does after its physics."""
        with wp.ScopedDevice(self.device), mujocos_contacts():
            self._finish()
            self._observe()

    def _finish(self) -> None:
        data = self.data
        if self.spec.finish == "positions":
            mjw.kinematics(self.model, data)
        elif self.spec.finish == "forward":
            mjw.forward(self.model, data)
            wp.copy(data.qacc_warmstart, data.qacc)  # as `mj_forward` does
            self._note_needs()
        elif self.spec.finish == "contact forces":
            mjw.rne_postconstraint(self.model, data)

    def _observe(self) -> None:
        table, data = self._table, self.data
        wp.launch(
            kernels.check_stable,
            dim=self.num_worlds,
            inputs=[data.qpos, data.qvel, data.qacc],
            outputs=[self._stable],
        )
        self._read()
        self._call(
            "observe", self.slots, self._readings, self._constants, table.actions, self._memory,
            self._stable, self._broken, self.starting, table.obs, table.final_obs, table.outcome,
            table.elapsed, table.unstable_at, table.resting, table.episode_end, self._horizon,
        )  # fmt: skip

    def _begin(self) -> None:
        table, noise = self._table, self.spec.noise
        self._restore(self.starting)
        if noise is not None:
            wp.launch(
                kernels.add_noise,
                dim=self.num_worlds,
                inputs=[
                    self.starting, self.slots, table.seeds, table.drawn, noise.scale,
                    noise.normal_velocities,
                ],
                outputs=[self.data.qpos, self.data.qvel],
            )  # fmt: skip
            mjw.forward(self.model, self.data)
            self._note_needs()
            self._read()
        self._call(
            "start", self.slots, self.starting, self._readings, self._constants, table.actions,
            self._memory, self._start_memory, self._start_obs, self._start_outcome, table.obs,
            table.elapsed,
        )  # fmt: skip

    def _note_needs(self) -> None:
        data = self.data
        wp.launch(
            kernels.note_needs,
            dim=self.num_worlds,
            inputs=[data.nefc, data.nacon, data.ncollision],
            outputs=[self.needs],
        )

    def _restore(self, mask: wp.array) -> None:
        data, start = self.data, self._start
        wp.launch(
            kernels.restore,
            dim=self.num_worlds,
            inputs=[
                mask, start["qpos"], start["qvel"], start["qacc_warmstart"], start["ctrl"],
                start["mocap_pos"], start["mocap_quat"],
            ],
            outputs=[
                data.qpos, data.qvel, data.qacc, data.qacc_warmstart, data.ctrl, data.mocap_pos,
                data.mocap_quat, data.cfrc_ext, data.time,
            ],
        )  # fmt: skip

    def _read(self) -> None:
        """Fills the readings from `mjData`."""
        data = self.data
        for name, (source, columns, places) in self._gathered.items():
            shape = (self.num_worlds, places.size)
            if name != "touch":
                wp.launch(
                    kernels.gather,
                    dim=shape,
                    inputs=[source, columns, places],
                    outputs=[self._readings],
                )
                continue
            wp.launch(kernels.clear_touches, dim=shape, inputs=[places], outputs=[self._readings])
            contact = data.contact
            wp.launch(
                kernels.add_touches,
                dim=(data.naconmax, places.size),
                inputs=[
                    data.nacon, contact.geom, contact.worldid, contact.efc_address,
                    data.efc.force, columns, places,
                ],
                outputs=[self._readings],
            )  # fmt: skip

    def needed(self) -> Room:
        """Largest need since `place`; contacts and constraints beyond the room were left out of the
        physics."""
        needs = self.needs.numpy()
        shared = max(needs[kernels.MOST_NACON], needs[kernels.MOST_COLLISIONS])
        return Room(-(-int(shared) // self.num_worlds), int(needs[kernels.MOST_NEFC]))

    # -- recordings --------------------------------------------------------------------------------

    @property
    def drawn_size(self) -> int:
        """Number of values that `drawn_states` returns per world (R)."""
        return mujoco.mj_stateSize(self.spec.scene.model, DRAWN_STATE)

    def drawn_states(self) -> np.ndarray:
        """Current drawable states (worlds, R); see `metarl.rollout.scene.DRAWN_STATE`."""
        data = self.data
        parts = (data.qpos, data.mocap_pos, data.mocap_quat)
        return np.concatenate([p.numpy().reshape(self.num_worlds, -1) for p in parts], axis=1)

    # -- compiled code -----------------------------------------------------------------------------

    def _call(self, name: str, *arguments: Any) -> None:
        """Runs one of the world functions; each call must pass the same arrays."""
        if name not in self._launched:
            views = [compiled_view(a) if isinstance(a, wp.array) else a for a in arguments]
            function = getattr(self._functions, name)
            self._launched[name] = lambda: function(self.num_worlds, *views)
        self._launched[name]()

    def _configure_kernels(self) -> None:
        from numba import cuda

        assert self.stream is not None
        stream = cuda.external_stream(self.stream.cuda_stream)
        blocks = -(-self.num_worlds // THREADS)
        self._functions = self._functions._replace(
            **{
                name: cuda.jit(function)[blocks, THREADS, stream]
                for name, function in self._functions._asdict().items()
            }
        )

    def _capture(self) -> None:
        """Captures the calls as graphs; each first runs once, as compilation cannot be captured."""
        drawn = wp.clone(self._table.drawn)  # restored below, so that starts do not depend on this
        with wp.ScopedStream(self.stream), mujocos_contacts():
            for name, calls in (("start", self._begin), ("step", self._step)):
                calls()
                wp.synchronize_stream(self.stream)
                with wp.ScopedCapture(stream=self.stream) as capture:
                    calls()
                self._graphs[name] = capture.graph
            wp.copy(self._table.drawn, drawn)
            self.starting.fill_(True)
            self._restore(self.starting)
            self._settle()
            wp.synchronize_stream(self.stream)
