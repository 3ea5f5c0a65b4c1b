"""Agents learn on the Warp engine, and rollouts never pass through the host."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("warp", reason="MuJoCo Warp is not installed: make test-gpu")
pytest.importorskip("mujoco_warp", reason="MuJoCo Warp is not installed: make test-gpu")

from agents.maml_trpo import MAMLTRPOConfig
from agents.rl2 import RL2Config
from envs.metaworld import MetaWorld
from metarl.rollout.trial import collect, first_step, run_trial
from metarl.system.seeding import torch_generator
from metarl.training.iteration import Iteration, episode_metrics
from tests.warp.host import forbidden_on_host

HORIZON, TASKS = 20, 4
AGENTS = {
    "rl2": RL2Config(hidden_size=16, num_minibatches=2, epochs=2),
    "maml_trpo": MAMLTRPOConfig(episodes_per_step=3),
}


def play_without_host(agent, env):
    """Plays an episode in which no number may be read on the host."""
    obs, _ = env.reset()
    state, generator = agent.begin_trial(env.num_envs), torch_generator(1, agent.device)
    step = first_step(obs, env.single_action_space, agent.device)
    with forbidden_on_host():
        collect(agent, env, state, step, num_steps=HORIZON, generator=generator)


@pytest.mark.parametrize("kind", AGENTS)
def test_an_agent_plays_and_learns(kind):
    benchmark = MetaWorld("ML1-reach-v3", horizon=HORIZON, engine="warp")
    shape = AGENTS[kind].trial_shape(6 if kind == "maml_trpo" else 2)
    env = benchmark.make_env(TASKS * shape.slots_per_task)
    spaces = env.single_observation_space, env.single_action_space
    agent = AGENTS[kind].build(*spaces, seed=1, device=env.device)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    step = Iteration(1, 1, agent.device)
    tasks = benchmark.train.sample(TASKS, step.task_rng)
    trial = run_trial(agent, env, tasks, shape=shape, seed=step.env_seed, generator=step.generator)
    step.log(episode_metrics(trial, tasks, shape, by_class=False))
    step.log(agent.meta_update(trial, generator=step.generator), group="update")
    assert all(np.isfinite(value) for value in step.metrics.values())
    after = agent.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    play_without_host(agent, env)
    env.close()


def test_the_guard_sees_what_the_native_engine_does():
    """Otherwise the test above could not fail."""
    benchmark = MetaWorld("ML1-reach-v3", horizon=HORIZON)
    env = benchmark.make_env(2)
    agent = AGENTS["rl2"].build(
        env.single_observation_space, env.single_action_space, seed=1, device=torch.device("cpu")
    )
    with pytest.raises(AssertionError, match="host"):
        play_without_host(agent, env)
    env.close()


def test_requirements_are_pinned():
    lines = Path("requirements-gpu.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert packages and all("==" in line for line in packages)
