"""Tasks in which the hand has to get somewhere."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import Object, Outcome, TaskCode, body_pos, geom_matrix
from envs.metaworld.tasks.shared import distance, long_tail

TARGET_RADIUS = 0.05


@inner
def _reached(now, start):
    """How far the gripper's centre is from the target, and how well that is."""
    tcp_to_target = distance(now.tcp, start.target)
    margin = distance(start.hand_init, start.target)
    return tcp_to_target, long_tail(tcp_to_target, 0.0, TARGET_RADIUS, margin)


@inner
def reach(now, start):
    """reach-v3: bring the closed gripper's centre to the target."""
    tcp_to_target, in_place = _reached(now, start)
    return Outcome(
        reward=10.0 * in_place,
        success=tcp_to_target <= TARGET_RADIUS,
        near_object=tcp_to_target,
        grasp_reward=tcp_to_target,
        in_place_reward=in_place,
        obj_to_target=tcp_to_target,
    )


@inner
def reach_wall(now, start):
    """reach-wall-v3: bring the gripper's centre to the target behind a wall."""
    tcp_to_target, in_place = _reached(now, start)
    return Outcome(
        reward=10.0 * in_place,
        success=tcp_to_target <= TARGET_RADIUS,
        near_object=0.0,
        grasp_reward=0.0,
        in_place_reward=in_place,
        obj_to_target=tcp_to_target,
    )


TASKS = (
    TaskCode(
        env_name="reach-v3",
        reward=reach,
        objects=(Object(body_pos("obj"), geom_matrix("objGeom")),),
    ),
    TaskCode(
        env_name="reach-wall-v3",
        reward=reach_wall,
        objects=(Object(body_pos("obj"), geom_matrix("objGeom")),),
    ),
)
