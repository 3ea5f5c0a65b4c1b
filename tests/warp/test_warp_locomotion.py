"""Locomotion on the Warp engine against the native one."""

import mujoco
import numpy as np
import pytest
import torch

pytest.importorskip("warp", reason="MuJoCo Warp is not installed: make test-gpu")
pytest.importorskip("mujoco_warp", reason="MuJoCo Warp is not installed: make test-gpu")

from envs.locomotion.distributions import LocomotionConfig
from envs.locomotion.robots import ROBOTS, body, edits
from envs.locomotion.variants import VARIANTS, multipliers
from envs.locomotion.warp import WarpLocomotionEnv
from envs.warp_engine.scene import UNUSED

SLOTS = 3
STEPPED = list(VARIANTS) if torch.cuda.is_available() else ["HalfCheetah-vel-maml", "Ant-dir-pearl"]


def make(variant, *, horizon=20):
    """Both engines on the same tasks, and random actions."""
    distribution = LocomotionConfig(variant=variant, horizon=horizon).build()
    tasks = distribution.train.sample(SLOTS, np.random.default_rng(0))
    native = distribution.make_env(SLOTS)
    native.set_tasks(tasks)
    space = body(VARIANTS[variant].robot).action_space
    rng = np.random.default_rng(0)
    actions = rng.uniform(space.low, space.high, (2 * horizon, SLOTS, *space.shape))
    warp = WarpLocomotionEnv(variant, tasks, horizon=horizon)
    return warp, native, actions.astype(np.float32)


def start_alike(warp, native):
    """Resets both, with the native engine in the other's start; returns the observations of
    both."""
    obs, _ = warp.reset(seed=0)
    native.reset(seed=0)
    (scene,) = warp._scenes.values()
    here = body(warp.variant.robot)
    native._starts[:, here.qpos] = scene.data.qpos.numpy()
    native._starts[:, here.qvel] = scene.data.qvel.numpy()
    native._batch.restart()
    return obs.cpu().numpy(), native._batch.obs.copy()


@pytest.mark.parametrize("variant", STEPPED)
def test_steps_are_the_native_engines(variant):
    """Ant touches the ground within these steps, with contacts whose frames would be turned."""
    warp, native, actions = make(variant)
    ours, theirs = start_alike(warp, native)
    np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4)
    for action in actions[:3]:
        _, reward, _, _, info = warp.step(torch.as_tensor(action))
        _, expected, _, _, native_info = native.step(action)
        np.testing.assert_allclose(
            info["final_obs"].cpu(), native_info["final_obs"], atol=1e-3, rtol=1e-3
        )
        np.testing.assert_allclose(reward.cpu(), expected, atol=1e-3, rtol=1e-3)
        for name in ("x_velocity", "y_velocity", "reward_term"):
            np.testing.assert_allclose(info[name].cpu(), native_info[name], atol=1e-3, rtol=1e-3)
    warp.close(), native.close()


def test_starts_are_noise_that_follows_from_the_seed():
    warp, native, actions = make("HalfCheetah-vel-maml", horizon=3)
    first, _ = warp.reset(seed=1)
    assert len(np.unique(first.cpu().numpy()[:, 0])) == SLOTS
    for action in actions[:3]:
        second, *_ = warp.step(torch.as_tensor(action))
    assert (second - first).abs().max() > 1e-3  # of the next episode
    assert torch.equal(warp.reset(seed=1)[0], first)
    assert (warp.reset(seed=2)[0] - first).abs().max() > 1e-3
    here = body("HalfCheetah")
    (scene,) = warp._scenes.values()
    middle = here.start[here.qpos]
    assert np.abs(scene.data.qpos.numpy() - middle).max() <= here.noise + 1e-6
    warp.close(), native.close()


def test_a_start_does_not_carry_the_distance_of_the_last_episode():
    """The first velocity of an episode is measured from its start."""
    warp, native, actions = make("HalfCheetah-vel-maml", horizon=5)
    warp.reset(seed=1)
    forward = np.abs(actions[:5])
    for action in forward:
        *_, info = warp.step(torch.as_tensor(action))
    *_, info = warp.step(torch.zeros_like(torch.as_tensor(forward[0])))
    assert info["x_velocity"].abs().max() < 2.0
    warp.close(), native.close()


def test_every_world_has_the_body_of_its_task():
    warp, native, _ = make("Walker2d-params-pearl")
    warp._place(warp.next_tasks)  # without a step, so that nothing is compiled
    (scene,) = warp._scenes.values()
    for world, task in enumerate(warp.next_tasks):
        here = body("Walker2d").scene
        model = here.edited_model(edits("Walker2d", multipliers(task)))
        for name in set(here.edited) - UNUSED - {"stat.meaninertia"}:
            ours, theirs = getattr(scene.model, name).numpy()[world], getattr(model, name)
            np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=1e-6)
        inertia = scene.model.stat.meaninertia.numpy()[world]
        assert inertia == pytest.approx(model.stat.meaninertia, rel=1e-6)
    masses = scene.model.body_mass.numpy()
    assert np.abs(masses[0] - masses[1]).max() > 0.1
    warp.close(), native.close()


def test_tasks_of_another_variant_are_refused():
    warp, native, _ = make("HalfCheetah-vel-maml")
    other = LocomotionConfig(variant="HalfCheetah-dir-maml").build()
    warp.set_tasks(other.train.sample(SLOTS, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="slot 0: HalfCheetah-dir-maml"):
        warp.reset()
    warp.close(), native.close()


def test_nothing_that_is_edited_is_forgotten():
    """Fields for which MuJoCo Warp has no array are named, for all robots."""
    import mujoco_warp

    fields = mujoco_warp.Model.__dataclass_fields__
    for robot in ROBOTS:
        edited = set(body(robot).scene.edited) - {"stat.meaninertia"}
        assert {name for name in edited if name not in fields} <= UNUSED
    assert mujoco.__version__
