"""Tasks in which an object is picked up and put somewhere."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TaskCode,
    body_pos,
    body_quat,
    geom_matrix,
    geom_pos,
)
from envs.metaworld.tasks.shared import (
    HIGH,
    SPARSE,
    above_floor,
    add,
    caging_and_gripping,
    divide,
    funnel_floor,
    gripper_caging_reward,
    hamacher_product,
    long_tail,
)
from envs.metaworld.tasks.values import Now, Outcome, Rounded, Start
from envs.metaworld.tasks.vectors import (
    distance,
    distance_xy,
    distance_xz,
    minus,
    norm,
    scaled,
    vec,
)

TARGET_RADIUS = 0.05
SUCCESS_RADIUS = 0.07
NEAR_OBJECT = 0.03
HELD = 0.02  # distance of tcp and object below which it counts as held
LIFTED = 0.01


@inner
def pick_place_caging(now: Now, start: Start) -> Rounded:
    """`_gripper_caging_reward` of pick-place-v3; returns (reward, single) like the shared one."""
    pad_success_margin, xz_success_margin, obj_radius = 0.05, 0.005, 0.015
    obj_y = now.obj[1]
    right_margin = abs(abs(obj_y - now.right_pad[1]) - pad_success_margin)
    left_margin = abs(abs(obj_y - now.left_pad[1]) - pad_success_margin)
    right = long_tail(
        obj_y - now.right_pad[1], lower=obj_radius, upper=pad_success_margin, margin=right_margin
    )
    left = long_tail(
        now.left_pad[1] - obj_y, lower=obj_radius, upper=pad_success_margin, margin=left_margin
    )
    caging_y = hamacher_product(left, right)
    margin_xz = distance_xz(start.obj_init, start.init_tcp) - xz_success_margin
    caging_xz = long_tail(
        distance_xz(now.tcp, now.obj), lower=0.0, upper=xz_success_margin, margin=margin_xz
    )
    caging = hamacher_product(caging_y, caging_xz)
    held, single = caging_and_gripping(caging, grip=now.grip, effort=1.0)
    return divide(add(held, caging, single), 2.0, single), single


@inner
def pick_place(now: Now, start: Start) -> Outcome:
    """pick-place-v3: pick up the puck and bring it to a target in the air."""
    obj_to_target = distance(now.obj, start.target)
    tcp_to_obj = distance(now.obj, now.tcp)
    margin = distance(start.obj_init, start.target)
    in_place = long_tail(obj_to_target, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    object_grasped, single = pick_place_caging(now, start)
    reward = hamacher_product(object_grasped, in_place, single)
    if tcp_to_obj < HELD and now.opened > 0.0 and now.obj[2] - LIFTED > start.obj_init[2]:
        reward = add(reward, 1.0 + 5.0 * in_place, single)
    if obj_to_target < TARGET_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=obj_to_target <= SUCCESS_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


MIDPOINT_Y, MIDPOINT_Z = 0.77, 0.25  # above the wall, at the x of the target
MIDPOINT_SCALE = (1.0, 1.0, 3.0)  # height matters most: the puck must get over the wall
BEYOND_WALL_Y = 0.75


@inner
def pick_place_wall(now: Now, start: Start) -> Outcome:
    """pick-place-wall-v3: bring the puck over a wall, through a point above it, to the target."""
    lifted = 0.015
    midpoint = start.target[0], MIDPOINT_Y, MIDPOINT_Z
    tcp_to_obj = distance(now.obj, now.tcp)
    to_midpoint = norm(scaled(minus(now.obj, midpoint), MIDPOINT_SCALE))
    midpoint_margin = norm(scaled(minus(start.obj_init, midpoint), MIDPOINT_SCALE))
    at_midpoint = long_tail(to_midpoint, lower=0.0, upper=TARGET_RADIUS, margin=midpoint_margin)
    obj_to_target = distance(now.obj, start.target)
    margin = distance(start.obj_init, start.target)
    in_place = long_tail(obj_to_target, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    object_grasped, single = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        obj_radius=0.015,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.005,
        density=SPARSE,
    )
    reward = hamacher_product(object_grasped, at_midpoint, single)
    if tcp_to_obj < HELD and now.opened > 0.0 and now.obj[2] - lifted > start.obj_init[2]:
        reward = add(reward, 1.0, single)
        if now.obj[1] > BEYOND_WALL_Y:
            reward = add(add(reward, 4.0, single), 3.0 * in_place, single)
        else:
            reward = add(reward, 4.0 * at_midpoint, single)
    if obj_to_target < TARGET_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=obj_to_target <= SUCCESS_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


GRABBED = 0.04  # distance of hand (or tcp) and object below which it counts as grabbed
RAISED = 0.02
FUNNEL_BOTTLENECK = 0.03


@inner
def grabbed_reward(
    now: Now,
    start: Start,
    object_grasped: float,
    single: bool,
    in_place: float,
    above: float,
    apart: float,
    pinched: float,
) -> float:
    """pick-out-of-hole-v3 and bin-picking-v3: hold the object, lift it, and keep above the floor.

    Args:
        now, start: arguments of the task's reward function.
        object_grasped, single: result of the caging reward.
        in_place: quality of the object's distance to its target, in [0, 1].
        above: quality of the gripper's height above the funnels' walls, in [0, 1].
        apart: distance of gripper and object (m).
        pinched: opening of the gripper below which it cannot hold the object.
    """
    reward = hamacher_product(object_grasped, in_place, single)
    if apart < GRABBED and now.obj[2] - RAISED > start.obj_init[2] and not now.opened < pinched:
        reward = add(reward, 1.0 + 5.0 * hamacher_product(in_place, above), single)
    return reward


@inner
def pick_out_of_hole(now: Now, start: Start) -> Outcome:
    """pick-out-of-hole-v3: pull the puck out of a hole, up to a target in the air."""
    obj_to_target = distance(now.obj, start.target)
    tcp_to_obj = distance(now.obj, now.tcp)
    margin = distance(start.obj_init, start.target)
    in_place = long_tail(obj_to_target, lower=0.0, upper=0.02, margin=margin)
    radius = distance_xy(now.tcp, start.obj_init)
    floor = funnel_floor(radius, bottleneck=FUNNEL_BOTTLENECK, slope=0.015, height=0.15)
    object_grasped, single = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        object_reach_radius=0.01,
        obj_radius=0.015,
        pad_success_thresh=0.02,
        xz_thresh=0.03,
        desired_gripper_effort=0.1,
        density=HIGH,
    )
    above = above_floor(now.tcp[2], floor=floor, margin=0.02)
    reward = grabbed_reward(
        now,
        start,
        object_grasped=object_grasped,
        single=single,
        in_place=in_place,
        above=above,
        apart=tcp_to_obj,
        pinched=0.33,
    )
    if obj_to_target < TARGET_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=obj_to_target <= SUCCESS_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


@inner
def bin_picking(now: Now, start: Start) -> Outcome:
    """bin-picking-v3: carry the cube from one bin to the other."""
    target = vec(now.extra, 0)
    hand_to_obj = distance(now.obj, now.hand)
    target_to_obj = distance(now.obj, target)
    margin = start.extra[0]
    in_place = long_tail(target_to_obj, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    floor = min(  # the gripper may come down into either bin
        funnel_floor(
            distance_xy(now.hand, start.obj_init),
            bottleneck=FUNNEL_BOTTLENECK,
            slope=0.02,
            height=0.2,
        ),
        funnel_floor(
            distance_xy(now.hand, target), bottleneck=FUNNEL_BOTTLENECK, slope=0.02, height=0.2
        ),
    )
    object_grasped, single = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        obj_radius=0.015,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        desired_gripper_effort=0.7,
        density=HIGH,
    )
    above = above_floor(now.hand[2], floor=floor, margin=0.05)
    reward = grabbed_reward(
        now,
        start,
        object_grasped=object_grasped,
        single=single,
        in_place=in_place,
        above=above,
        apart=hand_to_obj,
        pinched=0.43,
    )
    if target_to_obj < TARGET_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=target_to_obj <= TARGET_RADIUS,
        near_object=hand_to_obj < GRABBED,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


@inner
def hand_insert(now: Now, start: Start) -> Outcome:
    """hand-insert-v3: bring the block down into a hole."""
    target_to_obj = distance(now.obj, start.target)
    tcp_to_obj = distance(now.obj, now.tcp)
    margin = distance(start.obj_init, start.target)
    in_place = long_tail(target_to_obj, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    object_grasped, single = gripper_caging_reward(
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
    reward = hamacher_product(object_grasped, in_place, single)
    if tcp_to_obj < HELD and now.opened > 0.0:
        reward = add(reward, 1.0 + 7.0 * in_place, single)
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


PUCK = Object(body_pos("obj"), body_quat("obj"))

TASK_CLASSES = (
    TaskCode(
        env_name="pick-place-v3",
        reward=pick_place,
        objects=(Object(body_pos("obj"), geom_matrix("objGeom")),),
    ),
    TaskCode(
        env_name="pick-place-wall-v3",
        reward=pick_place_wall,
        objects=(Object(geom_pos("objGeom"), geom_matrix("objGeom")),),
    ),
    TaskCode(
        env_name="pick-out-of-hole-v3",
        reward=pick_out_of_hole,
        objects=(PUCK,),
    ),
    TaskCode(
        env_name="bin-picking-v3",
        reward=bin_picking,
        objects=(PUCK,),
        readings=(body_pos("bin_goal"),),  # the official target is a view of it
        constants=("_target_to_obj_init",),  # fixed by the first step, not by the reset
    ),
    TaskCode(
        env_name="hand-insert-v3",
        reward=hand_insert,
        objects=(PUCK,),
    ),
)
