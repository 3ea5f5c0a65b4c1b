"""Tasks in which two parts are put together or taken apart: a nut on a peg, a peg in a hole."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TaskCode,
    body_quat,
    site_matrix,
    site_pos,
)
from envs.metaworld.tasks.shared import (
    HIGH,
    MEDIUM,
    QUARTER_TURN,
    add,
    funnel_floor,
    gripper_caging_reward,
    hamacher_product,
    handled_reward,
    long_tail,
    multiply,
    rect_prism_tolerance,
)
from envs.metaworld.tasks.values import Now, Outcome, Start, Vector
from envs.metaworld.tasks.vectors import distance, distance_xy, minus, norm, plus, scaled, vec

WRENCH_HANDLE_LENGTH = 0.02
WRENCH_LIFTED_Z = 0.02
ALIGNED = 0.02  # distance of the nut from the peg's axis
WRENCH_SCALE = (1.0, 1.0, 3.0)  # height matters most


@inner
def nut_over_peg(nut: Vector, target: Vector) -> tuple[float, bool]:
    """Quality of the nut's position over the peg, in [0, 1], and True if it is on the peg."""
    radius = distance_xy(target, nut)
    success = radius < ALIGNED and target[2] - nut[2] > 0.0
    # Once on the peg, more accuracy is not needed.
    bottleneck = 0.02 if success else 0.01
    height = funnel_floor(radius, bottleneck=bottleneck, slope=0.02, height=0.2)
    error = target[0] - nut[0], target[1] - nut[1], height - nut[2]
    placed = long_tail(norm(scaled(error, WRENCH_SCALE)), lower=0.0, upper=0.02, margin=0.4)
    lifted = 0.1 if nut[2] > WRENCH_LIFTED_Z or radius < bottleneck else 0.0
    return lifted + 0.9 * placed, success


@inner
def assembly(now: Now, start: Start) -> Outcome:
    """assembly-v3: pick up the wrench and put its nut onto the peg."""
    in_place, success = nut_over_peg(vec(now.extra, 0), start.target)
    reward, held, turned = handled_reward(
        now,
        start,
        in_place=in_place,
        handle_length=WRENCH_HANDLE_LENGTH,
        ideal=QUARTER_TURN,
        density=MEDIUM,
    )
    return Outcome(
        reward=10.0 if success else reward,
        success=success,
        near_object=turned,
        grasp_reward=held,
        in_place_reward=in_place,
        obj_to_target=0.0,
    )


@inner
def disassemble(now: Now, start: Start) -> Outcome:
    """disassemble-v3: lift the wrench's nut off the peg."""
    above = 0.0, 0.0, 0.1  # goal of the nut, relative to the target
    nut = vec(now.extra, 0)
    placed = long_tail(distance(plus(start.target, above), nut), lower=0.0, upper=0.02, margin=0.2)
    in_place = (0.1 if nut[2] > WRENCH_LIFTED_Z else 0.0) + 0.9 * placed
    reward, held, turned = handled_reward(
        now,
        start,
        in_place=in_place,
        handle_length=WRENCH_HANDLE_LENGTH,
        ideal=QUARTER_TURN,
        density=HIGH,
    )
    success = now.obj[2] > start.target[2]
    return Outcome(
        reward=10.0 if success else reward,
        success=success,
        near_object=turned,
        grasp_reward=held,
        in_place_reward=in_place,
        obj_to_target=0.0,
    )


NEAR_OBJECT = 0.03
INSERTED = 0.07  # distance of the peg's head from the target
PEG_HELD = 0.08  # distance of tcp and peg below which it counts as held
PEG_LIFTED = 0.01
PEG_SCALE = (1.0, 2.0, 2.0)  # the hole lies along x


