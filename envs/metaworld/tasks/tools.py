"""Tasks with a tool or a control: a hammer, a lever, a dial."""

import math

import numpy as np
from jaxtyping import Float64

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TaskCode,
    body_pos,
    body_quat,
    geom_matrix,
    joint_pos,
    site_pos,
)
from envs.metaworld.tasks.shared import (
    HIGH,
    gaussian,
    gripper_closed,
    hamacher_product,
    handled_reward,
    long_tail,
    multiply,
)
from envs.metaworld.tasks.values import Now, Outcome, Start, Vector
from envs.metaworld.tasks.vectors import distance, minus, norm, plus, scaled, vec

HAMMER_HANDLE_LENGTH = 0.14
HAMMER_HEAD = (0.16, 0.06, 0.0)  # from the hammer's position to its head
HAMMER_LIFTED_Z = 0.02
HAMMER_IDEAL = (1.0, 0.0, 0.0, 0.0)  # its initial quaternion
NAIL_DRIVEN = 0.09
DRIVEN_BY_HAMMER = 5.0  # reward above which it was the hammer that drove the nail in


@inner
def hammer(now: Now, start: Start) -> Outcome:
    """hammer-v3: pick up the hammer and drive the nail in."""
    head = plus(now.obj, HAMMER_HEAD)
    placed = long_tail(distance(start.target, head), lower=0.0, upper=0.02, margin=0.2)
    in_place = (0.1 if head[2] > HAMMER_LIFTED_Z else 0.0) + 0.9 * placed
    reward, held, turned = handled_reward(
        now,
        start,
        in_place=in_place,
        handle_length=HAMMER_HANDLE_LENGTH,
        ideal=HAMMER_IDEAL,
        density=HIGH,
    )
    success = now.extra[0] > NAIL_DRIVEN
    if success and reward > DRIVEN_BY_HAMMER:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=success,
        near_object=turned,
        grasp_reward=held,
        in_place_reward=in_place,
        obj_to_target=0.0,
    )


LEVER_SCALE = (4.0, 1.0, 4.0)  # y matters least: first below the lever, then against it
SHOULDER = (0.0, 0.055, 0.07)  # from the hand to its part that lifts the lever
SHOULDER_NEAR = 0.03
UPRIGHT = math.pi / 2.0
UPRIGHT_ERROR = math.pi / 24.0
ENGAGED_ERROR = math.pi / 48.0
ENGAGED_MARGIN = math.pi / 2.0 - math.pi / 12.0


@inner
def lever_pull(now: Now, start: Start) -> Outcome:
    """lever-pull-v3: lift the lever until it points up."""
    lever_init = vec(start.extra, 0)
    shoulder = norm(scaled(minus(plus(now.hand, SHOULDER), now.obj), LEVER_SCALE))
    ready_margin = norm(scaled(minus(plus(start.init_tcp, SHOULDER), lever_init), LEVER_SCALE))
    ready = long_tail(shoulder, lower=0.0, upper=0.02, margin=ready_margin)
    error = abs(-now.extra[0] - UPRIGHT)
    in_place_margin = distance(lever_init, start.target)
    in_place = long_tail(
        distance(now.obj, start.target), lower=0.0, upper=0.04, margin=in_place_margin
    )
    return Outcome(
        reward=10.0 * hamacher_product(ready, in_place),
        success=error <= UPRIGHT_ERROR,
        near_object=shoulder < SHOULDER_NEAR,
        grasp_reward=ready,
        in_place_reward=long_tail(error, lower=0.0, upper=ENGAGED_ERROR, margin=ENGAGED_MARGIN),
        obj_to_target=shoulder,
    )


DIAL_RADIUS = 0.05
DIAL_PUSH_OFFSET = (0.05, 0.02, 0.09)  # from the dial's handle to the point to push
DIAL_TARGET_RADIUS = 0.07
DIAL_REACH_RADIUS = 0.005
DIAL_NEAR = 0.01


@inner
def dial_offset(extra: Float64[np.ndarray, " E"]) -> Vector:
    """dial-turn-v3: displacement of the dial's handle from its centre (m)."""
    return DIAL_RADIUS * math.sin(extra[0]), DIAL_RADIUS * -math.cos(extra[0]), 0.0


@inner
def dial_turn(now: Now, start: Start) -> Outcome:
    """dial-turn-v3: turn the dial with the closed gripper."""
    push_at = plus(now.obj, DIAL_PUSH_OFFSET)
    push_at_init = vec(start.extra, 0)
    target_to_obj = distance(now.obj, start.target)
    margin = abs(distance(push_at_init, start.target) - DIAL_TARGET_RADIUS)
    in_place = long_tail(target_to_obj, lower=0.0, upper=DIAL_TARGET_RADIUS, margin=margin)
    tcp_to_obj = distance(push_at, now.tcp)
    reach_margin = abs(distance(push_at_init, start.init_tcp) - DIAL_REACH_RADIUS)
    closed, single = gripper_closed(now.grip, 1.0)
    reach = gaussian(tcp_to_obj, lower=0.0, upper=DIAL_REACH_RADIUS, margin=reach_margin)
    reach = hamacher_product(reach, closed, single)
    return Outcome(
        reward=multiply(10.0, hamacher_product(reach, in_place, single), single),
        success=target_to_obj <= DIAL_TARGET_RADIUS,
        near_object=tcp_to_obj <= DIAL_NEAR,
        grasp_reward=reach,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


TASK_CLASSES = (
    TaskCode(
        env_name="hammer-v3",
        reward=hammer,
        objects=(
            Object(body_pos("hammer"), body_quat("hammer")),
            Object(body_pos("nail_link"), body_quat("nail_link")),
        ),
        readings=(joint_pos("NailSlideJoint"),),
    ),
    TaskCode(
        env_name="lever-pull-v3",
        reward=lever_pull,
        objects=(Object(site_pos("leverStart"), geom_matrix("objGeom")),),
        readings=(joint_pos("LeverAxis"),),
        constants=("_lever_pos_init",),
    ),
    TaskCode(
        env_name="dial-turn-v3",
        reward=dial_turn,
        objects=(Object(body_pos("dial"), body_quat("dial"), dial_offset),),
        readings=(joint_pos("knob_Joint_1"),),
        constants=("dial_push_position",),
    ),
)
