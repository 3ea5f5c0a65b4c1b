"""Rendering of states of a scene, inside a worker process."""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see mujoco's C code.

from __future__ import annotations

import pickle
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64, UInt8

from metarl.rollout.scene import Scene

ROLLED = -0.1
"""A camera hangs upside down if the vertical component of its upward direction is below this."""
DRAFT_SHADOWS = 1024
"""Side of the shadow map in drafts (pixels); the default of models is 4096."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Scene, camera and size of the next pictures."""

    scene: bytes
    """Pickled scene; equal bytes mean equal scenes, to the bit."""
    camera: str
    draft: bool
    width: int
    height: int


class Artist:
    """Renderer of the states of one scene.

    Pictures are upright, although some cameras, such as Meta-World's `corner`, are defined upside
    down.
    """

    def __init__(self, stage: Stage) -> None:
        self._scene: Scene = pickle.loads(stage.scene)
        model = self._scene.model
        camera, width, height = stage.camera, stage.width, stage.height
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        self._data = mujoco.MjData(model)
        mujoco.mj_forward(model, self._data)
        if stage.draft:
            model.vis.quality.offsamples = 0
            model.vis.quality.shadowsize = min(DRAFT_SHADOWS, model.vis.quality.shadowsize)
        self._renderer = mujoco.Renderer(model, height, width)
        if stage.draft:
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._camera = mujoco.MjvCamera()
        if camera:
            self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self._camera.fixedcamid = model.camera(camera).id
        else:
            mujoco.mjv_defaultFreeCamera(model, self._camera)
        self._rolled = bool(camera) and is_rolled(model, self._camera.fixedcamid)
        self._looks_at = self._camera.lookat.copy()
        self._robot = _heaviest_tree(model)
        self._home = self._data.xpos[self._robot].copy()

    def draw(self, state: Float64[np.ndarray, " R"]) -> UInt8[np.ndarray, "H W 3"]:
        """A picture of a state."""
        self._scene.show(self._data, state)
        # A free camera follows the robot; a fixed one ignores this.
        moved = self._data.xpos[self._robot] - self._home
        self._camera.lookat[:2] = self._looks_at[:2] + moved[:2]
        self._renderer.update_scene(self._data, self._camera)
        picture = self._renderer.render()
        return np.ascontiguousarray(picture[::-1, ::-1]) if self._rolled else picture

    def close(self) -> None:
        """Releases the OpenGL context."""
        self._renderer.close()


def is_rolled(model: mujoco.MjModel, camera: int) -> bool:
    """True if a camera is defined upside down."""
    aimed = (mujoco.mjtCamLight.mjCAMLIGHT_TARGETBODY, mujoco.mjtCamLight.mjCAMLIGHT_TARGETBODYCOM)
    if model.cam_mode[camera] in aimed:  # MuJoCo itself keeps them upright
        return False
    upward = model.cam_mat0[camera].reshape(3, 3)[:, 1]
    return bool(upward[2] < ROLLED)


def _heaviest_tree(model: mujoco.MjModel) -> int:
    """The root body of the heaviest tree in the scene: the robot, mobile or fixed."""
    roots = np.flatnonzero((model.body_parentid == 0) & (np.arange(model.nbody) > 0))
    return int(roots[np.argmax(model.body_subtreemass[roots])]) if len(roots) else 0
