"""Official formulas that the rewards of many tasks share, bit-equal where possible.

Everything is scalar code: vectors are tuples of three floats and no memory is allocated, so it
compiles for a CPU and for a GPU.

Official actions are float32, and NumPy returns float32 for an operation of a float32 and a Python
float. So once the gripper's action enters a reward, further arithmetic is in float32. Functions
here with a last parameter `single` reproduce that: if it is True, they round as float32 does.
"""

import math

import numpy as np

from envs.engine.compiled import inner
from envs.metaworld.tasks.values import Now, Quaternion, Rounded, Start, Vector
from envs.metaworld.tasks.vectors import clip, distance, distance_xz, minus

VALUE_AT_MARGIN = 0.1
LONG_TAIL_SCALE = math.sqrt(1 / VALUE_AT_MARGIN - 1)
GAUSSIAN_SCALE = math.sqrt(-2 * math.log(VALUE_AT_MARGIN))
CAGED = 0.97  # caging above which closing the gripper counts


# --- float32, as NumPy's promotion has it --------------------------------------------------------


@inner
def rounded(x: float, single: bool) -> float:
    """x, rounded to float32 if `single`."""
    return float(np.float32(x)) if single else float(x)


@inner
def add(a: float, b: float, single: bool) -> float:
    """a + b."""
    return rounded(rounded(a, single) + rounded(b, single), single)


@inner
def subtract(a: float, b: float, single: bool) -> float:
    """a - b."""
    return rounded(rounded(a, single) - rounded(b, single), single)


@inner
def multiply(a: float, b: float, single: bool) -> float:
    """a * b."""
    return rounded(rounded(a, single) * rounded(b, single), single)


@inner
def divide(a: float, b: float, single: bool) -> float:
    """a / b."""
    return rounded(rounded(a, single) / rounded(b, single), single)


# --- metaworld.utils.reward_utils ----------------------------------------------------------------


@inner
def _beyond(x: float, lower: float, upper: float, margin: float) -> float:
    """Distance of x from the bounds, in margins; negative inside them."""
    if margin < 0.0:
        return math.nan  # officially a ValueError
    if lower <= x <= upper:
        return -1.0
    if margin == 0.0:
        return math.inf
    return (lower - x if x < lower else x - upper) / margin


@inner
def long_tail(x: float, lower: float, upper: float, margin: float) -> float:
    """`tolerance(x, bounds=(lower, upper), margin=margin, sigmoid="long_tail")`."""
    d = _beyond(x, lower=lower, upper=upper, margin=margin)
    if d < 0.0:
        return 1.0
    s = d * LONG_TAIL_SCALE
    return 1.0 / (s * s + 1.0)


@inner
def gaussian(x: float, lower: float, upper: float, margin: float) -> float:
    """`tolerance(x, bounds=(lower, upper), margin=margin, sigmoid="gaussian")`."""
    d = _beyond(x, lower=lower, upper=upper, margin=margin)
    if d < 0.0:
        return 1.0
    s = d * GAUSSIAN_SCALE
    return math.exp(-0.5 * (s * s))


@inner
def hamacher_product(a: float, b: float, single: bool = False) -> float:
    """`hamacher_product(a, b)` of two numbers in [0, 1]."""
    product = multiply(a, b, single)
    denominator = subtract(add(a, b, single), product, single)
    return divide(product, denominator, single) if denominator > 0.0 else 0.0


@inner
def _between(x: float, zero: float, one: float) -> bool:
    return zero <= x <= one if one >= zero else one <= x <= zero


@inner
def rect_prism_tolerance(point: Vector, zero: Vector, one: Vector) -> float:
    """`rect_prism_tolerance(curr=point, zero=zero, one=one)` of three points."""
    inside = (
        _between(point[0], zero[0], one[0])
        and _between(point[1], zero[1], one[1])
        and _between(point[2], zero[2], one[2])
    )
    if not inside:
        return 1.0
    along, whole = minus(point, zero), minus(one, zero)
    return (along[0] / whole[0]) * (along[1] / whole[1]) * (along[2] / whole[2])


# --- the gripper ---------------------------------------------------------------------------------


