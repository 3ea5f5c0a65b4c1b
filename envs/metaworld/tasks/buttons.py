"""Tasks in which a button is pressed."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TaskCode,
    body_pos,
    body_quat,
    site_pos,
)
from envs.metaworld.tasks.shared import hamacher_product, long_tail
from envs.metaworld.tasks.values import Now, Outcome, Start
from envs.metaworld.tasks.vectors import distance

NEAR_OBJECT = 0.05
COFFEE_BUTTON_WAY = 0.03  # travel of the coffee machine's button

# The offset leads from the body of a button to its top.
SIDE_BUTTON = Object(body_pos("button"), body_quat("button"), offset=(0.0, -0.193, 0.0))
TOP_BUTTON = Object(body_pos("button"), body_quat("button"), offset=(0.0, 0.0, 0.193))


@inner
def _near(now: Now, start: Start, radius: float) -> tuple[float, float]:
    """Distance from the fingertips to the button (m), and its quality in [0, 1]."""
    tcp_to_obj = distance(now.obj, now.tcp)
    return tcp_to_obj, long_tail(
        tcp_to_obj, lower=0.0, upper=radius, margin=distance(now.obj, start.init_tcp)
    )


@inner
def _pressed(obj_to_target: float, way: float) -> float:
    """Quality of the button's travel, in [0, 1]."""
    return long_tail(obj_to_target, lower=0.0, upper=0.005, margin=way)


@inner
def _press_sideways(now: Now, start: Start, way: float) -> Outcome:
    """Press a button that points to the robot and travels `way` (m)."""
    tcp_to_obj, near = _near(now, start, radius=0.05)
    obj_to_target = abs(start.target[1] - now.obj[1])
    pressed = _pressed(obj_to_target, way)
    reward = 2.0 * hamacher_product(now.opened, near)
    if tcp_to_obj <= 0.05:
        reward += 8.0 * pressed
    return Outcome(
        reward=reward,
        success=obj_to_target <= 0.02,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=near,
        in_place_reward=pressed,
        obj_to_target=obj_to_target,
    )


@inner
def button_press(now: Now, start: Start) -> Outcome:
    """button-press-v3: press a button from the side."""
    return _press_sideways(now, start, way=start.extra[0])


@inner
def coffee_button(now: Now, start: Start) -> Outcome:
    """coffee-button-v3: press the button of a coffee machine."""
    return _press_sideways(now, start, way=COFFEE_BUTTON_WAY)


@inner
def button_press_wall(now: Now, start: Start) -> Outcome:
    """button-press-wall-v3: press a button from the side, behind a wall."""
    tcp_to_obj, near = _near(now, start, radius=0.01)
    obj_to_target = abs(start.target[1] - now.obj[1])
    pressed = _pressed(obj_to_target, start.extra[0])
    if tcp_to_obj > 0.07:
        reward = 2.0 * hamacher_product((1.0 - now.opened) / 2.0, near)
    else:
        reward = 2.0 + 2.0 * (1.0 + now.opened) + 4.0 * (pressed * pressed)
    return Outcome(
        reward=reward,
        success=obj_to_target <= 0.03,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=near,
        in_place_reward=pressed,
        obj_to_target=obj_to_target,
    )


@inner
def _press_down(now: Now, start: Start, gripper: float) -> Outcome:
    """Press a button that points up; `gripper` is the quality of its opening, in [0, 1]."""
    tcp_to_obj, near = _near(now, start, radius=0.01)
    obj_to_target = abs(start.target[2] - now.obj[2])
    pressed = _pressed(obj_to_target, start.extra[0])
    reward = 5.0 * hamacher_product(gripper, near)
    if tcp_to_obj <= 0.03:
        reward += 5.0 * pressed
    return Outcome(
        reward=reward,
        success=obj_to_target <= 0.024,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=near,
        in_place_reward=pressed,
        obj_to_target=obj_to_target,
    )


@inner
def button_press_topdown(now: Now, start: Start) -> Outcome:
    """button-press-topdown-v3: press a button from above, with a closed gripper."""
    return _press_down(now, start, gripper=1.0 - now.opened)


@inner
def button_press_topdown_wall(now: Now, start: Start) -> Outcome:
    """button-press-topdown-wall-v3: press a button from above, behind a wall, gripper open."""
    return _press_down(now, start, gripper=now.opened)


TASK_CLASSES = (
    TaskCode(
        env_name="button-press-topdown-v3",
        reward=button_press_topdown,
        objects=(TOP_BUTTON,),
        constants=("_obj_to_target_init",),
    ),
    TaskCode(
        env_name="button-press-topdown-wall-v3",
        reward=button_press_topdown_wall,
        objects=(TOP_BUTTON,),
        constants=("_obj_to_target_init",),
    ),
    TaskCode(
        env_name="button-press-v3",
        reward=button_press,
        objects=(SIDE_BUTTON,),
        constants=("_obj_to_target_init",),
    ),
    TaskCode(
        env_name="button-press-wall-v3",
        reward=button_press_wall,
        objects=(SIDE_BUTTON,),
        constants=("_obj_to_target_init",),
    ),
    TaskCode(
        env_name="coffee-button-v3",
        reward=coffee_button,
        objects=(Object(site_pos("buttonStart"), (1.0, 0.0, 0.0, 0.0)),),
    ),
)
