"""Tasks in which an object is swept away."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TaskCode,
    body_pos,
    body_quat,
    geom_matrix,
)
from envs.metaworld.tasks.shared import hamacher_product, long_tail, pads_around_reward
from envs.metaworld.tasks.values import Now, Outcome, Start, Vector
from envs.metaworld.tasks.vectors import distance

TARGET_RADIUS = 0.05
OBJ_RADIUS = 0.02
NEAR_OBJECT = 0.03


@inner
def _swept(now: Now, start: Start, target: Vector, object_grasped: float) -> Outcome:
    """Common end of both tasks, for a target and a caging reward."""
    obj_to_target = distance(now.obj, target)
    tcp_to_obj = distance(now.obj, now.tcp)
    margin = distance(start.obj_init, target)
    in_place = long_tail(obj_to_target, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    reward = 2.0 * object_grasped + 6.0 * hamacher_product(object_grasped, in_place)
    if obj_to_target < TARGET_RADIUS:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=obj_to_target <= TARGET_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


@inner
def sweep(now: Now, start: Start) -> Outcome:
    """sweep-v3: sweep a cube over the edge of the table."""
    object_grasped = pads_around_reward(
        now, start, obj_radius=OBJ_RADIUS, grip_margin=0.01, xz_margin=0.005
    )
    return _swept(now, start, target=start.target, object_grasped=object_grasped)


@inner
def sweep_into(now: Now, start: Start) -> Outcome:
    """sweep-into-v3: sweep a cube into a hole of the table."""
    object_grasped = pads_around_reward(
        now, start, obj_radius=OBJ_RADIUS, grip_margin=0.005, xz_margin=0.01
    )
    target = start.target[0], start.target[1], now.obj[2]  # at any height
    return _swept(now, start, target=target, object_grasped=object_grasped)


TASK_CLASSES = (
    TaskCode(
        env_name="sweep-v3",
        reward=sweep,
        objects=(Object(body_pos("obj"), body_quat("obj")),),
    ),
    TaskCode(
        env_name="sweep-into-v3",
        reward=sweep_into,
        objects=(Object(body_pos("obj"), geom_matrix("objGeom")),),
    ),
)
