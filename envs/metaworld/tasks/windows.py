"""Tasks with a sliding window."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import Object, Outcome, TaskCode, site_pos
from envs.metaworld.tasks.shared import distance, gaussian, hamacher_product, long_tail, vec

TARGET_RADIUS = 0.05
HANDLE_RADIUS = 0.02
NEAR_OBJECT = 0.05


@inner
def _reach_margin(start):
    """How far the hand is from the handle at first, less the handle's radius."""
    return abs(distance(vec(start.extra, 0), start.init_tcp) - HANDLE_RADIUS)


@inner
def _slid(now, start, init_x, reach, tcp_to_obj):
    """What both window tasks end in; `init_x` is where the handle starts from."""
    target_to_obj = abs(now.obj[0] - start.target[0])
    margin = abs(abs(init_x - start.target[0]) - TARGET_RADIUS)
    in_place = long_tail(target_to_obj, 0.0, TARGET_RADIUS, margin)
    return Outcome(
        reward=10.0 * hamacher_product(reach, in_place),
        success=target_to_obj <= TARGET_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=reach,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


@inner
def window_open(now, start):
    """window-open-v3: slide a window open by its handle."""
    tcp_to_obj = distance(now.obj, now.tcp)
    reach = long_tail(tcp_to_obj, 0.0, HANDLE_RADIUS, _reach_margin(start))
    return _slid(now, start, start.obj_init[0], reach, tcp_to_obj)


@inner
def window_close(now, start):
    """window-close-v3: slide a window shut by its handle."""
    tcp_to_obj = distance(now.obj, now.tcp)
    reach = gaussian(tcp_to_obj, 0.0, HANDLE_RADIUS, _reach_margin(start))
    return _slid(now, start, start.extra[0], reach, tcp_to_obj)


TASKS = (
    TaskCode(
        env_name="window-close-v3",
        reward=window_close,
        objects=(Object(site_pos("handleCloseStart")),),
        constants=("window_handle_pos_init",),
    ),
    TaskCode(
        env_name="window-open-v3",
        reward=window_open,
        objects=(Object(site_pos("handleOpenStart")),),
        constants=("window_handle_pos_init",),
    ),
)
