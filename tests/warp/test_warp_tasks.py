"""Meta-World's tasks are the same on the Warp engine as on the native one."""

import numpy as np
import pytest
import torch

pytest.importorskip("warp", reason="MuJoCo Warp is not installed: make test-gpu")
pytest.importorskip("mujoco_warp", reason="MuJoCo Warp is not installed: make test-gpu")

from envs.metaworld.tasks import TASK_CLASSES
from envs.metaworld.warp import WarpMetaWorldEnv
from tests.envs.parity import official_tasks
from tests.warp.fidelity import (
    TOLERANCE,
    go_on,
    on_recorded_state,
    play_on_warp,
)
from tests.warp.scripted import play_natively

ALL = torch.cuda.is_available()
"""True if all tasks are stepped; on a CPU, each takes a quarter of a minute to compile."""
STEPPED = list(TASK_CLASSES) if ALL else ["reach-v3", "drawer-close-v3", "stick-push-v3"]


@pytest.mark.parametrize("env_name", TASK_CLASSES)
def test_observation_reward_and_success_on_recorded_states(env_name):
    """From positions alone, through the engine's own readings; for forces see stick-push below."""
    tasks = official_tasks(env_name, seed=1, count=2)
    moments, _ = play_natively(tasks, 120)
    env = WarpMetaWorldEnv(tasks)
    env.reset()
    for moment in moments[::5]:
        obs, outcome = on_recorded_state(env, moment)
        np.testing.assert_allclose(obs, moment.obs, atol=TOLERANCE)
        expected = moment.outcome
        if env_name == "stick-push-v3":  # its success depends on a force, which needs the solver
            outcome, expected = outcome[:, [0, 2, 3, 4, 5]], expected[:, [0, 2, 3, 4, 5]]
        np.testing.assert_allclose(outcome, expected, atol=TOLERANCE, rtol=TOLERANCE)
    env.close()


@pytest.mark.parametrize("env_name", STEPPED)
def test_free_motion_is_mujocos(env_name):
    """Until things touch, soon after the start, only float32 makes a difference."""
    tasks = official_tasks(env_name, seed=1, count=2)
    moments, _ = play_natively(tasks, 12)
    env = WarpMetaWorldEnv(tasks)
    env.reset()
    reached = go_on(env, moments, 0, 10)
    for (qpos, hand), moment in zip(reached, moments[1:11], strict=True):
        np.testing.assert_allclose(hand, moment.obs[:, :3], atol=1e-4)
        np.testing.assert_allclose(qpos, moment.physics["qpos"], atol=2e-3)
    env.close()


@pytest.mark.parametrize("env_name", STEPPED)
def test_scripted_policies_succeed(env_name):
    """As in the native engine. The stick falls through the table if contacts are not
    re-weighted."""
    tasks = official_tasks(env_name, seed=1, count=4)
    _, native = play_natively(tasks, 200)
    env = WarpMetaWorldEnv(tasks)
    assert native.sum() >= 3
    assert play_on_warp(env, 200).sum() >= native.sum() - 1
    env.close()
