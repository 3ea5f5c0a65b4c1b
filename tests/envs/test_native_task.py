"""Tasks of a user on the native engine: as good as Meta-World's own, and mistakes are named."""

from pathlib import Path

import numpy as np
import pytest

from envs.metaworld import MetaWorld
from envs.native_task import NativeTaskConfig
from metarl.errors import UserError
from metarl.rollout.scene import EditedScene
from tests.envs.parity import native_simulation

EXAMPLE = (Path(__file__).parents[2] / "docs/examples/touch_pole.py").read_text()

REACH = '''
import numpy as np

from envs.metaworld.tasks.reaching import reach
from envs.native_task import NativeTask, Object, body_pos, geom_matrix

horizon = 500
XML = """
<mujoco>
  <worldbody>
    <body name="obj" pos="0 0.6 0.02">
      <joint name="objjoint" type="free" damping="0" armature="0"/>
      <inertial pos="0 0 0" mass="0.75" diaginertia="8.80012e-04 8.80012e-04 8.80012e-04"/>
      <geom name="objGeom" type="cylinder" size="0.02 0.02" solimp="0.99 0.99 0.01"
            solref="0.01 1" friction="1 0.1 0.002" condim="4"/>
    </body>
    <site name="goal" pos="-0.1 0.8 0.2" size="0.02"/>
  </worldbody>
</mujoco>
"""

def place(model, data, task):
    data.joint("objjoint").qpos[:3] = task[:3]
    data.joint("objjoint").qvel[:] = 0
    model.site("goal").pos = task[3:]
    return task[3:]

task = NativeTask(
    xml=XML,
    reward=reach,
    objects=(Object(body_pos("obj"), geom_matrix("objGeom")),),
    place=place,
)
train_tasks = np.array(TRAIN)
test_tasks = np.array(TEST)
'''


def build(folder: Path, text: str):
    path = folder / "my_task.py"
    path.write_text(text)
    return NativeTaskConfig(module=str(path), num_threads=1).build()


