"""Tasks with a faucet."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import Object, TaskCode, body_quat, site_pos
from envs.metaworld.tasks.shared import gaussian, long_tail
from envs.metaworld.tasks.values import Now, Outcome, Start, Vector
from envs.metaworld.tasks.vectors import distance, plus

TARGET_RADIUS = 0.07
HANDLE_RADIUS = 0.01
NEAR_OBJECT = 0.01

OBJECT_OFFSET = (0.0, 0.0, -0.01)  # from the handle's site to the observed position
OPEN_OFFSET = (-0.04, 0.0, 0.03)  # from there to the point at which the handle is pushed open


@inner
def _turn(now: Now, start: Start, handle: Vector) -> Outcome:
    """Push the point `handle` to the target."""
    target_to_obj = distance(handle, start.target)
    margin = abs(distance(start.obj_init, start.target) - TARGET_RADIUS)
    in_place = long_tail(target_to_obj, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    tcp_to_obj = distance(handle, now.tcp)
    reach_margin = abs(distance(start.obj_init, start.init_tcp) - HANDLE_RADIUS)
    reach = gaussian(tcp_to_obj, lower=0.0, upper=HANDLE_RADIUS, margin=reach_margin)
    success = target_to_obj <= TARGET_RADIUS
    return Outcome(
        reward=10.0 if success else (2.0 * reach + 3.0 * in_place) * 2.0,
        success=success,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=reach,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


@inner
def faucet_open(now: Now, start: Start) -> Outcome:
    """faucet-open-v3: turn a faucet's handle open."""
    return _turn(now, start, handle=plus(now.obj, OPEN_OFFSET))


@inner
def faucet_close(now: Now, start: Start) -> Outcome:
    """faucet-close-v3: turn a faucet's handle shut."""
    return _turn(now, start, handle=now.obj)


TASK_CLASSES = (
    TaskCode(
        env_name="faucet-close-v3",
        reward=faucet_close,
        objects=(Object(site_pos("handleStartClose"), body_quat("faucetBase"), OBJECT_OFFSET),),
    ),
    TaskCode(
        env_name="faucet-open-v3",
        reward=faucet_open,
        objects=(Object(site_pos("handleStartOpen"), body_quat("faucetBase"), OBJECT_OFFSET),),
    ),
)
