"""The Warp engine fulfils the contract of the toolkit's vector environments, in torch tensors."""

import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError

wp = pytest.importorskip("warp", reason="MuJoCo Warp is not installed: make test-gpu")
pytest.importorskip("mujoco_warp", reason="MuJoCo Warp is not installed: make test-gpu")

from envs.metaworld.native import NativeEnv  # noqa: E402
from envs.metaworld.snapshots import snapshots  # noqa: E402
from envs.metaworld.warp import WarpMetaWorldEnv  # noqa: E402
from envs.stable_baselines3 import SB3VecEnv  # noqa: E402
from envs.warp_engine.spec import Room  # noqa: E402
from metarl.errors import UserError  # noqa: E402
from metarl.protocols import DeviceVectorEnv  # noqa: E402
from metarl.rollout.recording import Recorder  # noqa: E402
from metarl.rollout.scene import drawn_state  # noqa: E402
from tests.envs.parity import native_simulation, official_tasks  # noqa: E402

HORIZON = 6
NAMES = ("reach-v3", "push-v3")  # one scene, so kernels are compiled once


@pytest.fixture(scope="module")
def tasks():
    """Three tasks: reach, push, reach."""
    reach, push = (official_tasks(name, seed=3, count=2) for name in NAMES)
    return [reach[0], push[0], reach[1]]


@pytest.fixture
def env(tasks):
    made = WarpMetaWorldEnv(tasks, horizon=HORIZON)
    yield made
    made.close()


def random_actions(steps, slots, *, seed=0):
    drawn = np.random.default_rng(seed).uniform(-1, 1, (steps, slots, 4))
    return torch.as_tensor(drawn, dtype=torch.float32)


def play(env, actions):
    """Outputs of all steps, (T, N, ...)."""
    seen = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action.to(env.device))
        assert not terminated.any()
        parts = (obs, info["final_obs"], reward[:, None], truncated[:, None].float())
        seen.append(torch.cat(parts, dim=1).cpu())
    return torch.stack(seen)


def test_tensors_on_the_device(env):
    assert isinstance(env, DeviceVectorEnv) and isinstance(env, Recorder)
    obs, _ = env.reset()
    seen = [obs, *env.step(torch.zeros(3, 4, device=env.device))]
    *tensors, info = seen
    tensors += list(info.values())
    assert {tensor.device for tensor in tensors} == {env.device}
    assert [t.dtype for t in seen[:5]] == [torch.float32] * 3 + [torch.bool] * 2
    assert info["success"].dtype == torch.bool and info["final_obs"].shape == (3, 39)
    names = {"success", "near_object", "grasp_reward", "in_place_reward", "obj_to_target"}
    assert info.keys() == names | {"final_obs", "unscaled_reward"}
    assert env.single_observation_space.dtype == np.float32


def test_stable_baselines3_is_refused(env):
    with pytest.raises(UserError, match="native"):
        SB3VecEnv(env)


def test_torch_and_warp_share_memory(env):
    for name, view in env._views.items():
        assert view.data_ptr() == getattr(env._table, name).ptr, name


def test_what_was_returned_is_never_written_to(env):
    first, _ = env.reset()
    kept, results = first.clone(), []
    for action in random_actions(HORIZON + 2, 3):
        obs, reward, _, truncated, info = env.step(action)
        tensors = [obs, reward, truncated, *info.values()]
        results.append((tensors, [tensor.clone() for tensor in tensors]))
    assert torch.equal(first, kept)
    for tensors, copies in results:
        assert all(map(torch.equal, tensors, copies))


def test_an_episode_starts_where_the_native_engines_does(env, tasks):
    native = NativeEnv(tasks, num_threads=1)
    first, _ = env.reset()
    expected, _ = native.reset()
    np.testing.assert_allclose(first.cpu(), expected, atol=1e-6)
    native.close()


