"""Tasks with a sliding window."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import Object, TaskCode, site_pos
from envs.metaworld.tasks.shared import gaussian, hamacher_product, long_tail
from envs.metaworld.tasks.values import Now, Outcome, Start
from envs.metaworld.tasks.vectors import distance, vec

TARGET_RADIUS = 0.05
HANDLE_RADIUS = 0.02
NEAR_OBJECT = 0.05


@inner
def _reach_margin(start: Start) -> float:
    """Distance from the fingertips to the handle at the start, less the handle's radius (m)."""
    return abs(distance(vec(start.extra, 0), start.init_tcp) - HANDLE_RADIUS)


@inner
def _slid(now: Now, start: Start, init_x: float, reach: float, tcp_to_obj: float) -> Outcome:
    """Common end of both window tasks; the handle starts at x = `init_x` (m)."""
    target_to_obj = abs(now.obj[0] - start.target[0])
    margin = abs(abs(init_x - start.target[0]) - TARGET_RADIUS)
    in_place = long_tail(target_to_obj, lower=0.0, upper=TARGET_RADIUS, margin=margin)
    return Outcome(
        reward=10.0 * hamacher_product(reach, in_place),
        success=target_to_obj <= TARGET_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=reach,
        in_place_reward=in_place,
        obj_to_target=target_to_obj,
    )


@inner
def window_open(now: Now, start: Start) -> Outcome:
    """window-open-v3: slide a window open by its handle."""
    tcp_to_obj = distance(now.obj, now.tcp)
    reach = long_tail(tcp_to_obj, lower=0.0, upper=HANDLE_RADIUS, margin=_reach_margin(start))
    return _slid(now, start, init_x=start.obj_init[0], reach=reach, tcp_to_obj=tcp_to_obj)


@inner
def window_close(now: Now, start: Start) -> Outcome:
    """window-close-v3: slide a window shut by its handle."""
    tcp_to_obj = distance(now.obj, now.tcp)
    reach = gaussian(tcp_to_obj, lower=0.0, upper=HANDLE_RADIUS, margin=_reach_margin(start))
    return _slid(now, start, init_x=start.extra[0], reach=reach, tcp_to_obj=tcp_to_obj)


TASK_CLASSES = (
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
