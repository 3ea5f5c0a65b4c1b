"""Tasks in which an object is put onto or into something: a shelf, a basket, a box."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TaskCode,
    body_pos,
    body_quat,
    geom_matrix,
    site_pos,
)
from envs.metaworld.tasks.shared import (
    HIGH,
    QUARTER_TURN,
    SPARSE,
    above_floor,
    add,
    funnel_floor,
    grab_effort,
    gripper_caging_reward,
    hamacher_product,
    long_tail,
    turned_as,
)
from envs.metaworld.tasks.values import Now, Outcome, Start, Vector
from envs.metaworld.tasks.vectors import clip, distance, distance_xy, minus, norm, plus, scaled

LIFTED = 0.01

SHELF_RADIUS = 0.05  # radius of the target on the shelf
SHELF_SUCCESS_RADIUS = 0.07
SHELF_NEAR_OBJECT = 0.03
SHELF_HELD = 0.025  # distance of tcp and object below which it counts as held
SHELF_HALF_WIDTH = 0.15
SHELF_DEPTH = 3 * SHELF_RADIUS  # depth of the space in front of the target
SHELF_HEIGHT = 0.24


@inner
def shelf_bound(obj: Vector, target: Vector, in_place: float) -> tuple[float, bool]:
    """shelf-place-v3: `in_place`, reduced in front of the shelf and 0 under it.

    Returns:
        The reduced `in_place`, and True if it is officially an np.float64 from there on.
    """
    front = target[1] - SHELF_DEPTH
    between = target[0] - SHELF_HALF_WIDTH < obj[0] < target[0] + SHELF_HALF_WIDTH
    if 0.0 < obj[2] < SHELF_HEIGHT and between:
        if front < obj[1] < target[1]:
            z_scaling = (SHELF_HEIGHT - obj[2]) / SHELF_HEIGHT
            y_scaling = (obj[1] - front) / SHELF_DEPTH
            return clip(in_place - hamacher_product(y_scaling, z_scaling), 0.0, 1.0), True
        if obj[1] > target[1]:
            return 0.0, False
    return in_place, False


@inner
def shelf_place(now: Now, start: Start) -> Outcome:
    """shelf-place-v3: put the puck onto a shelf."""
    obj_to_target = distance(now.obj, start.target)
    tcp_to_obj = distance(now.obj, now.tcp)
    margin = distance(start.obj_init, start.target)
    unbound = long_tail(obj_to_target, lower=0.0, upper=SHELF_RADIUS, margin=margin)
    object_grasped, single = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        obj_radius=0.02,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        density=SPARSE,
    )
    reward = hamacher_product(object_grasped, unbound, single)
    in_place, double = shelf_bound(obj=now.obj, target=start.target, in_place=unbound)
    if tcp_to_obj < SHELF_HELD and now.opened > 0.0 and now.obj[2] - LIFTED > start.obj_init[2]:
        reward = add(reward, 1.0 + 5.0 * in_place, single and not double)
    if obj_to_target < SHELF_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=obj_to_target <= SHELF_SUCCESS_RADIUS,
        near_object=tcp_to_obj <= SHELF_NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


HOOP_RADIUS = 0.08
HOOP_HEIGHT = 0.3  # slightly above the hoop
HOOP_SCALE = (1.0, 1.0, 2.0)  # height matters most: the ball must come from above
BALL_NEAR = 0.05
BALL_HELD = 0.035  # distance of tcp and ball below which it counts as held


@inner
def basketball(now: Now, start: Start) -> Outcome:
    """basketball-v3: drop the ball into the basket."""
    target = now.extra[0], now.extra[1], HOOP_HEIGHT
    target_to_obj = norm(scaled(minus(now.obj, target), HOOP_SCALE))
    margin = norm(scaled(minus(start.obj_init, target), HOOP_SCALE))
    in_place = long_tail(target_to_obj, lower=0.0, upper=HOOP_RADIUS, margin=margin)
    tcp_to_obj = distance(now.obj, now.tcp)
    object_grasped, single = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        object_reach_radius=0.01,
        obj_radius=0.025,
        pad_success_thresh=0.06,
        xz_thresh=0.005,
        density=HIGH,
    )
    if tcp_to_obj < BALL_HELD and now.opened > 0.0 and now.obj[2] - LIFTED > start.obj_init[2]:
        object_grasped = 1.0
        reward = hamacher_product(object_grasped, in_place) + (1.0 + 5.0 * in_place)
    else:
        reward = hamacher_product(object_grasped, in_place, single)
    if target_to_obj < HOOP_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=target_to_obj <= HOOP_RADIUS,
        near_object=tcp_to_obj <= BALL_NEAR,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


LID_HANDLE = (0.0, 0.0, 0.02)  # from the lid's centre to its handle
LID_SCALE = (1.0, 1.0, 3.0)  # height matters most
LID_LIFTED_Z = 0.04
LID_BOTTLENECK = 0.02
BOX_RADIUS = 0.08


@inner
def box_close(now: Now, start: Start) -> Outcome:
    """box-close-v3: put the lid onto the box, without turning it."""
    effort = grab_effort(now.grip)
    lid = plus(now.obj, LID_HANDLE)
    floor = funnel_floor(
        distance_xy(now.hand, lid), bottleneck=LID_BOTTLENECK, slope=0.04, height=0.4
    )
    above = above_floor(now.hand[2], floor=floor, margin=floor / 2.0)
    ready = hamacher_product(
        above, long_tail(distance(now.hand, lid), lower=0.0, upper=0.02, margin=0.5)
    )
    error = norm(scaled(minus(start.target, lid), LID_SCALE))
    placed = long_tail(error, lower=0.0, upper=0.05, margin=0.25)
    lifted = (0.2 if lid[2] > LID_LIFTED_Z else 0.0) + 0.8 * placed
    success = distance(now.obj, start.target) < BOX_RADIUS
    reward = 10.0 if success else 2.0 * hamacher_product(effort, ready) + 8.0 * lifted
    return Outcome(
        reward=reward
        * turned_as(now.quat, ideal=QUARTER_TURN, tolerated=0.2),  # kicking should not pay
        success=success,
        near_object=ready,
        grasp_reward=effort,
        in_place_reward=lifted,
        obj_to_target=0.0,
    )


TASK_CLASSES = (
    TaskCode(
        env_name="shelf-place-v3",
        reward=shelf_place,
        objects=(Object(body_pos("obj"), geom_matrix("objGeom")),),
    ),
    TaskCode(
        env_name="basketball-v3",
        reward=basketball,
        objects=(Object(body_pos("bsktball"), body_quat("bsktball")),),
        readings=(site_pos("goal"),),  # the official target is a view of it
    ),
    TaskCode(
        env_name="box-close-v3",
        reward=box_close,
        objects=(Object(body_pos("top_link"), body_quat("top_link")),),
    ),
)
