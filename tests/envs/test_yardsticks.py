"""Yardsticks of meta-trained agents: they play right, learn, and are read off right."""

import json
import math
import random

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.utils import set_random_seed

from envs.bandit import BanditConfig
from envs.metaworld import MetaWorld
from envs.navigation import STEP_LENGTH, PointConfig, PointTask
from envs.stable_baselines3 import SB3VecEnv
from envs.yardsticks import (
    LearningCurve,
    PPOConfig,
    RandomPolicy,
    SACConfig,
    SB3Policy,
    ScriptedPolicy,
    env_steps_to,
    fixed_yardstick,
    from_scratch_yardstick,
    learn_all_tasks,
    learn_from_scratch,
    multi_task_yardstick,
    read_yardstick,
    spread,
    write_yardstick,
)
from envs.yardsticks.from_scratch import OtherTaskEachEpisode, random_state_kept
from metarl.config import validate
from metarl.errors import UserError
from metarl.protocols import Agent
from metarl.rollout.curve import adaptation_curve
from metarl.rollout.trial import first_step, run_trial
from metarl.system.seeding import torch_generator
from metarl.tasks import TaskSet
from metarl.types import TimeStep, TrialShape

HORIZON = 12
POINTS = PointConfig(horizon=HORIZON, num_train_tasks=50, num_test_tasks=6).build()
CPU = torch.device("cpu")


def ppo(**values) -> PPOConfig:
    """Config of PPO that learns a goal in the plane in two seconds."""
    small = {
        "env_steps": 3_840, "evaluations": 2, "evaluation_episodes": 8, "num_minibatches": 4,
        "rollout_steps": 2 * HORIZON, "epochs": 5, "discount": 0.9, "learning_rate": 3e-3,
        "hidden_sizes": (32,), "initial_std": 0.05,
    }  # fmt: skip
    return PPOConfig(**{**small, **values})


def sac(**values) -> SACConfig:
    """Config of SAC that learns a goal in the plane in seconds."""
    small = {
        "env_steps": 400, "evaluations": 2, "evaluation_episodes": 8, "slots": 2,
        "random_steps": 50, "updates_per_step": 2, "discount": 0.8, "hidden_sizes": (32,),
        "batch_size": 64, "learning_rate": 3e-3,
    }  # fmt: skip
    return SACConfig(**{**small, **values})


def seen(obs: torch.Tensor, action_space: spaces.Box | spaces.Discrete) -> TimeStep:
    return first_step(obs.numpy(), action_space, CPU)


# -- policies --------------------------------------------------------------------------------------


def test_random_actions_are_uniform_in_the_box() -> None:
    space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.5], np.float32))
    policy = RandomPolicy(space)
    assert isinstance(policy, Agent)
    step = seen(torch.zeros(20_000, 3), space)
    action, log_prob, _ = policy.act(None, step, generator=torch_generator(0, CPU))
    # The density is 1 / (2 · 0.5) = 1, the variance width² / 12.
    assert log_prob.tolist() == [0.0] * 20_000
    np.testing.assert_allclose(action.mean(0), [0, 0.25], atol=0.02)
    np.testing.assert_allclose(action.var(0), [4 / 12, 0.25 / 12], rtol=0.03)
    assert (action >= torch.tensor([-1, 0])).all() and (action <= torch.tensor([1, 0.5])).all()
    again, _, _ = policy.act(None, step, generator=torch_generator(0, CPU))
    assert torch.equal(action, again)
    halves = RandomPolicy(spaces.Box(0.0, 0.5, (3,)))
    step = seen(torch.zeros(1, 3), spaces.Box(0.0, 0.5, (3,)))
    _, log_prob, _ = halves.act(None, step, generator=torch_generator(0, CPU))
    assert log_prob.item() == pytest.approx(3 * math.log(2))


def test_random_discrete_actions_are_equally_likely() -> None:
    space = spaces.Discrete(4)
    step = seen(torch.zeros(20_000, 1), space)
    action, log_prob, _ = RandomPolicy(space).act(None, step, generator=torch_generator(0, CPU))
    np.testing.assert_allclose(action.bincount() / 20_000, [0.25] * 4, atol=0.01)
    np.testing.assert_allclose(log_prob, math.log(0.25), rtol=1e-6)


def test_what_a_random_policy_cannot_do_is_said() -> None:
    policy = RandomPolicy(spaces.Discrete(4))
    with pytest.raises(UserError, match="no likeliest action"):
        policy.act(None, seen(torch.zeros(2, 1), spaces.Discrete(4)), generator=None)
    with pytest.raises(UserError, match="nothing in it to train"):
        policy.meta_update([], generator=torch_generator(0, CPU))
    with pytest.raises(UserError, match="without bounds"):
        RandomPolicy(spaces.Box(-np.inf, np.inf, (2,)))
    assert policy.state_dict() == {}


