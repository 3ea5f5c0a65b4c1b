"""Scalar code for vectors of three numbers, positions and displacements (m), and for rotations.

It allocates no memory, so it compiles for a CPU and for a GPU.
"""

import math
from typing import TypeVar

import numpy as np
from jaxtyping import Float64

from envs.engine.compiled import inner
from envs.metaworld.tasks.values import Quaternion, Vector

N = TypeVar("N", float, np.float32)


@inner
def vec(array: Float64[np.ndarray, " E"], start: int) -> Vector:
    """Three numbers of an array as a vector."""
    return array[start], array[start + 1], array[start + 2]


@inner
def plus(a: Vector, b: Vector) -> Vector:
    """Sum of two vectors."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@inner
def minus(a: Vector, b: Vector) -> Vector:
    """Difference of two vectors."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


@inner
def scaled(a: Vector, b: Vector) -> Vector:
    """Element-wise product of two vectors."""
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


@inner
def norm(a: Vector) -> float:
    """Euclidean length of a vector."""
    return math.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])


@inner
def distance(a: Vector, b: Vector) -> float:
    """Euclidean distance of two points."""
    return norm(minus(a, b))


@inner
def distance_xy(a: Vector, b: Vector) -> float:
    """Distance of two points in the x-y plane."""
    x, y = a[0] - b[0], a[1] - b[1]
    return math.sqrt(x * x + y * y)


@inner
def distance_xz(a: Vector, b: Vector) -> float:
    """Distance of two points in the x-z plane."""
    x, z = a[0] - b[0], a[2] - b[2]
    return math.sqrt(x * x + z * z)


@inner
def clip(x: N, low: N, high: N) -> N:
    """`np.clip` of a number."""
    return min(max(x, low), high)


@inner
def quaternion(m: Float64[np.ndarray, " 9"]) -> Quaternion:
    """Quaternion (x, y, z, w) of a rotation matrix (9 numbers, row by row).

    It equals `scipy.spatial.transform.Rotation.from_matrix(m).as_quat()`, sign included: the
    largest of the three diagonal elements and the trace selects the formula, the first if equal.
    """
    trace = m[0] + m[4] + m[8]
    if m[0] >= m[4] and m[0] >= m[8] and m[0] >= trace:
        x, y, z, w = 1.0 - trace + 2.0 * m[0], m[3] + m[1], m[6] + m[2], m[7] - m[5]
    elif m[4] >= m[8] and m[4] >= trace:
        x, y, z, w = m[3] + m[1], 1.0 - trace + 2.0 * m[4], m[7] + m[5], m[2] - m[6]
    elif m[8] >= trace:
        x, y, z, w = m[6] + m[2], m[7] + m[5], 1.0 - trace + 2.0 * m[8], m[3] - m[1]
    else:
        x, y, z, w = m[7] - m[5], m[2] - m[6], m[3] - m[1], 1.0 + trace
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return x / length, y / length, z / length, w / length
