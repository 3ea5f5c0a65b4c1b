"""The scene of a declared task, and the snapshots from which its episodes start."""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see into mujoco's C code.

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import metaworld
import mujoco
import numpy as np
from jaxtyping import Float64
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError

from envs.engine.batch import Batch, SharedModel, Snapshot
from envs.metaworld.native import ACTION_SIZE, compiled_act
from envs.metaworld.snapshots import MOCAP_QUAT
from envs.metaworld.tasks.interface import (
    ACTION_SCALE,
    EXTRA_CONSTANTS,
    FIRST_OBJECT,
    FRAME_SIZE,
    MAX_CONSTANTS,
    MOCAP_HIGH,
    MOCAP_LOW,
    OBS_SIZE,
    OUTCOME_SIZE,
    START_ATTRIBUTES,
    TaskCode,
    compile_observe,
)
from envs.native_task.declaration import NativeTask
from envs.worker.tasks import GymnasiumTask
from metarl.errors import MESSAGE_LIMIT, UserError, printable
from metarl.system.user_module import UserModule, describe

EDITED = ("body_pos", "body_quat", "site_pos")
"""Arrays of the model that `place` may change."""
GUARDED = ("body_", "geom_", "site_", "jnt_", "dof_", "actuator_", "eq_", "tendon_", "qpos")
"""Prefixes of arrays that `place` must not change, except those in `EDITED`."""
RESET_STEPS = 50
"""Steps in which the hand moves to its initial position, as in the official reset."""
METRES_PER_ACTION = 0.01
HAND_WELD = "metarl_hand"
WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)
"""Official parameters of the weld between the hand and the mocap body that actions move."""

ASSETS = Path(metaworld.__file__).parent / "assets"
SCENE = f"""
<mujoco>
  <compiler meshdir="{ASSETS}/sawyer_xyz" texturedir="{ASSETS}/sawyer_xyz"/>
  <include file="{ASSETS}/scene/basic_scene.xml"/>
  <include file="{ASSETS}/objects/assets/xyz_base_dependencies.xml"/>
  <worldbody>
    <include file="{ASSETS}/objects/assets/xyz_base.xml"/>
  </worldbody>
  <actuator>
    <position joint="r_close" kp="400" ctrllimited="true" ctrlrange="-1 1"/>
    <position joint="l_close" kp="400" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
  <equality>
    <weld name="{HAND_WELD}" body1="mocap" body2="hand" solref="0.02 1"/>
  </equality>
  <include file="task.xml"/>
</mujoco>
"""


def sawyer_model(xml: str) -> mujoco.MjModel:
    """Model of a task's MJCF together with Meta-World's table and Sawyer arm.

    Raises:
        ValueError: MuJoCo cannot compile it.
    """
    model = mujoco.MjModel.from_xml_string(SCENE, {"task.xml": xml.encode()})
    model.equality(HAND_WELD).data[: len(WELD)] = WELD
    return model


def with_hand_at(
    model: mujoco.MjModel, position: tuple[float, float, float], *, frame_skip: int
) -> mujoco.MjData:
    """Simulation after the official reset of the hand: gripper open, at a position (m)."""
    data = mujoco.MjData(model)
    for _ in range(RESET_STEPS):
        data.mocap_pos[0] = position
        data.mocap_quat[0] = MOCAP_QUAT
        data.ctrl[:2] = -1.0, 1.0
        mujoco.mj_step(model, data, nstep=frame_skip)
    return data


