"""Tasks in which the hand must reach a target."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import Object, TaskCode, body_pos, geom_matrix
from envs.metaworld.tasks.shared import long_tail
from envs.metaworld.tasks.values import Now, Outcome, Start
from envs.metaworld.tasks.vectors import distance

TARGET_RADIUS = 0.05


@inner
def _reached(now: Now, start: Start) -> tuple[float, float]:
    """Distance from the fingertips to the target (m), and its quality in [0, 1]."""
    tcp_to_target = distance(now.tcp, start.target)
    margin = distance(start.hand_init, start.target)
    return tcp_to_target, long_tail(tcp_to_target, lower=0.0, upper=TARGET_RADIUS, margin=margin)


@inner
def reach(now: Now, start: Start) -> Outcome:
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
def reach_wall(now: Now, start: Start) -> Outcome:
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


TASK_CLASSES = (
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