@pytest.mark.parametrize("name", ["reach-v3", "drawer-close-v3"])
def test_scripted_policies_reach_the_goal_in_every_episode(name: str) -> None:
    benchmark = MetaWorld(f"ML1-{name}", horizon=110, num_threads=1)
    tasks = spread(benchmark.test, 2)
    yardstick = fixed_yardstick(benchmark, tasks, policy="scripted", episodes=1, seed=0)
    assert yardstick.scores["success_any"] == [[1.0], [1.0]]
    assert yardstick.env_steps_to(1.0) == 0
    # Two slots per task and two consecutive episodes: scripts start anew.
    with_two = TrialShape(slots_per_task=2, episodes=2)
    env = benchmark.make_env(4)
    trial = run_trial(ScriptedPolicy(tasks), env, tasks, shape=with_two, seed=0, generator=None)
    env.close()
    curve = adaptation_curve(trial, [name] * 2, slots_per_task=2)
    assert curve.scores["success_any"].tolist() == [[1, 1], [1, 1]]
    returns = curve.scores["return"]
    assert torch.equal(returns[:, 0], returns[:, 1])
    np.testing.assert_allclose(returns[:, :1], yardstick.scores["return"], rtol=1e-6)


def test_scripted_policies_are_of_meta_world_only() -> None:
    with pytest.raises(UserError, match="only Meta-World has scripted policies, point"):
        ScriptedPolicy(POINTS.test)
    with pytest.raises(UserError, match="give one"):
        ScriptedPolicy([])
    policy = ScriptedPolicy(MetaWorld("ML1-reach-v3").test[:2])
    with pytest.raises(UserError, match="3 slots cannot be shared equally by 2 tasks"):
        policy.begin_trial(3)


@pytest.mark.parametrize("config", [ppo(), sac()], ids=["ppo", "sac"])
def test_a_model_acts_as_stable_baselines3_says(config: PPOConfig | SACConfig) -> None:
    env = POINTS.make_env(config.slots)
    model = config.build(SB3VecEnv(env), seed=0)
    policy = SB3Policy(model)
    obs = torch.randn(4_000, 2, generator=torch_generator(1, CPU))
    obs[:2_000] = obs[0]
    step = seen(obs, env.single_action_space)
    mode, _, _ = policy.act(None, step, generator=None)
    expected, _ = model.predict(obs.numpy(), deterministic=True)
    np.testing.assert_allclose(mode.clamp(-STEP_LENGTH, STEP_LENGTH), expected, rtol=1e-5)
    before = torch.random.get_rng_state()
    action, log_prob, _ = policy.act(None, step, generator=torch_generator(0, CPU))
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.no_grad():
        if isinstance(model, PPO):
            _, theirs, _ = model.policy.evaluate_actions(obs, action)
        else:
            # Their density is on [-1, 1], where 0.1 here corresponds to 1.
            mean, log_std, _ = model.actor.get_action_dist_params(obs)
            squashed = model.actor.action_dist.proba_distribution(mean, log_std)
            theirs = squashed.log_prob(action / STEP_LENGTH) - 2 * math.log(STEP_LENGTH)
            assert (action.abs() <= STEP_LENGTH).all()
            assert isinstance(model, SAC)
    np.testing.assert_allclose(log_prob, theirs, rtol=1e-3, atol=1e-2)
    torch.manual_seed(0)
    drawn, _ = model.predict(obs[:2_000].numpy())
    ours = action[:2_000].clamp(-STEP_LENGTH, STEP_LENGTH)
    np.testing.assert_allclose(ours.mean(0), drawn.mean(0), atol=0.01)
    np.testing.assert_allclose(ours.std(0), drawn.std(0), atol=0.01)


# -- learning --------------------------------------------------------------------------------------


def test_ppo_learns_a_task_from_nothing() -> None:
    before = (np.random.get_state()[1].tolist(), torch.random.get_rng_state())
    task = PointTask(np.array([0.4, -0.3]))
    curve = learn_from_scratch(POINTS, task, config=ppo(), seed=3)
    assert np.random.get_state()[1].tolist() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    # 8 slots × 24 steps are 192 env steps per update, with 10 updates between evaluations.
    assert curve.env_steps == [0, 1_920, 3_840]
    # Staying at the origin gives -0.5 a step, so -6; full speed along both axes gives -0.68.
    returns = curve.scores["return"]
    assert returns[0, 0] < -5
    assert returns[0, -1] > -2
    assert curve.scores["success_any"][0, -1] > curve.scores["success_any"][0, 0] + 0.4


