"""Tasks in which a plate slides on the table, into a cabinet or out of it."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import Object, TaskCode, geom_matrix, geom_pos
from envs.metaworld.tasks.shared import hamacher_product, long_tail
from envs.metaworld.tasks.values import Now, Outcome, Start
from envs.metaworld.tasks.vectors import distance

TARGET_RADIUS = 0.05
SUCCESS_RADIUS = 0.07
NEAR_OBJECT = 0.03
LOW = 0.03  # height of the tcp up to which the hand can move the plate
TOUCHED = 0.07  # distance of tcp and plate below which it counts as touched


@inner
def _slid(
    reward: float, tcp_to_obj: float, obj_to_target: float, object_grasped: float, in_place: float
) -> Outcome:
    """Common end of all tasks."""
    return Outcome(
        reward=10.0 if obj_to_target < TARGET_RADIUS else reward,
        success=obj_to_target <= SUCCESS_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


@inner
def plate_slide(now: Now, start: Start) -> Outcome:
    """plate-slide-v3: slide the plate forward, into the cabinet."""
    obj_to_target = distance(now.obj, start.target)
    in_place_margin = distance(start.obj_init, start.target)
    in_place = long_tail(obj_to_target, lower=0.0, upper=TARGET_RADIUS, margin=in_place_margin)
    tcp_to_obj = distance(now.tcp, now.obj)
    reach_margin = distance(start.init_tcp, start.obj_init)
    object_grasped = long_tail(tcp_to_obj, lower=0.0, upper=TARGET_RADIUS, margin=reach_margin)
    reward = 8.0 * hamacher_product(object_grasped, in_place)
    return _slid(
        reward=reward,
        tcp_to_obj=tcp_to_obj,
        obj_to_target=obj_to_target,
        object_grasped=object_grasped,
        in_place=in_place,
    )


@inner
def plate_slide_other(now: Now, start: Start) -> Outcome:
    """plate-slide-side-v3, plate-slide-back-v3, plate-slide-back-side-v3: other directions.

    The three official rewards are identical.
    """
    obj_to_target = distance(now.obj, start.target)
    in_place_margin = distance(start.obj_init, start.target) - TARGET_RADIUS
    in_place = long_tail(obj_to_target, lower=0.0, upper=TARGET_RADIUS, margin=in_place_margin)
    tcp_to_obj = distance(now.tcp, now.obj)
    reach_margin = distance(start.init_tcp, start.obj_init) - TARGET_RADIUS
    object_grasped = long_tail(tcp_to_obj, lower=0.0, upper=TARGET_RADIUS, margin=reach_margin)
    if now.tcp[2] <= LOW and tcp_to_obj < TOUCHED:
        reward = 2.0 + 7.0 * in_place
    else:
        reward = 1.5 * object_grasped
    return _slid(
        reward=reward,
        tcp_to_obj=tcp_to_obj,
        obj_to_target=obj_to_target,
        object_grasped=object_grasped,
        in_place=in_place,
    )


PLATE = (Object(geom_pos("puck"), geom_matrix("puck")),)

TASK_CLASSES = (
    TaskCode(env_name="plate-slide-v3", reward=plate_slide, objects=PLATE),
    TaskCode(env_name="plate-slide-side-v3", reward=plate_slide_other, objects=PLATE),
    TaskCode(env_name="plate-slide-back-v3", reward=plate_slide_other, objects=PLATE),
    TaskCode(env_name="plate-slide-back-side-v3", reward=plate_slide_other, objects=PLATE),
)
