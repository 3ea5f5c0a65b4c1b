"""Geometry of a MuJoCo model as triangles for a browser."""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see mujoco's C code.

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import mujoco
import numpy as np
from jaxtyping import Float, Float32, Int

SHOWN_GROUPS = 3
"""Number of groups of geoms and sites that are shown, as in MuJoCo's own viewer."""
AROUND, ALONG = 24, 8  # corners of round shapes, around and along their axis
PLANE_SIZE = 60.0  # half the side of an infinite plane, in metres


class Mesh(NamedTuple):
    """Triangles with a normal at each corner."""

    positions: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    triangles: Int[np.ndarray, "F 3"]


def encode(array: np.ndarray) -> str:
    """The bytes of an array as text."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def describe(model: mujoco.MjModel) -> dict[str, Any]:
    """All visible parts of a model: meshes, and the body, pose and colour of each part."""
    meshes: list[dict[str, Any]] = []
    drawn: list[dict[str, Any]] = []
    known: dict[tuple[Any, ...], int] = {}
    for kind in ("geom", "site"):
        for k in range(getattr(model, f"n{kind}")):
            rgba = _rgba(model, kind, k)
            if getattr(model, f"{kind}_group")[k] >= SHOWN_GROUPS or rgba[3] == 0:
                continue
            shape = int(getattr(model, f"{kind}_type")[k])
            size = getattr(model, f"{kind}_size")[k]
            mesh_id = int(model.geom_dataid[k]) if shape == mujoco.mjtGeom.mjGEOM_MESH else -1
            key = (shape, mesh_id, *(() if mesh_id >= 0 else size.tolist()))
            if key not in known:
                mesh = _mesh(model, mesh_id) if mesh_id >= 0 else _primitive(shape, size)
                if mesh is None:
                    continue
                known[key] = len(meshes)
                meshes.append(_encoded(mesh))
            drawn.append({
                "mesh": known[key],
                "body": int(getattr(model, f"{kind}_bodyid")[k]),
                "position": _rounded(getattr(model, f"{kind}_pos")[k]),
                "quaternion": _rounded(getattr(model, f"{kind}_quat")[k]),
                "rgba": _rounded(rgba),
                "checkered": bool(shape == mujoco.mjtGeom.mjGEOM_PLANE),
            })  # fmt: skip
    return {
        "meshes": meshes,
        "drawn": drawn,
        "cameras": [
            {"name": model.camera(k).name, "fovy": float(model.cam_fovy[k])}
            for k in range(model.ncam)
        ],
        "num_bodies": int(model.nbody),
        "center": _rounded(model.stat.center),
        "extent": float(model.stat.extent),
    }


def poses(model: mujoco.MjModel, data: mujoco.MjData) -> Float32[np.ndarray, "B 7"]:
    """Poses of all bodies, then of all cameras: position (m) and quaternion (w, x, y, z)."""
    turned = np.empty((model.ncam, 4))
    for k in range(model.ncam):
        mujoco.mju_mat2Quat(turned[k], data.cam_xmat[k])
    cameras = np.concatenate([data.cam_xpos, turned], axis=1)
    bodies = np.concatenate([data.xpos, data.xquat], axis=1)
    return np.concatenate([bodies, cameras]).astype(np.float32)


def _rounded(numbers: np.ndarray) -> list[float]:
    return np.round(numbers.astype(float), 5).tolist()


def _rgba(model: mujoco.MjModel, kind: str, k: int) -> np.ndarray:
    """Colour of a geom or site: its own, or its material's times the mean of the texture."""
    material = getattr(model, f"{kind}_matid")[k]
    if material < 0:
        return getattr(model, f"{kind}_rgba")[k]
    rgba = model.mat_rgba[material].copy()
    texture = max(model.mat_texid[material])
    if texture >= 0:
        start, channels = model.tex_adr[texture], model.tex_nchannel[texture]
        count = model.tex_height[texture] * model.tex_width[texture] * channels
        pixels = model.tex_data[start : start + count].reshape(-1, channels)
        rgba[:3] *= pixels[:, :3].mean(0) / 255
    return rgba


