"""Tasks with a drawer."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import Object, TaskCode, body_pos, body_quat
from envs.metaworld.tasks.shared import (
    gaussian,
    gripper_closed,
    hamacher_product,
    long_tail,
    multiply,
)
from envs.metaworld.tasks.values import Now, Outcome, Start
from envs.metaworld.tasks.vectors import distance, minus, norm, plus, scaled

OPEN_LENGTH = 0.2  # travel from shut to open
OPEN_SUCCESS_RADIUS = 0.03
CAGING_SCALE = (3.0, 3.0, 1.0)  # x and y count more, so that the gripper comes down onto the handle

CLOSE_RADIUS = 0.05
CLOSE_SUCCESS_RADIUS = CLOSE_RADIUS + 0.015
HANDLE_RADIUS = 0.005


@inner
def drawer_open(now: Now, start: Start) -> Outcome:
    """drawer-open-v3: pull a drawer open by its handle."""
    handle_to_target = distance(now.obj, start.target)
    opening = long_tail(handle_to_target, lower=0.0, upper=0.02, margin=OPEN_LENGTH)
    handle_init = plus(start.target, (0.0, OPEN_LENGTH, 0.0))
    error = norm(scaled(minus(now.obj, now.hand), CAGING_SCALE))
    margin = norm(scaled(minus(handle_init, start.init_tcp), CAGING_SCALE))
    caging = long_tail(error, lower=0.0, upper=0.01, margin=margin)
    return Outcome(
        reward=(caging + opening) * 5.0,
        success=handle_to_target <= OPEN_SUCCESS_RADIUS,
        near_object=distance(now.obj, now.hand) <= 0.03,
        grasp_reward=caging,
        in_place_reward=opening,
        obj_to_target=handle_to_target,
    )


@inner
def drawer_close(now: Now, start: Start) -> Outcome:
    """drawer-close-v3: push a drawer shut by its handle, with a closed gripper."""
    target_to_obj = distance(now.obj, start.target)
    margin = abs(distance(start.obj_init, start.target) - CLOSE_RADIUS)
    in_place = long_tail(target_to_obj, lower=0.0, upper=CLOSE_RADIUS, margin=margin)
    tcp_to_obj = distance(now.obj, now.tcp)
    reach_margin = abs(distance(start.obj_init, start.init_tcp) - HANDLE_RADIUS)
    near = gaussian(tcp_to_obj, lower=0.0, upper=HANDLE_RADIUS, margin=reach_margin)
    closed, single = gripper_closed(now.grip, 1.0)
    reach = hamacher_product(near, closed, single)
    success = target_to_obj <= CLOSE_SUCCESS_RADIUS
    pushed = multiply(hamacher_product(reach, in_place, single), 10.0, single)
    return Outcome(
        reward=10.0 if success else pushed,
        success=success,
        near_object=tcp_to_obj <= 0.01,
        grasp_reward=reach,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


TASK_CLASSES = (
    TaskCode(
        env_name="drawer-close-v3",
        reward=drawer_close,
        objects=(Object(body_pos("drawer_link"), offset=(0.0, -0.16, 0.05)),),
    ),
    TaskCode(
        env_name="drawer-open-v3",
        reward=drawer_open,
        objects=(
            Object(body_pos("drawer_link"), body_quat("drawer_link"), offset=(0.0, -0.16, 0.0)),
        ),
    ),
)