def test_reach_declared_by_a_user_is_meta_worlds_own(tmp_path: Path) -> None:
    """Observation, reward and physics of a task that is both, to the bit."""
    official = MetaWorld("ML1-reach-v3")
    vectors = [
        [task.rand_vec.tolist() for task in split] for split in (official.train, official.test)
    ]
    own = build(
        tmp_path, REACH.replace("TRAIN", repr(vectors[0])).replace("TEST", repr(vectors[1]))
    )
    envs = own.make_env(3), official.make_env(3)
    for env, distribution in zip(envs, (own, official), strict=True):
        env.set_tasks(distribution.test[4:7])
    np.testing.assert_array_equal(envs[0].reset()[0], envs[1].reset()[0])
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.uniform(-1, 1, (3, 4)).astype(np.float32)
        mine, theirs = (env.step(actions) for env in envs)
        for one, other in zip(mine[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(one, other)
        assert mine[4].keys() == theirs[4].keys()
        np.testing.assert_array_equal(mine[4]["success"], theirs[4]["success"])
    states = [native_simulation(env, 2) for env in envs]
    np.testing.assert_array_equal(states[0].qpos, states[1].qpos)
    np.testing.assert_array_equal(states[0].qvel, states[1].qvel)


def test_slots_have_what_place_says(tmp_path: Path) -> None:
    own = build(tmp_path, EXAMPLE)
    assert (len(own.train), len(own.test), own.horizon, own.name) == (50, 20, 100, "my_task")
    env = own.make_env(2)
    env.set_tasks(own.test[:2])
    obs, _ = env.reset()
    for slot, task in enumerate(own.test[:2]):
        np.testing.assert_array_equal(obs[slot, 4:6], task.parameters[:2])
        model = env.scene(task).model
        np.testing.assert_array_equal(model.site("goal").pos, task.parameters)
    for _ in range(100):
        last, reward, _, truncated, info = env.step(np.zeros((2, 4), np.float32))
    assert truncated.all() and (reward > 0).all() and not info["success"].any()
    np.testing.assert_array_equal(last, obs)  # of the next episode


def test_episodes_succeed_at_the_target(tmp_path: Path) -> None:
    own = build(tmp_path, EXAMPLE)
    env = own.make_env(4)
    env.set_tasks(own.test[:4])
    targets = np.stack([task.parameters for task in own.test[:4]])
    obs, _ = env.reset()
    for _ in range(99):
        way = targets - obs[:, :3] + [0.0, 0.0, 0.045]  # the hand is above the fingertips
        actions = np.column_stack([np.clip(10 * way, -1, 1), np.ones(4)])
        obs, reward, *_, info = env.step(actions)
    assert info["success"].all() and (reward == 10.0).all()


MISTAKES = {
    "there is no train_tasks; a native task has": ("train_tasks =", "training_tasks ="),
    "task must be a NativeTask, but is 3": ("\ntrain_tasks =", "\ntask = 3\ntrain_tasks ="),
    "is in train_tasks and in test_tasks": ("(20, seed=1)", "(20, seed=0)"),
    "the reward is not compiled; decorate it with @inner": ("@inner\n", ""),
    "the reward does not compile": ("now.tcp, start.target", "now.tip, start.target"),
    "the scene: Invalid name 'pol'": ('body_quat("pole")', 'body_quat("pol")'),
    "the scene: XML Error": ("</mujoco>", ""),
    "the scene: Invalid name 'left'": ("place=place", "place=place, camera='left'"),
    "larger than mjMINVAL; give bodies with joints an <inertial>": (
        '<body name="pole" pos="0 0.75 0.2">',
        '<body name="pole" pos="0 0.75 0.2"><freejoint/>',
    ),
    "the engine takes 1 or 2 objects": ("objects=(Object", "objects=() and (Object"),
    "place fails for task array([": ('site("goal")', 'site("gaol")'),
    "place must return a target (x, y, z), but returned (": (
        "return x, y, height",
        "return x, y",
    ),
    "place changed model.geom_size; it may change body_pos": (
        "    return x, y, height",
        "    model.geom_size[-1] = 0.02\n    return x, y, height",
    ),
    "the site goal cannot be moved": (
        'site name="goal" pos="0 0.75 0.2"',
        'site name="goal"',
    ),
    "the outcome is not finite: [nan": ("    return x, y, height", "    return None"),
    "horizon must be a whole number of steps": ("horizon = 100", "horizon = 0"),
    "a task has 50 numbers; the engine takes up to 45": (
        "return list(rng.uniform([-0.2, 0.65, 0.08], [0.2, 0.85, 0.35], (count, 3)))",
        "return [np.append(each, np.ones(47)) for each in rng.uniform(0.2, 0.3, (count, 3))]",
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message: str, tmp_path: Path) -> None:
    right, wrong = MISTAKES[message]
    assert right in EXAMPLE
    text = EXAMPLE.replace(right, wrong).replace("x, y, height = task", "x, y, height = task[:3]")
    with pytest.raises(UserError) as caught:
        build(tmp_path, text)
    assert message in str(caught.value) and "my_task.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_is_named_before_it_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "my_task.py"
    config = NativeTaskConfig(module=str(path))
    assert config.code == str(path)
    assert NativeTaskConfig(module="package.task").code == "the module package.task"


def test_what_a_task_moves_is_drawn(tmp_path: Path) -> None:
    own = build(tmp_path, EXAMPLE)
    env = own.make_env(1)
    env.reset()
    scene = env.scene(env.tasks[0])
    edited = EditedScene(
        model=scene.model,
        camera=scene.camera,
        dt=scene.dt,
        edited=("body_pos", "body_quat", "site_pos"),
    )
    assert env._drawn(0).shape == (edited.state_size,)
    assert scene.dt == pytest.approx(0.0125)


def test_actuators_of_a_scene_come_after_those_of_the_arm(tmp_path: Path) -> None:
    """Actions drive the gripper: what else there is keeps its control of 0."""
    motor = """
      <body name="fan" pos="0.4 0.75 0.1">
        <joint name="fan" type="hinge" axis="0 0 1"/>
        <inertial pos="0 0 0" mass="0.1" diaginertia="1e-4 1e-4 1e-4"/>
      </body>
  </worldbody>
  <actuator><motor joint="fan"/></actuator>"""
    own = build(tmp_path, EXAMPLE.replace("  </worldbody>", motor))
    env = own.make_env(1)
    obs, _ = env.reset()
    assert obs[0, 3] == 1.0
    for _ in range(30):
        obs, *_ = env.step(np.array([[0, 0, 0, 1]], np.float32))
    assert obs[0, 3] < 0.8  # shut
    assert native_simulation(env, 0).joint("fan").qvel[0] == 0.0