def _mesh(model: mujoco.MjModel, mesh: int) -> Mesh:
    """A mesh of the model, with one vertex per pair of position and normal."""
    vertices = slice(model.mesh_vertadr[mesh], model.mesh_vertadr[mesh] + model.mesh_vertnum[mesh])
    normals = slice(
        model.mesh_normaladr[mesh], model.mesh_normaladr[mesh] + model.mesh_normalnum[mesh]
    )
    faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    pairs = model.mesh_face[faces].astype(np.int64) * 2**32 + model.mesh_facenormal[faces]
    unique, triangles = np.unique(pairs, return_inverse=True)
    return Mesh(
        model.mesh_vert[vertices][unique >> 32],
        model.mesh_normal[normals][unique & (2**32 - 1)],
        triangles.reshape(-1, 3),
    )


def _primitive(shape: int, size: np.ndarray) -> Mesh | None:
    """Mesh of a primitive shape; None for shapes that are not drawn (height fields)."""
    geom = mujoco.mjtGeom
    quarter = np.linspace(0, np.pi / 2, ALONG)
    if shape == geom.mjGEOM_PLANE:
        half = np.where(size[:2] > 0, size[:2], PLANE_SIZE)
        corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * [*half, 1]
        return Mesh(corners, np.tile([0.0, 0, 1], (4, 1)), np.array([[0, 1, 2], [0, 2, 3]]))
    if shape == geom.mjGEOM_BOX:
        return _box(size)
    if shape in (geom.mjGEOM_SPHERE, geom.mjGEOM_ELLIPSOID):
        round_ = np.linspace(0, np.pi, 2 * ALONG)
        ball = _revolved(np.sin(round_), np.cos(round_), np.sin(round_), np.cos(round_))
        radii = np.full(3, size[0]) if shape == geom.mjGEOM_SPHERE else size
        normals = ball.normals / radii
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return Mesh(ball.positions * radii, normals, ball.triangles)
    if shape == geom.mjGEOM_CAPSULE:
        angles = np.concatenate([quarter, quarter + np.pi / 2])
        half = np.where(np.arange(2 * ALONG) < ALONG, size[1], -size[1])
        return _revolved(
            size[0] * np.sin(angles),
            size[0] * np.cos(angles) + half,
            np.sin(angles),
            np.cos(angles),
        )
    if shape == geom.mjGEOM_CYLINDER:
        radius, half = size[0], size[1]
        return _revolved(
            np.array([0, radius, radius, radius, radius, 0]),
            np.array([half, half, half, -half, -half, -half]),
            np.array([0.0, 0, 1, 1, 0, 0]),
            np.array([1.0, 1, 0, 0, -1, -1]),
        )
    return None


def _box(size: np.ndarray) -> Mesh:
    positions, normals = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal = sign * np.eye(3)[axis]
            right, up = np.eye(3)[(axis + 1) % 3] * sign, np.eye(3)[(axis + 2) % 3]
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                positions.append((normal + a * right + b * up) * size)
                normals.append(normal)
    first = 4 * np.arange(6)[:, None, None]
    triangles = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    return Mesh(np.array(positions), np.array(normals), triangles)


def _revolved(
    radius: np.ndarray, height: np.ndarray, normal_out: np.ndarray, normal_up: np.ndarray
) -> Mesh:
    """Surface of revolution of a profile, given from top to bottom, around the z axis."""
    angles = np.linspace(0, 2 * np.pi, AROUND + 1)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def turned(out: np.ndarray, up: np.ndarray) -> np.ndarray:
        return np.stack([cos * out, sin * out, np.broadcast_to(up, (len(angles), len(up)))], -1)

    points = len(radius)
    a = np.arange(AROUND)[:, None] * points + np.arange(points - 1)
    b, c, d = a + 1, a + points + 1, a + points
    triangles = np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
    return Mesh(
        turned(radius, height).reshape(-1, 3),
        turned(normal_out, normal_up).reshape(-1, 3),
        triangles,
    )


def _encoded(mesh: Mesh) -> dict[str, Any]:
    """Encoded mesh: positions as 16-bit fractions of its bounding box, normals with 8 bits."""
    low = mesh.positions.min(0)
    span = np.maximum(mesh.positions.max(0) - low, 1e-9)
    positions = np.round((mesh.positions - low) / span * 65535).astype(np.uint16)
    small = len(positions) <= 65536
    return {
        "low": low.astype(float).tolist(),
        "span": span.astype(float).tolist(),
        "positions": encode(positions),
        "normals": encode(np.round(mesh.normals * 127).astype(np.int8)),
        "triangles": encode(mesh.triangles.astype(np.uint16 if small else np.uint32)),
        "wide": not small,
    }