class Starts:
    """The scene of a class of tasks, its compiled code, and the start of each task's episodes.

    Args:
        declared: the class of tasks.
        module: the module that declares it.

    Raises:
        UserError: MuJoCo cannot compile the scene, a reading is not in it, or the reward cannot be
            compiled.
    """

    def __init__(self, declared: NativeTask, module: UserModule) -> None:
        self.declared = declared
        self._source = module.source
        if not isinstance(declared.reward, Dispatcher):
            raise self._mistake("the reward is not compiled; decorate it with @inner")
        if not 1 <= len(declared.objects) <= 2 or declared.frame_skip < 1:
            raise self._mistake(
                f"there are {len(declared.objects)} objects and a frame_skip of "
                f"{declared.frame_skip}; the engine takes 1 or 2 objects and a frame_skip from 1 on"
            )
        code = TaskCode(
            # Unique, because one process may load the compiled code of two modules.
            env_name=f"{module.name}_{(module.content_hash or '')[:16]}",
            reward=declared.reward,
            objects=declared.objects,
            readings=declared.readings,
        )
        try:
            model = sawyer_model(declared.xml)
            readings = [source.reading(model) for source in code.sources()]
            model.camera(declared.camera)
        except (ValueError, KeyError) as error:
            advice = "; give bodies with joints an <inertial>" if "inertia" in str(error) else ""
            raise self._mistake(f"the scene: {_message(error)}{advice}") from error
        self.scene = SharedModel(model, EDITED, readings)
        try:
            self.observe = compile_observe(code)
        except NumbaError as error:
            raise self._mistake(f"the reward does not compile: {_message(error)}") from error
        self.dt = declared.frame_skip * model.opt.timestep
        self._placing = model.__copy__()
        rest = with_hand_at(model, declared.hand_init, frame_skip=declared.frame_skip)
        self._at_rest = np.empty(self.scene.state_size)
        mujoco.mj_getState(model, rest, self._at_rest, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._known: dict[bytes, Snapshot] = {}

    def snapshot(self, task: GymnasiumTask) -> Snapshot:
        """Snapshot of the start of a task's episodes.

        Raises:
            UserError: `place` fails or makes a forbidden change, or the reward is not finite.
        """
        key = task.parameters.tobytes()
        if key not in self._known:
            self._known[key] = self._observed(self._placed(task), task)
        return self._known[key]

    def _placed(self, task: GymnasiumTask) -> Snapshot:
        """Snapshot of the moment after `place`, without its observation."""
        model, original = self._placing, self.scene.model
        for name in EDITED:
            getattr(model, name)[:] = getattr(original, name)
        data = mujoco.MjData(model)
        mujoco.mj_setState(model, data, self._at_rest, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_kinematics(model, data)  # `mj_forward` would change the solver's warm start
        try:
            target = self.declared.place(model, data, task.value)
            given = np.full(3, np.nan) if target is None else np.array(target, np.float64)
        except Exception as error:  # the user's code
            raise self._mistake(f"place fails for {_shown(task)}: {describe(error)}") from error
        if given.shape != (3,):
            raise self._mistake(f"place must return a target (x, y, z), but returned {target!r}")
        self._check_edits(model)
        mujoco.mj_forward(model, data)
        if task.parameters.size > MAX_CONSTANTS - EXTRA_CONSTANTS:
            raise self._mistake(
                f"a task has {task.parameters.size} numbers; the engine takes up to "
                f"{MAX_CONSTANTS - EXTRA_CONSTANTS}"
            )
        constants = np.full(MAX_CONSTANTS, np.nan)
        tips = [data.site(name).xpos for name in ("rightEndEffector", "leftEndEffector")]
        fixed = {
            START_ATTRIBUTES["_target_pos"]: given,
            START_ATTRIBUTES["init_tcp"]: (tips[0] + tips[1]) / 2.0,
            START_ATTRIBUTES["hand_init_pos"]: self.declared.hand_init,
            MOCAP_LOW: self.declared.hand_low,
            MOCAP_HIGH: self.declared.hand_high,
            EXTRA_CONSTANTS: task.parameters,
        }
        for at, numbers in fixed.items():
            constants[at : at + len(numbers)] = numbers
        constants[ACTION_SCALE] = METRES_PER_ACTION
        unseen = np.zeros(OBS_SIZE)
        return self.scene.snapshot(
            model, data, constants=constants, memory=unseen[:FRAME_SIZE], obs=unseen
        )

    def _observed(self, placed: Snapshot, task: GymnasiumTask) -> Snapshot:
        """The snapshot with its observation, whose last frame equals the current one."""
        probe = Batch(
            num_slots=1,
            action_size=ACTION_SIZE,
            obs_size=OBS_SIZE,
            outcome_size=OUTCOME_SIZE,
            readings_size=self.scene.num_readings,
            num_substeps=self.declared.frame_skip,
            finish="forward",
            horizon=2,
            num_threads=1,
        )
        act = compiled_act()
        probe.place(0, self.scene, replace(placed, obs=None), act, self.observe)
        probe.restart()
        frame: Float64[np.ndarray, " 18"] = probe.obs[0, :FRAME_SIZE].copy()
        obj_init = START_ATTRIBUTES["obj_init_pos"]
        placed.constants[obj_init : obj_init + 3] = frame[FIRST_OBJECT : FIRST_OBJECT + 3]
        obs = np.concatenate([frame, frame, np.zeros(OBS_SIZE - 2 * FRAME_SIZE)])
        observed = replace(placed, memory=frame, obs=obs)
        probe.place(0, self.scene, observed, act, self.observe)
        probe.restart()
        probe.step(np.zeros((1, ACTION_SIZE), np.float32))
        if not (np.isfinite(probe.final_obs).all() and np.isfinite(probe.outcome).all()):
            raise self._mistake(
                f"after a step of {_shown(task)} the observation or the outcome is not finite: "
                f"{probe.outcome[0].tolist()}"
            )
        return observed

    def _check_edits(self, model: mujoco.MjModel) -> None:
        """Checks that `place` changed only arrays of which each slot has its own copy."""
        original = self.scene.model
        for name in dir(model):
            if name in EDITED or not name.startswith(GUARDED):
                continue
            if not np.array_equal(getattr(model, name), getattr(original, name), equal_nan=True):
                getattr(model, name)[:] = getattr(original, name)
                raise self._mistake(
                    f"place changed model.{name}; it may change {', '.join(EDITED)}"
                )
        moved = (model.site_pos != original.site_pos).any(axis=1)
        stuck = np.flatnonzero(
            moved & (model.site_sameframe == mujoco.mjtSameFrame.mjSAMEFRAME_BODY)
        )
        if stuck.size:
            raise self._mistake(
                f"the site {model.site(stuck[0]).name} cannot be moved, as the XML puts it at its "
                "body's origin; give it another pos there"
            )

    def _mistake(self, text: str) -> UserError:
        return UserError(printable(f"{self._source}: {text}", limit=MESSAGE_LIMIT))


def _shown(task: GymnasiumTask) -> str:
    return printable(f"task {task.value!r}", limit=200)


def _message(error: Exception) -> str:
    """Text of an exception, without the quotes that a KeyError adds."""
    return printable(error.args[0] if error.args else error, limit=MESSAGE_LIMIT)
