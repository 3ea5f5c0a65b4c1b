"""A pole stands on the table; the gripper must find the height at which it is to be touched."""

import numpy as np

from envs.native_task import (
    NativeTask,
    Now,
    Object,
    Outcome,
    Start,
    body_pos,
    body_quat,
    distance,
    inner,
    long_tail,
)

horizon = 100

XML = """
<mujoco>
  <worldbody>
    <body name="pole" pos="0 0.75 0.2">
      <geom type="cylinder" size="0.01 0.2" rgba="0.9 0.6 0.1 1"/>
    </body>
    <site name="goal" pos="0 0.75 0.2" size="0.02" rgba="0.8 0 0 0.5"/>
  </worldbody>
</mujoco>
"""

RADIUS = 0.05  # metres from the target, within which the pole counts as touched there


@inner
def touch(now: Now, start: Start) -> Outcome:
    """The nearer the fingertips to the target, the more."""
    missed = distance(now.tcp, start.target)
    margin = distance(start.init_tcp, start.target)
    near = long_tail(missed, lower=0.0, upper=RADIUS, margin=margin)
    return Outcome(
        reward=10.0 * near,
        success=missed <= RADIUS,
        near_object=distance(now.tcp, now.obj) <= RADIUS,
        grasp_reward=0.0,
        in_place_reward=near,
        obj_to_target=missed,
    )


def place(model, data, task):
    """Puts the pole where a task has it; returns the target, which only the reward knows."""
    x, y, height = task
    model.body("pole").pos[:2] = x, y
    model.site("goal").pos = x, y, height
    return x, y, height


def draw_tasks(count, seed):
    """Tasks are plain numbers: the pole's x and y, and the height of the target, in metres."""
    rng = np.random.default_rng(seed)
    return list(rng.uniform([-0.2, 0.65, 0.08], [0.2, 0.85, 0.35], (count, 3)))


task = NativeTask(
    xml=XML,
    reward=touch,
    objects=(Object(body_pos("pole"), body_quat("pole")),),
    place=place,
)
train_tasks = draw_tasks(50, seed=0)
test_tasks = draw_tasks(20, seed=1)
