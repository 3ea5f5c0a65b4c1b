"""Tasks with a door or its lock."""

import math

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TaskCode,
    body_pos,
    body_quat,
    geom_matrix,
    geom_pos,
    joint_pos,
    site_pos,
)
from envs.metaworld.tasks.shared import (
    above_floor,
    funnel_floor,
    gaussian,
    grab_effort,
    hamacher_product,
    long_tail,
)
from envs.metaworld.tasks.values import Now, Outcome, Start, Vector
from envs.metaworld.tasks.vectors import distance, distance_xy, minus, norm, plus, scaled, vec

DOOR_OPEN = 0.08  # distance along x between handle and target
GRIP_OFFSET = (-0.05, 0.0, 0.0)  # from the handle to the point to grip
HOOK_OFFSET = (0.05, 0.03, -0.01)  # from there to the goal of the hand
FUNNEL_RADIUS = 0.12
AJAR = math.pi / 90.0
WIDE_OPEN = math.pi / 2.0 + math.pi / 6

CLOSE_RADIUS = 0.05  # distance of handle and target below which the reward counts it as closed
CLOSE_SUCCESS_RADIUS = 0.08

LOCK_SCALE = (0.25, 1.0, 0.5)  # weights of the distance to the lock, by axis
LOCK_LENGTH = 0.1
SHOULDER_OFFSET = (0.0, 0.055, 0.07)  # from the hand to the gripper's shoulder, which pushes


@inner
def _ready_to_open(hand: Vector, grip_at: Vector) -> float:
    """Quality of the hand's position behind the handle; a funnel makes it come from above."""
    radius = distance_xy(hand, grip_at)
    floor = funnel_floor(radius, bottleneck=FUNNEL_RADIUS, slope=0.04, height=0.4)
    above = above_floor(hand[2], floor=floor, margin=floor / 2.0)
    missed = norm(minus(minus(hand, grip_at), HOOK_OFFSET))
    in_place = long_tail(missed, lower=0.0, upper=FUNNEL_RADIUS / 2.0, margin=0.5)
    return hamacher_product(above, in_place)


@inner
def door_open(now: Now, start: Start) -> Outcome:
    """door-open-v3: pull a door open by its handle."""
    angle = now.extra[0]  # hinge angle; opening is negative
    effort = grab_effort(now.grip)
    ready = _ready_to_open(now.hand, plus(now.obj, GRIP_OFFSET))
    wide = long_tail(WIDE_OPEN + angle, lower=0.0, upper=0.5, margin=math.pi / 3.0)
    opened = (0.2 if angle < -AJAR else 0.0) + 0.8 * wide
    success = abs(now.obj[0] - start.target[0]) <= DOOR_OPEN
    reward = 10.0 if success else 2.0 * hamacher_product(ready, effort) + 8.0 * opened
    return Outcome(
        reward=reward,
        success=success,
        near_object=ready,
        grasp_reward=effort,
        in_place_reward=opened,
        obj_to_target=0.0,
    )


@inner
def door_close(now: Now, start: Start) -> Outcome:
    """door-close-v3: push a door shut by its handle."""
    obj_to_target = distance(now.obj, start.target)
    margin = distance(start.obj_init, start.target)
    in_place = gaussian(obj_to_target, lower=0.0, upper=CLOSE_RADIUS, margin=margin)
    tcp_to_target = distance(now.tcp, start.target)
    hand_margin = distance(start.hand_init, now.obj) + 0.1
    hand_in_place = gaussian(
        tcp_to_target, lower=0.0, upper=0.25 * CLOSE_RADIUS, margin=hand_margin
    )
    closed = obj_to_target < CLOSE_RADIUS
    return Outcome(
        reward=10.0 if closed else 3.0 * hand_in_place + 6.0 * in_place,
        success=obj_to_target <= CLOSE_SUCCESS_RADIUS,
        near_object=0.0,
        grasp_reward=1.0,
        in_place_reward=hand_in_place,  # officially the hand's too
        obj_to_target=obj_to_target,
    )


@inner
def _turned(hint: float, near: float, to_lock: float, lock_to_target: float) -> Outcome:
    """Common end of both lock tasks: reward for the approach, and for the turn of the lock."""
    turned = long_tail(lock_to_target, lower=0.0, upper=0.005, margin=LOCK_LENGTH)
    return Outcome(
        reward=2.0 * hint + 8.0 * turned,
        success=lock_to_target <= 0.02,
        near_object=to_lock <= 0.05,
        grasp_reward=near,
        in_place_reward=turned,
        obj_to_target=lock_to_target,
    )


@inner
def door_lock(now: Now, start: Start) -> Outcome:
    """door-lock-v3: turn a door's lock down."""
    to_lock = norm(scaled(minus(now.obj, now.left_pad), LOCK_SCALE))
    # The official margin is the distance from the "initial" pad, which in fact moves with the pad.
    near = long_tail(to_lock, lower=0.0, upper=0.01, margin=to_lock)
    lock_to_target = abs(start.target[2] - now.obj[2])
    return _turned(
        hint=hamacher_product(now.opened, near),
        near=near,
        to_lock=to_lock,
        lock_to_target=lock_to_target,
    )


@inner
def door_unlock(now: Now, start: Start) -> Outcome:
    """door-unlock-v3: push a door's lock sideways."""
    lock_body = vec(now.extra, 0)  # the official `obj_init_pos`, which in fact moves
    shoulder_to_lock = norm(scaled(minus(plus(now.hand, SHOULDER_OFFSET), now.obj), LOCK_SCALE))
    shoulder_init = plus(start.init_tcp, SHOULDER_OFFSET)
    margin = norm(scaled(minus(shoulder_init, lock_body), LOCK_SCALE))
    ready = long_tail(shoulder_to_lock, lower=0.0, upper=0.02, margin=margin)
    lock_to_target = abs(start.target[0] - now.obj[0])
    return _turned(hint=ready, near=ready, to_lock=shoulder_to_lock, lock_to_target=lock_to_target)


TASK_CLASSES = (
    TaskCode(
        env_name="door-close-v3",
        reward=door_close,
        objects=(Object(geom_pos("handle"), geom_matrix("handle")),),
    ),
    TaskCode(
        env_name="door-lock-v3",
        reward=door_lock,
        objects=(Object(site_pos("lockStartLock"), body_quat("door_link")),),
    ),
    TaskCode(
        env_name="door-open-v3",
        reward=door_open,
        objects=(Object(geom_pos("handle"), geom_matrix("handle")),),
        readings=(joint_pos("doorjoint"),),
    ),
    TaskCode(
        env_name="door-unlock-v3",
        reward=door_unlock,
        objects=(Object(site_pos("lockStartUnlock"), body_quat("door_link")),),
        readings=(body_pos("lock_link"),),
    ),
)