@inner
def peg_insert_side(now: Now, start: Start) -> Outcome:
    """peg-insert-side-v3: pick up the peg and put its head into a hole in the box's side."""
    head = vec(now.extra, 0)
    tcp_to_obj = distance(now.obj, now.tcp)
    obj_to_target = norm(scaled(minus(head, start.target), PEG_SCALE))
    margin = norm(scaled(minus(vec(start.extra, 0), start.target), PEG_SCALE))
    near_target = long_tail(obj_to_target, lower=0.0, upper=INSERTED, margin=margin)
    # Two prisms around the hole in which the head would hit the box.
    clear_1 = rect_prism_tolerance(head, zero=vec(now.extra, 3), one=vec(now.extra, 6))
    clear_2 = rect_prism_tolerance(head, zero=vec(now.extra, 9), one=vec(now.extra, 12))
    clear = hamacher_product(clear_2, clear_1)
    in_place = hamacher_product(near_target, clear)
    object_grasped, single = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        object_reach_radius=0.01,
        obj_radius=0.0075,
        pad_success_thresh=0.03,
        xz_thresh=0.005,
        density=HIGH,
    )
    if tcp_to_obj < PEG_HELD and now.opened > 0.0 and now.obj[2] - PEG_LIFTED > start.obj_init[2]:
        object_grasped = 1.0
        reward = hamacher_product(object_grasped, in_place) + (1.0 + 5.0 * in_place)
    else:
        # Within a prism, `in_place` is officially an np.float64, and so is the product.
        reward = hamacher_product(object_grasped, in_place, single and clear == 1.0)
    if obj_to_target <= INSERTED:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=obj_to_target <= INSERTED,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


UNPLUGGED = 0.05  # distance of the plug's end from the target
UNPLUG_SUCCESS_RADIUS = 0.07
PLUG_HELD = 0.035  # distance of tcp and plug below which it counts as held
PLUG_MOVED = 0.015
PLUG_OPENING = 0.5  # opening of the gripper below which it holds no plug


@inner
def peg_unplug_side(now: Now, start: Start) -> Outcome:
    """peg-unplug-side-v3: pull the plug out of the box's side."""
    tcp_to_obj = distance(now.obj, now.tcp)
    obj_to_target = distance(now.obj, start.target)
    object_grasped, single = gripper_caging_reward(
        now,
        start,
        obj=now.obj,
        obj_init=start.obj_init,
        object_reach_radius=0.01,
        obj_radius=0.025,
        pad_success_thresh=0.05,
        xz_thresh=0.005,
        desired_gripper_effort=0.8,
        density=HIGH,
    )
    margin = distance(start.obj_init, start.target)
    in_place = long_tail(obj_to_target, lower=0.0, upper=UNPLUGGED, margin=margin)
    reward = multiply(2.0, object_grasped, single)
    moved = now.obj[0] - start.obj_init[0] > PLUG_MOVED
    if now.opened > PLUG_OPENING and moved and tcp_to_obj < PLUG_HELD:
        reward = add(add(1.0, reward, single), 5.0 * in_place, single)
    if obj_to_target <= UNPLUGGED:
        reward = 10.0
    return Outcome(
        reward=reward,
        success=obj_to_target <= UNPLUG_SUCCESS_RADIUS,
        near_object=tcp_to_obj <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=in_place,
        obj_to_target=obj_to_target,
    )


WRENCH = Object(site_pos("RoundNut-8"), body_quat("RoundNut"))

TASK_CLASSES = (
    TaskCode(
        env_name="assembly-v3",
        reward=assembly,
        objects=(WRENCH,),
        readings=(site_pos("RoundNut"),),
    ),
    TaskCode(
        env_name="disassemble-v3",
        reward=disassemble,
        objects=(WRENCH,),
        readings=(site_pos("RoundNut"),),
    ),
    TaskCode(
        env_name="peg-insert-side-v3",
        reward=peg_insert_side,
        objects=(Object(site_pos("pegGrasp"), site_matrix("pegGrasp")),),
        readings=(
            site_pos("pegHead"),
            site_pos("bottom_right_corner_collision_box_1"),
            site_pos("top_left_corner_collision_box_1"),
            site_pos("bottom_right_corner_collision_box_2"),
            site_pos("top_left_corner_collision_box_2"),
        ),
        constants=("peg_head_pos_init",),
    ),
    TaskCode(
        env_name="peg-unplug-side-v3",
        reward=peg_unplug_side,
        objects=(Object(site_pos("pegEnd"), body_quat("plug1")),),
    ),
)