@inner
def gripper_closed(grip: np.float32, effort: float) -> Rounded:
    """Share of an effort with which the gripper closes: `min(max(0, action[-1]), effort) / effort`.

    Returns:
        The number in [0, 1], and True if it is officially a float32 (`single`).
    """
    if grip <= np.float32(0.0):
        return 0.0, False
    if grip > np.float32(effort):
        return 1.0, False
    return float(grip / np.float32(effort)), True


@inner
def caging_and_gripping(caging: float, grip: np.float32, effort: float) -> Rounded:
    """Common end of all caging rewards: the Hamacher product of caging and gripping.

    Returns:
        The product, and True if it is officially a float32 (`single`).
    """
    if caging > CAGED:
        gripping, single = gripper_closed(grip, effort)
    else:
        gripping, single = 0.0, False
    return hamacher_product(caging, gripping, single), single


@inner
def sideways_caging(
    left_pad: Vector,
    right_pad: Vector,
    obj: Vector,
    obj_init: Vector,
    obj_radius: float,
    pad_success_thresh: float,
) -> float:  # y-axis part of `SawyerXYZEnv._gripper_caging_reward`
    """Quality of the pads' positions left and right of the object, in [0, 1]."""
    left_margin = abs(abs(left_pad[1] - obj_init[1]) - pad_success_thresh)
    right_margin = abs(abs(right_pad[1] - obj_init[1]) - pad_success_thresh)
    left = long_tail(
        abs(left_pad[1] - obj[1]), lower=obj_radius, upper=pad_success_thresh, margin=left_margin
    )
    right = long_tail(
        abs(right_pad[1] - obj[1]), lower=obj_radius, upper=pad_success_thresh, margin=right_margin
    )
    return hamacher_product(left, right)


HIGH, MEDIUM, SPARSE = 2, 1, 0
"""Densities of `gripper_caging_reward`: `high_density`, `medium_density`, neither."""


@inner
def gripper_caging_reward(
    now: Now,
    start: Start,
    obj: Vector,
    obj_init: Vector,
    obj_radius: float,
    pad_success_thresh: float,
    object_reach_radius: float,
    xz_thresh: float,
    density: int,
    desired_gripper_effort: float = 1.0,
) -> Rounded:
    """`SawyerXYZEnv._gripper_caging_reward`: quality of the gripper's hold of the object.

    Args:
        now, start: arguments of the task's reward function.
        obj: official `obj_pos` (m).
        obj_init: official `self.obj_init_pos` (m), which is `start.obj_init` unless that moves.
        density: HIGH, MEDIUM or SPARSE.

    Returns:
        The reward in [0, 1], and True if it is officially a float32 (`single`).
    """
    caging_y = sideways_caging(
        left_pad=now.left_pad,
        right_pad=now.right_pad,
        obj=obj,
        obj_init=obj_init,
        obj_radius=obj_radius,
        pad_success_thresh=pad_success_thresh,
    )
    margin_xz = distance_xz(obj_init, start.init_tcp) - xz_thresh
    caging_xz = long_tail(distance_xz(now.tcp, obj), lower=0.0, upper=xz_thresh, margin=margin_xz)
    caging = hamacher_product(caging_y, caging_xz)
    held, single = caging_and_gripping(caging, grip=now.grip, effort=desired_gripper_effort)
    if density == HIGH:
        held = divide(add(held, caging, single), 2.0, single)
    elif density == MEDIUM:
        reach_margin = abs(distance(obj_init, start.init_tcp) - object_reach_radius)
        reach = long_tail(
            distance(obj, now.tcp), lower=0.0, upper=object_reach_radius, margin=reach_margin
        )
        held = divide(add(held, reach, single), 2.0, single)
    return held, single


AROUND = 0.95  # caging above which `pads_around_reward` counts the distance of the pads
PAD_DISTANCE = 0.05  # largest distance of a pad from the object's centre


