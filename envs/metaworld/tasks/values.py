"""Arguments and results of reward functions, with their shapes and units.

A reward function is `reward(now: Now, start: Start) -> Outcome`. Lengths are in metres, angles in
radians. Positions are in the world's frame: y points away from the robot, z up, and the table's top
is at z = 0.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

Vector = tuple[float, float, float]
"""A position or a displacement: x, y, z (m)."""
Quaternion = tuple[float, float, float, float]
"""A rotation, in the order of its source: (w, x, y, z) or (x, y, z, w)."""
Rounded = tuple[float, bool]
"""A number, and True if it is officially a float32 (`single`; see `shared`)."""


class Now(NamedTuple):
    """The scene after a step, and the action that led there."""

    hand: Vector
    """Position of the hand (m), clipped to the observation's bounds: `obs[0:3]`."""
    opened: float
    """Opening of the gripper, 0 (shut) to 1 (0.1 m between the claws): `obs[3]`."""
    obj: Vector
    """Position of the first object (m): `obs[4:7]`, officially `_get_pos_objects()`."""
    quat: Quaternion
    """Rotation of the first object: `obs[7:11]`, officially `_get_quat_objects()`."""
    obj2: Vector
    """Position of the second object (m): `obs[11:14]`; zeros if there is none."""
    tcp: Vector
    """Point between the fingertips (m): `tcp_center`."""
    left_pad: Vector
    """Position of the left finger's pad (m): `get_body_com("leftpad")`, also `init_left_pad`."""
    right_pad: Vector
    """Position of the right finger's pad (m): `get_body_com("rightpad")`, also `init_right_pad`."""
    grip: np.float32
    """Effort to close the gripper: `action[3]`, not clipped to [-1, 1]."""
    extra: Float64[np.ndarray, " E"]
    """The task's `readings`, concatenated: positions (m), joint angles (rad) or slides (m), forces
    (N)."""


class Start(NamedTuple):
    """Numbers that the reset fixes for all steps of an episode; NaN for those that it does not."""

    target: Vector
    """Position of the target (m): `_target_pos`."""
    obj_init: Vector
    """Position of the object at the start (m): `obj_init_pos`."""
    init_tcp: Vector
    """Point between the fingertips at the start (m): `init_tcp`."""
    hand_init: Vector
    """Position to which the reset moves the hand (m): `hand_init_pos`."""
    extra: Float64[np.ndarray, " E"]
    """The task's `constants`, concatenated, in the task's own units; for a declared `NativeTask`,
    the numbers of the task."""


class Outcome(NamedTuple):
    """The reward of a step, and the entries of `info` under their official names."""

    reward: float
    """Reward of the step, officially in [0, 10]."""
    success: bool
    """True if the task is solved in this step."""
    near_object: float | bool
    """True if the gripper is near the object; some classes put another number here."""
    grasp_reward: float
    """Quality of the grasp, or of the approach, officially in [0, 1]."""
    in_place_reward: float
    """Closeness of the object to its target, officially in [0, 1]."""
    obj_to_target: float
    """Distance from the object to its target (m); 0 if a class has none."""