def test_first_steps_are_the_native_engines(env, tasks):
    native = NativeEnv(tasks, horizon=HORIZON, num_threads=1)
    env.reset(), native.reset()
    for action in random_actions(HORIZON, 3):
        _, reward, _, truncated, info = env.step(action)
        _, expected, _, ended, native_info = native.step(action.numpy())
        hands = [slice(0, 4), slice(18, 22)]
        for part in hands:
            np.testing.assert_allclose(
                info["final_obs"][:, part].cpu(), native_info["final_obs"][:, part], atol=2e-3
            )
        np.testing.assert_allclose(reward.cpu(), expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(truncated.cpu(), ended)
    native.close()


def test_slots_restart_in_the_step_that_ends_their_episode_and_repeat_it(env):
    first, _ = env.reset()
    actions = random_actions(HORIZON, 3)
    once, again = play(env, actions), play(env, actions)
    ends = once[:, :, -1]
    assert not ends[:-1].any() and ends[-1].all()
    torch.testing.assert_close(once[-1, :, :39], first.cpu())
    assert (once[-1, :, 39:78] - first.cpu()).abs().max() > 1e-3  # the true next observation
    assert torch.equal(once[:-1, :, :39], once[:-1, :, 39:78])
    torch.testing.assert_close(once, again, atol=1e-5, rtol=1e-5)


def test_a_reset_leaves_nothing_behind(env):
    actions = random_actions(HORIZON, 3)
    first, _ = env.reset()
    expected = play(env, actions)
    play(env, random_actions(3, 3, seed=1))  # unfinished
    again, _ = env.reset()
    assert torch.equal(first, again)
    torch.testing.assert_close(play(env, actions), expected, atol=1e-5, rtol=1e-5)


def test_tasks_move_between_slots_at_the_next_reset(env, tasks):
    env.reset()
    actions = random_actions(HORIZON, 3)
    expected = play(env, actions)
    moved = [tasks[1], tasks[2], tasks[0]]
    env.set_tasks(moved)
    assert env.tasks == tuple(tasks)
    env.reset()
    assert env.tasks == tuple(moved)
    scenes = set(map(id, env._scenes.values()))
    played = play(env, actions[:, [1, 2, 0]])
    torch.testing.assert_close(played, expected[:, [1, 2, 0]], atol=1e-5, rtol=1e-5)
    env.set_tasks([tasks[0], tasks[1], tasks[1]])  # push now needs a second world, reach one fewer
    env.reset()
    assert len(scenes - set(map(id, env._scenes.values()))) == 1
    played = play(env, actions[:, [0, 1, 1]])
    torch.testing.assert_close(played, expected[:, [0, 1, 1]], atol=1e-5, rtol=1e-5)


def test_bad_input_is_refused(env):
    with pytest.raises(ValueError, match="reset"):
        env.step(torch.zeros(3, 4))
    env.reset()
    with pytest.raises(ValueError, match="shape"):
        env.step(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="floats"):
        env.step(torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="one per slot"):
        env.set_tasks(env.tasks[:2])
    with pytest.raises(ValueError, match="num_slots"):
        WarpMetaWorldEnv([])
    with pytest.raises(ValueError, match="horizon"):
        WarpMetaWorldEnv(env.tasks, horizon=0)


def test_an_action_that_is_not_finite_is_told_when_the_episode_ends(env):
    env.reset()
    actions = random_actions(HORIZON, 3)
    before, *_ = env.step(actions[0])
    actions[1, 1, 2] = torch.nan
    for action in actions[1:-1]:
        obs, reward, *_ = env.step(action)
        assert torch.equal(obs[1], before[1]) and reward[1] == 0.0
        assert (reward[[0, 2]] > 0.0).all() and obs.isfinite().all()
    with pytest.raises(ValueError, match=r"slot 1 \(push-v3\), step 2: the action is not finite"):
        env.step(actions[-1])
    with pytest.raises(ValueError, match="reset"):
        env.step(actions[0])
    env.reset()
    assert env.step(actions[0])[1].isfinite().all()


def test_an_unstable_slot_rests_and_recovers_with_the_next_episode(env):
    first, _ = env.reset()
    zeros = torch.zeros(3, 4)
    expected = play(env, zeros.expand(HORIZON, 3, 4))
    stable, *_ = env.step(zeros)
    scene = env._scenes["reach-v3"]
    broken = scene.data.qpos.numpy().copy()
    broken[1, 0] = np.nan  # the second world of reach is slot 2
    scene.data.qpos.assign(broken)
    for step in range(2, HORIZON):
        obs, reward, _, truncated, info = env.step(zeros)
        assert torch.equal(obs[2], stable[2]) and reward[2] == 0.0 and not info["success"][2]
        torch.testing.assert_close(obs[:2], expected[step - 1, :2, :39], atol=1e-5, rtol=1e-5)
    with pytest.warns(RuntimeWarning, match=r"slot 2 \(reach-v3\), step 2: .*unstable"):
        obs, _, _, truncated, _ = env.step(zeros)
    assert truncated.all()
    torch.testing.assert_close(obs, first)
    torch.testing.assert_close(
        play(env, zeros.expand(HORIZON, 3, 4)), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.filterwarnings("ignore:push-v3")  # warnings about the unfinished episode
def test_too_small_a_buffer_is_told_and_grows(env):
    env._rooms["push-v3"] = Room(contacts=1, constraints=8)
    first, _ = env.reset()
    zeros = torch.zeros(HORIZON, 3, 4)
    with pytest.warns(RuntimeWarning, match=r"push-v3: \d+ contacts .* room for 1 and 8"):
        too_small = play(env, zeros)
    grown = env._rooms["push-v3"]
    assert grown.contacts >= 1 and grown.constraints >= 12
    again, _ = env.reset()
    assert env._scenes["push-v3"].room == grown
    assert torch.equal(first, again)
    assert not torch.allclose(play(env, zeros)[:, 1], too_small[:, 1])


def test_recordings_are_the_native_engines(env, tasks):
    native = NativeEnv(tasks, horizon=HORIZON, num_threads=1)
    kept = {}
    for name, engine in (("warp", env), ("native", native)):
        engine.record(lambda states, name=name: kept.setdefault(name, []).append(states.copy()))
        engine.reset()
    for action in random_actions(2 * HORIZON, 3):
        env.step(action)
        native.step(action.numpy())
    assert len(kept["warp"]) == 2
    for ours, theirs in zip(kept["warp"], kept["native"], strict=True):
        assert ours.shape == theirs.shape == (3, HORIZON + 1, ours.shape[-1])
        np.testing.assert_allclose(ours[:, 0], theirs[:, 0], atol=1e-6)
        np.testing.assert_allclose(ours, theirs, atol=2e-2)
        assert np.abs(ours[:, -1] - ours[:, 0]).max() > 1e-3
    model = env.scene(tasks[0]).model
    simulation = native_simulation(native, 0)
    assert drawn_state(model, simulation).shape[0] == env.scene(tasks[0]).state_size
    native.close()


def test_a_seed_changes_nothing(env):
    assert torch.equal(env.reset(seed=1)[0], env.reset(seed=2)[0])


def test_static_things_stand_where_each_task_has_them():
    """MuJoCo Warp places bodies welded to the world only once, equally in all worlds."""
    import mujoco

    tasks = official_tasks("drawer-open-v3", seed=0, count=3)
    env = WarpMetaWorldEnv(tasks)
    env.reset()
    (scene,) = env._scenes.values()
    places = scene.data.geom_xpos.numpy()
    assert np.abs(places[0] - places[1]).max() > 0.01  # the drawer's case moves with the task
    for world, snapshot in enumerate(snapshots(tasks)):
        model = scene.spec.scene.edited_model(snapshot.edits)
        simulation = mujoco.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
        simulation.qpos[:] = scene.data.qpos.numpy()[world]
        simulation.mocap_pos[:] = scene.data.mocap_pos.numpy()[world]
        simulation.mocap_quat[:] = scene.data.mocap_quat.numpy()[world]
        mujoco.mj_kinematics(model, simulation)  # pyright: ignore[reportAttributeAccessIssue]
        np.testing.assert_allclose(places[world], simulation.geom_xpos, atol=1e-5)
    env.close()


def test_slots_are_reset_together_and_nothing_works_after_close(env):
    some, everyone = np.array([True, False, True]), np.ones(3, bool)
    with pytest.raises(ValueError, match="some slots"):
        env.reset(options={"reset_mask": some})
    env.reset(options={"reset_mask": everyone})
    with pytest.raises(ValueError, match="one by one on a device"):
        env.reset(options={"reset_mask": some})
    with pytest.raises(ValueError, match="give one seed"):
        env.reset(seed=[1, 2, 3])
    env.reset()
    env.close(terminate=True)
    with pytest.raises(ClosedEnvironmentError):
        env.step(torch.zeros(3, 4))