def test_sac_learns_a_task_from_nothing_and_the_seed_says_how() -> None:
    task = PointTask(np.array([0.4, -0.3]))
    curve, again, other = (
        learn_from_scratch(POINTS, task, config=config, seed=seed)
        for config, seed in ((sac(), 0), (sac(), 0), (sac(), 1))
    )
    assert curve.env_steps == [0, 200, 400]
    assert set(curve.scores) == {"return", "success_any", "success_last"}
    for measure, scores in curve.scores.items():
        assert scores.shape == (1, 3) and np.isfinite(scores).all()
        np.testing.assert_array_equal(scores, again.scores[measure])
    assert (curve.scores["return"] != other.scores["return"]).any()
    assert (curve.scores["success_last"] <= curve.scores["success_any"]).all()
    assert curve.scores["return"][0, -1] > curve.scores["return"][0, 0] + 1


def test_process_wide_streams_go_on_as_if_nothing_had_been_drawn() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    with pytest.raises(ValueError, match="midway"), random_state_kept():
        set_random_seed(3)
        _ = random.random(), np.random.random(), torch.rand(1)
        raise ValueError("midway")
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_the_mode_can_be_evaluated() -> None:
    config = ppo(env_steps=1, evaluations=1, evaluation_episodes=3, greedy=True)
    curve = learn_from_scratch(POINTS, POINTS.test[0], config=config, seed=0)
    again = learn_from_scratch(
        POINTS, POINTS.test[0], config=config.model_copy(update={"evaluation_episodes": 1}), seed=0
    )
    assert curve.env_steps == [0, 192]
    np.testing.assert_allclose(curve.scores["return"], again.scores["return"], rtol=1e-6)


def test_ppo_takes_discrete_actions_and_sac_does_not() -> None:
    bandits = BanditConfig(num_arms=3).build()
    steps = {"rollout_steps": 8, "num_minibatches": 4, "env_steps": 64, "evaluations": 1}
    curve = learn_from_scratch(bandits, bandits.test[0], config=ppo(**steps), seed=0)
    assert curve.env_steps == [0, 64]
    with pytest.raises(UserError, match="use ppo"):
        learn_from_scratch(bandits, bandits.test[0], config=sac(), seed=0)


def test_every_episode_of_all_tasks_plays_others() -> None:
    env = POINTS.make_env(3)
    slots = OtherTaskEachEpisode(SB3VecEnv(env), POINTS.train, np.random.default_rng(0))
    slots.reset()
    drawn = [env.next_tasks]
    for step in range(1, 3 * HORIZON + 1):
        obs, rewards, ended, infos = slots.step(np.full((3, 2), 0.1, np.float32))
        if step % HORIZON:
            assert not ended.any()
            continue
        # The reward and the last observation are of the played task; the next one is new.
        last = np.full(2, 0.1 * HORIZON)
        for slot, task in enumerate(drawn[-1]):
            np.testing.assert_allclose(infos[slot]["terminal_observation"], last, rtol=1e-6)
            distance = np.linalg.norm(last - task.goal)
            np.testing.assert_allclose(rewards[slot], -distance, rtol=1e-6)
        assert ended.all() and not obs.any()
        drawn.append(env.next_tasks)
    assert len({task.goal.tobytes() for tasks in drawn for task in tasks}) > 9


def test_one_policy_learns_what_all_tasks_share() -> None:
    """Goals near the origin: staying there is best for all of them."""
    near = PointConfig(horizon=HORIZON, half_side=0.1, num_train_tasks=50, num_test_tasks=4).build()
    config = ppo(evaluations=1, evaluation_episodes=4)
    curve = learn_all_tasks(near, near.test, config=config, seed=0)
    returns = curve.scores["return"]
    assert returns.shape == (4, 2)
    assert (returns[:, 1] > returns[:, 0]).all()
    # At the origin every step costs the goal's distance. Without knowing goals, no policy does
    # better.
    at_the_origin = np.mean([-HORIZON * np.linalg.norm(task.goal) for task in near.test])
    gained = returns.mean(axis=0) - at_the_origin
    assert gained[1] > 0.3 * gained[0]
    assert gained[1] < 0.1


# -- reading off -----------------------------------------------------------------------------------


def hand_made(any_step: list[list[float]], env_steps: list[int]) -> LearningCurve:
    success = np.array(any_step)
    scores = {"return": 10 * success, "success_any": success, "success_last": success / 2}
    return LearningCurve(env_steps=env_steps, scores=scores)