@inner
def pads_around_reward(
    now: Now, start: Start, obj_radius: float, grip_margin: float, xz_margin: float
) -> float:
    """`_gripper_caging_reward` of push-back, soccer, sweep and sweep-into: pads around the object.

    Unlike the others it does not depend on the action, so it is never a float32.

    Args:
        now, start: arguments of the task's reward function.
        obj_radius: smallest distance of a pad from the object's centre (m).
        grip_margin: additional distance at which a pad still counts as gripping (m).
        xz_margin: official `x_z_success_margin` (m).

    Returns:
        The reward in [0, 1].
    """
    left, right = now.left_pad[1] - now.obj[1], now.obj[1] - now.right_pad[1]
    left_margin = abs(abs(left) - PAD_DISTANCE)
    right_margin = abs(abs(right) - PAD_DISTANCE)
    caging_y = hamacher_product(
        long_tail(right, lower=obj_radius, upper=PAD_DISTANCE, margin=right_margin),
        long_tail(left, lower=obj_radius, upper=PAD_DISTANCE, margin=left_margin),
    )
    grip_distance = obj_radius + grip_margin
    gripping_y = hamacher_product(
        long_tail(right, lower=obj_radius, upper=grip_distance, margin=right_margin),
        long_tail(left, lower=obj_radius, upper=grip_distance, margin=left_margin),
    )
    margin_xz = distance_xz(start.obj_init, start.init_tcp) - xz_margin
    caging_xz = long_tail(
        distance_xz(now.tcp, now.obj), lower=0.0, upper=xz_margin, margin=margin_xz
    )
    caging = hamacher_product(caging_y, caging_xz)
    return (caging + (gripping_y if caging > AROUND else 0.0)) / 2.0


# --- objects with a handle -----------------------------------------------------------------------

QUARTER_TURN = (0.707, 0.0, 0.0, 0.707)
"""Initial quaternion of a wrench or a lid, rounded as in the official code."""


@inner
def grab_effort(grip: np.float32) -> float:
    """`_reward_grab_effort` of door-open and box-close: effort to close the gripper, in [0, 1].

    It is computed in float32 and returned as a float.
    """
    return float(
        (clip(grip, np.float32(-1.0), np.float32(1.0)) + np.float32(1.0)) / np.float32(2.0)
    )


@inner
def funnel_floor(radius: float, bottleneck: float, slope: float, height: float) -> float:
    """Height of a funnel's wall (m) at a distance from its axis; 0 within its bottleneck."""
    return 0.0 if radius <= bottleneck else slope * math.log(radius - bottleneck) + height


@inner
def above_floor(z: float, floor: float, margin: float) -> float:
    """Quality of a height above a funnel's wall, in [0, 1]; it forces an approach from above."""
    return 1.0 if z >= floor else long_tail(floor - z, lower=0.0, upper=0.01, margin=margin)


@inner
def turned_as(quat: Quaternion, ideal: Quaternion, tolerated: float) -> float:
    """`_reward_quat`: similarity of a quaternion to the ideal one, in [0, 1]."""
    a, b, c, d = quat[0] - ideal[0], quat[1] - ideal[1], quat[2] - ideal[2], quat[3] - ideal[3]
    return max(1.0 - math.sqrt(a * a + b * b + c * c + d * d) / tolerated, 0.0)


@inner
def handled_reward(
    now: Now, start: Start, in_place: float, handle_length: float, ideal: Quaternion, density: int
) -> tuple[float, float, float]:
    """Common part of assembly, disassemble and hammer: hold a tool by its handle, do not turn it.

    The handle lies along x and may be held anywhere: the caged point follows the hand's x within
    the length of the handle.

    Args:
        now, start: arguments of the task's reward function.
        in_place: quality of the position of the tool's head, in [0, 1].
        handle_length: length of the handle (m).
        ideal: ideal quaternion of the tool.
        density: density of the caging reward.

    Returns:
        The reward, the caging reward, and the quality of the tool's rotation.
    """
    within = abs(now.obj[0] - now.hand[0]) < handle_length / 2.0
    held, single = gripper_caging_reward(
        now,
        start,
        obj=(now.hand[0] if within else now.obj[0], now.obj[1], now.obj[2]),
        obj_init=start.obj_init,
        object_reach_radius=0.01,
        obj_radius=0.015,
        pad_success_thresh=0.02,
        xz_thresh=0.01,
        density=density,
    )
    turned = turned_as(now.quat, ideal=ideal, tolerated=0.4)
    reward = add(multiply(2.0, held, single), 6.0 * in_place, single)
    return multiply(reward, turned, single), held, turned
