"""Tasks in which an object on the table is pushed or pulled to the target."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TaskCode,
    body_matrix,
    body_pos,
    geom_matrix,
    geom_pos,
)
from envs.metaworld.tasks.shared import (
    HIGH,
    MEDIUM,
    add,
    gripper_caging_reward,
    hamacher_product,
    long_tail,
    multiply,
    pads_around_reward,
)
from envs.metaworld.tasks.values import Now, Outcome, Rounded, Start
from envs.metaworld.tasks.vectors import clip, distance, minus, norm, scaled

TARGET_RADIUS = 0.05
SUCCESS_RADIUS = 0.07  # for all tasks except push-v3
NEAR_OBJECT = 0.03
HELD = 0.02  # distance of tcp and puck below which it counts as held

PUSH_WALL_MIDPOINT = (-0.05, 0.77)  # beside the wall, at the puck's height
PUSH_WALL_SCALE = (3.0, 1.0, 1.0)
PUSH_WALL_PASSED = 0.75  # y beyond which the target replaces the midpoint

PUSH_BACK_HELD = 0.01
PUSH_BACK_OPENED = 0.55  # a gripper that holds the puck is less open
PUSH_BACK_NEARER = 0.01  # decrease of the puck's distance to the target

COFFEE_SCALE = (2.0, 2.0, 1.0)
COFFEE_HELD = 0.04

SOCCER_SCALE = (3.0, 1.0, 1.0)
SOCCER_TARGET_RADIUS = 0.07
GOAL_DEPTH = 0.1  # distance of the goal line before the target
GOAL_HALF_WIDTH = 0.10


@inner
def _puck_grasped(now: Now, start: Start) -> Rounded:
    """Caging reward of push-v3 and push-wall-v3, and True if it is a float32 (`single`)."""
    return gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        object_reach_radius=0.01,
        obj_radius=0.015,
        pad_success_thresh=0.05,
        xz_thresh=0.005,
        density=HIGH,
    )


@inner
def push(now: Now, start: Start) -> Outcome:
    """push-v3: hold the puck and push it to the target."""
    tcp_to_obj = distance(now.obj, now.tcp)
    target_to_obj = distance(now.obj, start.target)
    margin = distance(start.obj_init, start.target)
    in_place = long_tail(target_to_obj, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    object_grasped, single = _puck_grasped(now, start)
    reward = multiply(2.0, object_grasped, single)
    if tcp_to_obj < HELD and now.opened > 0.0:
        more = add(add(1.0, reward, single), 5.0 * in_place, single)
        reward = add(reward, more, single)
    if target_to_obj < TARGET_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=target_to_obj <= TARGET_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


@inner
def push_wall(now: Now, start: Start) -> Outcome:
    """push-wall-v3: hold the puck and push it around a wall to the target."""
    midpoint = PUSH_WALL_MIDPOINT[0], PUSH_WALL_MIDPOINT[1], now.obj[2]
    tcp_to_obj = distance(now.obj, now.tcp)
    obj_to_midpoint = norm(scaled(minus(now.obj, midpoint), PUSH_WALL_SCALE))
    midpoint_margin = norm(scaled(minus(start.obj_init, midpoint), PUSH_WALL_SCALE))
    at_midpoint = long_tail(obj_to_midpoint, lower=0.0, upper=TARGET_RADIUS, margin=midpoint_margin)
    obj_to_target = distance(now.obj, start.target)
    target_margin = distance(start.obj_init, start.target)
    at_target = long_tail(obj_to_target, lower=0.0, upper=TARGET_RADIUS, margin=target_margin)
    object_grasped, single = _puck_grasped(now, start)
    reward = multiply(2.0, object_grasped, single)
    if tcp_to_obj < HELD and now.opened > 0.0:
        reward = add(reward, 1.0, single)
        if now.obj[1] > PUSH_WALL_PASSED:
            reward = add(add(reward, 4.0, single), 3.0 * at_target, single)
        else:
            reward = add(reward, 4.0 * at_midpoint, single)
    if obj_to_target < TARGET_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=obj_to_target <= SUCCESS_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=at_target,
        obj_to_target=obj_to_target,
    )


@inner
def push_back(now: Now, start: Start) -> Outcome:
    """push-back-v3: hold the puck and pull it back to the target."""
    tcp_to_obj = distance(now.obj, now.tcp)
    target_to_obj = distance(now.obj, start.target)
    margin = distance(start.obj_init, start.target)
    in_place = long_tail(target_to_obj, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    object_grasped = pads_around_reward(
        now, start, obj_radius=0.007, grip_margin=0.003, xz_margin=0.01
    )
    reward = hamacher_product(object_grasped, in_place)
    held = tcp_to_obj < PUSH_BACK_HELD and 0.0 < now.opened < PUSH_BACK_OPENED
    if held and margin - target_to_obj > PUSH_BACK_NEARER:
        reward += 1.0 + 5.0 * in_place
    if target_to_obj < TARGET_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=target_to_obj <= SUCCESS_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


@inner
def coffee_mug(now: Now, start: Start) -> Outcome:
    """coffee-push-v3, coffee-pull-v3: hold the mug and bring it to the target.

    The two official rewards are identical.
    """
    target_to_obj = norm(scaled(minus(now.obj, start.target), COFFEE_SCALE))
    margin = norm(scaled(minus(start.obj_init, start.target), COFFEE_SCALE))
    in_place = long_tail(target_to_obj, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    tcp_to_obj = distance(now.obj, now.tcp)
    object_grasped, single = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        object_reach_radius=0.04,
        obj_radius=0.02,
        pad_success_thresh=0.05,
        xz_thresh=0.05,
        density=MEDIUM,
        desired_gripper_effort=0.7,
    )
    reward = hamacher_product(object_grasped, in_place, single)
    if tcp_to_obj < COFFEE_HELD and now.opened > 0.0:
        reward = add(reward, 1.0 + 5.0 * in_place, single)
    if target_to_obj < TARGET_RADIUS:
        reward = 10.0
    obj_to_target = distance(now.obj, start.target)  # not scaled
    return Outcome(
        reward=reward,
        success=obj_to_target <= SUCCESS_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


@inner
def soccer(now: Now, start: Start) -> Outcome:
    """soccer-v3: push the ball into the goal."""
    tcp_to_obj = distance(now.obj, now.tcp)
    target_to_obj = norm(scaled(minus(now.obj, start.target), SOCCER_SCALE))
    # Officially measured from the ball, not from the target, so the margin grows as the ball moves.
    margin = norm(scaled(minus(now.obj, start.obj_init), SOCCER_SCALE))
    in_place = long_tail(target_to_obj, lower=0.0, upper=SOCCER_TARGET_RADIUS, margin=margin)
    goal_line = start.target[1] - GOAL_DEPTH
    if now.obj[1] > goal_line and abs(now.obj[0] - start.target[0]) > GOAL_HALF_WIDTH:
        behind = (now.obj[1] - goal_line) / (1.0 - goal_line)
        in_place = clip(in_place - 2.0 * behind, 0.0, 1.0)
    object_grasped = pads_around_reward(
        now, start, obj_radius=0.013, grip_margin=0.01, xz_margin=0.005
    )
    reward = 3.0 * object_grasped + 6.5 * in_place
    if target_to_obj < SOCCER_TARGET_RADIUS:
        reward = 10.0
    obj_to_target = distance(now.obj, start.target)  # not scaled
    return Outcome(
        reward=reward,
        success=obj_to_target <= SUCCESS_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


TASK_CLASSES = (
    TaskCode(
        env_name="push-v3",
        reward=push,
        objects=(Object(body_pos("obj"), geom_matrix("objGeom")),),
    ),
    TaskCode(
        env_name="push-wall-v3",
        reward=push_wall,
        objects=(Object(geom_pos("objGeom"), geom_matrix("objGeom")),),
    ),
    TaskCode(
        env_name="push-back-v3",
        reward=push_back,
        objects=(Object(geom_pos("objGeom"), geom_matrix("objGeom")),),
    ),
    TaskCode(
        env_name="coffee-push-v3",
        reward=coffee_mug,
        objects=(Object(body_pos("obj"), geom_matrix("mug")),),
    ),
    TaskCode(
        env_name="coffee-pull-v3",
        reward=coffee_mug,
        objects=(Object(body_pos("obj"), geom_matrix("mug")),),
    ),
    TaskCode(
        env_name="soccer-v3",
        reward=soccer,
        objects=(Object(body_pos("soccer_ball"), body_matrix("soccer_ball")),),
    ),
)