def test_env_steps_to_a_success() -> None:
    first = hand_made([[0.0, 0.6, 1.0, 0.7]], [0, 100, 200, 300])
    second = hand_made([[0.2, 0.2, 0.6, 1.0]], [0, 100, 200, 300])
    both = LearningCurve.of_tasks([first, second])
    # Means over both tasks: 0.1, 0.4, 0.8, 0.85.
    assert both.scores["return"].shape == (2, 4)
    assert env_steps_to(both, 0.0) == 0
    assert env_steps_to(both, 0.1) == 0
    assert env_steps_to(both, 0.11) == 100
    assert env_steps_to(both, 0.8) == 200
    assert env_steps_to(both, 0.81) == 300
    assert env_steps_to(both, 0.98) is None
    assert env_steps_to(both, 0.4, measure="success_last") == 200
    # The first time counts, even if it does not last.
    assert env_steps_to(first, 1.0) == 200
    with pytest.raises(UserError, match="a share from 0 to 1, not 98"):
        env_steps_to(both, 98.0)
    with pytest.raises(UserError, match="different env steps"):
        LearningCurve.of_tasks([first, hand_made([[0.0, 1.0]], [0, 100])])
    with pytest.raises(UserError, match="at least one"):
        LearningCurve.of_tasks([])


def test_tasks_are_spread_over_classes() -> None:
    tasks = TaskSet([PointTask(np.array([i, 0.0]), name) for i, name in enumerate("aaabbbcc")])
    chosen = spread(tasks, 5)
    assert [int(task.goal[0]) for task in chosen] == [0, 1, 3, 4, 6]
    assert spread(tasks, 8).content_hash == tasks.content_hash
    with pytest.raises(UserError, match="1 to 8"):
        spread(tasks, 9)


def test_yardsticks_are_stored_whole(tmp_path) -> None:
    tasks, lines = TaskSet(POINTS.test[1:3]), []
    config = ppo(env_steps=400, evaluations=2, evaluation_episodes=2)
    made = from_scratch_yardstick(POINTS, tasks, config=config, seed=0, progress=lines.append)
    path = tmp_path / "new" / "ppo.json"
    write_yardstick(made, path)
    assert read_yardstick(path) == made
    assert [file.name for file in path.parent.iterdir()] == ["ppo.json"]
    assert made.name == "PPO from scratch" and made.config["kind"] == "ppo"
    assert made.env_steps == [0, 384, 768]
    assert [task.index for task in made.tasks] == [1, 2]
    assert made.tasks[0].parameters == POINTS.test[1].goal.tolist()
    assert made.split_hash == POINTS.test.content_hash
    assert len(lines) == 2 and "task 2 of 2 (point-navigation)" in lines[1]
    assert made.curve.scores["return"].shape == (2, 3)
    # A task is learned in the same way, regardless of the other tasks.
    alone = from_scratch_yardstick(
        POINTS, TaskSet(tasks[1:]), config=config, seed=0, progress=lines.append
    )
    assert alone.scores["return"] == made.scores["return"][1:]
    multi = multi_task_yardstick(POINTS, tasks, config=config, seed=0, progress=lines.append)
    assert multi.kind == "multi_task" and len(multi.scores["return"]) == 2
    chance = fixed_yardstick(POINTS, tasks, policy="random", episodes=4, seed=0)
    assert chance.env_steps == [0] and chance.kind == "random"


def test_what_is_no_yardstick_is_named(tmp_path) -> None:
    path = tmp_path / "yardstick.json"
    with pytest.raises(UserError, match="is no yardstick"):
        read_yardstick(path)
    for text in ("{", "[]", json.dumps({"name": "PPO"})):
        path.write_text(text)
        with pytest.raises(UserError, match="is no yardstick"):
            read_yardstick(path)
    with pytest.raises(UserError, match="not held out by 2-D"):
        fixed_yardstick(POINTS, TaskSet(POINTS.train[:1]), policy="random", episodes=1, seed=0)
    with pytest.raises(UserError, match="1 episode"):
        fixed_yardstick(POINTS, POINTS.test, policy="random", episodes=0, seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_minibatches": 7}, "should divide 1000 env steps"),
        ({"slots": 1, "rollout_steps": 4, "num_minibatches": 4}, "of more than one"),
        ({"discount": 1.5}, "'discount' should be less than or equal to 1"),
        ({"method": "dqn"}, "unknown key 'method'"),
    ],
)
def test_wrong_settings_are_named(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(PPOConfig, values, source="yardstick")
