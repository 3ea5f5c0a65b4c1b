"""Tasks in which a handle is pressed down or pulled up."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import Object, TaskCode, site_pos
from envs.metaworld.tasks.shared import (
    HIGH,
    add,
    gripper_caging_reward,
    hamacher_product,
    long_tail,
)
from envs.metaworld.tasks.values import Now, Outcome, Rounded, Start
from envs.metaworld.tasks.vectors import distance, vec

NEAR_OBJECT = 0.05

PRESS_RADIUS = 0.02  # distance along z between handle and target
HANDLE_RADIUS = 0.02

PULL_RADIUS = 0.05
PULL_SIDE_SUCCESS_RADIUS = 0.08
HELD = 0.035  # distance of tcp and handle below which it counts as held
LIFTED = 0.01


@inner
def handle_press(now: Now, start: Start) -> Outcome:
    """handle-press-v3 and handle-press-side-v3: press a handle down."""
    handle_init = vec(start.extra, 0)
    target_to_obj = abs(now.obj[2] - start.target[2])
    margin = abs(abs(handle_init[2] - start.target[2]) - PRESS_RADIUS)
    in_place = long_tail(target_to_obj, lower=0.0, upper=PRESS_RADIUS, margin=margin)
    tcp_to_obj = distance(now.obj, now.tcp)
    reach_margin = abs(distance(handle_init, start.init_tcp) - HANDLE_RADIUS)
    reach = long_tail(tcp_to_obj, lower=0.0, upper=HANDLE_RADIUS, margin=reach_margin)
    success = target_to_obj <= PRESS_RADIUS
    return Outcome(
        reward=10.0 if success else hamacher_product(reach, in_place) * 10.0,
        success=success,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=reach,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


@inner
def _pull(
    now: Now,
    start: Start,
    target_to_obj: float,
    margin: float,
    grasped: Rounded,
    height: float,
    success_radius: float,
) -> Outcome:
    """Common end of both pulls; `height` (m) is officially the handle's."""
    object_grasped, single = grasped
    in_place = long_tail(target_to_obj, lower=0.0, upper=PULL_RADIUS, margin=margin)
    tcp_to_obj = distance(now.obj, now.tcp)
    reward = hamacher_product(object_grasped, in_place, single)
    if tcp_to_obj < HELD and now.opened > 0.0 and height - LIFTED > start.obj_init[2]:
        reward = add(reward, 1.0 + 5.0 * in_place, single)
    if target_to_obj < PULL_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=target_to_obj <= success_radius,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


@inner
def handle_pull(now: Now, start: Start) -> Outcome:
    """handle-pull-v3: pull a handle up; only its height (m) counts."""
    grasped = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        obj_radius=0.022,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        density=HIGH,
    )
    return _pull(
        now,
        start,
        target_to_obj=abs(start.target[2] - now.obj[2]),
        margin=abs(start.target[2] - start.obj_init[2]),
        grasped=grasped,
        height=now.obj[1],  # y, not z, as in the official reward
        success_radius=PULL_RADIUS,
    )


@inner
def handle_pull_side(now: Now, start: Start) -> Outcome:
    """handle-pull-side-v3: pull up a handle at the side."""
    grasped = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        obj_radius=0.032,
        pad_success_thresh=0.06,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        density=HIGH,
    )
    return _pull(
        now,
        start,
        target_to_obj=distance(now.obj, start.target),
        margin=distance(start.obj_init, start.target),
        grasped=grasped,
        height=now.obj[2],
        success_radius=PULL_SIDE_SUCCESS_RADIUS,
    )


TASK_CLASSES = (
    TaskCode(
        env_name="handle-press-side-v3",
        reward=handle_press,
        objects=(Object(site_pos("handleStart")),),
        constants=("_handle_init_pos",),
    ),
    TaskCode(
        env_name="handle-press-v3",
        reward=handle_press,
        objects=(Object(site_pos("handleStart")),),
        constants=("_handle_init_pos",),
    ),
    TaskCode(
        env_name="handle-pull-side-v3",
        reward=handle_pull_side,
        objects=(Object(site_pos("handleCenter")),),
    ),
    TaskCode(
        env_name="handle-pull-v3",
        reward=handle_pull,
        objects=(Object(site_pos("handleRight")),),
    ),
)
