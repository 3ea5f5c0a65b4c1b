"""Tasks in which a stick moves a container."""

from envs.engine.compiled import inner
from envs.metaworld.tasks.interface import (
    Object,
    TaskCode,
    TouchForce,
    body_matrix,
    body_pos,
    site_pos,
)
from envs.metaworld.tasks.shared import HIGH, gripper_caging_reward, hamacher_product, long_tail
from envs.metaworld.tasks.values import Now, Outcome, Start, Vector
from envs.metaworld.tasks.vectors import distance, minus, norm, plus, scaled, vec

NEAR_OBJECT = 0.03
HELD = 0.02  # distance of tcp and stick below which it counts as held
LIFTED = 0.01
CONTAINER_RADIUS = 0.12  # distance to the target below which the container has arrived

PUSH_STICK_OFFSET = (0.015, 0.0, 0.0)  # from the stick's centre to the point to grip

PULL_RADIUS = 0.05
PULL_CONTAINER_OFFSET = (0.05, 0.0, 0.0)  # from the container's handle to its centre
PULL_SCALE = (1.0, 1.0, 2.0)
INSERTED_Y, INSERTED_Z = 0.040, 0.060  # largest displacement of the stick's end from the handle


@inner
def _lifted(now: Now, stick_init: Vector) -> bool:
    """True if the stick is off the table and the gripper is not quite closed."""
    return now.opened > 0.0 and now.obj[2] - LIFTED > stick_init[2]


@inner
def stick_push(now: Now, start: Start) -> Outcome:
    """stick-push-v3: push a container to the target with a stick."""
    stick_init = vec(start.extra, 0)
    stick = plus(now.obj, PUSH_STICK_OFFSET)
    tcp_to_stick = distance(stick, now.tcp)
    stick_margin = distance(stick_init, start.target) - CONTAINER_RADIUS
    stick_in_place = long_tail(
        distance(stick, start.target), lower=0.0, upper=CONTAINER_RADIUS, margin=stick_margin
    )
    container_to_target = distance(now.obj2, start.target)
    container_margin = distance(start.obj_init, start.target) - CONTAINER_RADIUS
    container_in_place = long_tail(
        container_to_target, lower=0.0, upper=CONTAINER_RADIUS, margin=container_margin
    )
    # Officially a copy of the shared one, with the stick's initial position as the object's.
    reward, _ = gripper_caging_reward(
        now,
        start,
        obj=stick,
        obj_init=stick_init,
        obj_radius=0.04,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        density=HIGH,
    )
    object_grasped = reward
    lifted = _lifted(now, stick_init)
    if tcp_to_stick < HELD and lifted:
        object_grasped = 1.0
        reward = 2.0 + 5.0 * stick_in_place + 3.0 * container_in_place
        if container_to_target <= CONTAINER_RADIUS:
            reward = 10.0
    touched = now.extra[0] > 0.0 and now.extra[1] > 0.0  # both pads touch it
    return Outcome(
        reward=reward,
        success=touched and lifted and container_to_target <= CONTAINER_RADIUS,
        near_object=tcp_to_stick <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=stick_in_place,
        obj_to_target=container_to_target,
    )


@inner
def _inserted(handle: Vector, end_of_stick: Vector) -> bool:
    """True if the stick's end is through the handle."""
    return (
        end_of_stick[0] >= handle[0]
        and abs(end_of_stick[1] - handle[1]) <= INSERTED_Y
        and abs(end_of_stick[2] - handle[2]) <= INSERTED_Z
    )


@inner
def stick_pull(now: Now, start: Start) -> Outcome:
    """stick-pull-v3: pull a container to the target with a stick through its handle."""
    stick_init, end_of_stick = vec(start.extra, 0), vec(now.extra, 0)
    stick, handle, target = now.obj, now.obj2, start.target
    container = plus(handle, PULL_CONTAINER_OFFSET)
    container_init = plus(start.obj_init, PULL_CONTAINER_OFFSET)
    tcp_to_stick = distance(stick, now.tcp)
    handle_to_target = distance(handle, target)

    stick_to_container = norm(scaled(minus(stick, container), PULL_SCALE))
    stick_margin = norm(scaled(minus(stick_init, container_init), PULL_SCALE))
    stick_in_place = long_tail(
        stick_to_container, lower=0.0, upper=PULL_RADIUS, margin=stick_margin
    )
    stick_at_target = long_tail(
        distance(stick, target), lower=0.0, upper=PULL_RADIUS, margin=distance(stick_init, target)
    )
    # Officially the margin uses the handle's initial position, not the container's.
    container_in_place = long_tail(
        distance(container, target),
        lower=0.0,
        upper=PULL_RADIUS,
        margin=distance(start.obj_init, target),
    )
    object_grasped, single = gripper_caging_reward(
        now,
        start,
        obj=stick,
        obj_init=start.obj_init,
        obj_radius=0.014,
        pad_success_thresh=0.05,
        object_reach_radius=0.01,
        xz_thresh=0.01,
        density=HIGH,
    )
    inserted = _inserted(handle, end_of_stick)
    if tcp_to_stick < HELD and _lifted(now, stick_init):
        object_grasped = 1.0
        both = hamacher_product(1.0, stick_in_place)
        reward = 1.0 + both + 5.0 * stick_in_place
        if inserted:
            reward = 1.0 + both + 5.0 + 2.0 * stick_at_target + 1.0 * container_in_place
            if handle_to_target <= CONTAINER_RADIUS:
                reward = 10.0
    else:
        reward = hamacher_product(object_grasped, stick_in_place, single)
    return Outcome(
        reward=reward,
        success=handle_to_target <= CONTAINER_RADIUS and inserted,
        near_object=tcp_to_stick <= NEAR_OBJECT,
        grasp_reward=object_grasped,
        in_place_reward=stick_in_place,
        obj_to_target=handle_to_target,
    )


TASK_CLASSES = (
    TaskCode(
        env_name="stick-push-v3",
        reward=stick_push,
        objects=(
            Object(body_pos("stick"), body_matrix("stick")),
            Object(site_pos("insertion"), offset=(0.0, 0.09, 0.0)),
        ),
        readings=(TouchForce("leftpad_geom", "objGeom"), TouchForce("rightpad_geom", "objGeom")),
        constants=("stick_init_pos",),
    ),
    TaskCode(
        env_name="stick-pull-v3",
        reward=stick_pull,
        objects=(
            Object(body_pos("stick"), body_matrix("stick")),
            Object(site_pos("insertion")),
        ),
        readings=(site_pos("stick_end"),),
        constants=("stick_init_pos",),
    ),
)
