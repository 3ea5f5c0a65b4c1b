"""Agents learn: from the command line, on held-out tasks, against known bounds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmarks.bandit_learners import thompson_sampling
from envs.navigation import STEP_LENGTH, PointConfig
from metarl.training.experiment import load_experiment

ROOT = Path(__file__).parents[1]


def held_out(tmp_path: Path, config: str, *, train_flags: tuple[str, ...] = ()) -> dict[str, Any]:
    """Trains from the command line and plays all held-out tasks; the stored evaluation."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = str(tmp_path / "run")
    for command in (
        ["train.py", f"configs/{config}.yaml", "--run-dir", run, *train_flags],
        ["evaluate.py", run],
    ):
        subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True,
                       capture_output=True, timeout=600)  # fmt: skip
    (result,) = Path(run, "eval").glob("*.json")
    return json.loads(result.read_text())


def held_out_returns(
    tmp_path: Path, config: str, *, train_flags: tuple[str, ...] = ()
) -> torch.Tensor:
    """Returns of `held_out`, tasks × episodes."""
    return returns_of(held_out(tmp_path, config, train_flags=train_flags))


def returns_of(evaluation: dict[str, Any]) -> torch.Tensor:
    """Returns of an evaluation, tasks × episodes."""
    return torch.tensor(evaluation["per_task"]["scores"]["return"])


def test_bandits_are_played_as_well_as_thompson_sampling_plays_them(tmp_path: Path) -> None:
    """On the same held-out bandits; Thompson sampling knows the prior, RL² has to learn it."""
    returns = held_out_returns(tmp_path, "rl2_bandit")
    tasks = load_experiment(ROOT / "configs/rl2_bandit.yaml").env.build().test
    rng = np.random.default_rng(1)  # 0 draws the tasks
    rewards = np.mean([thompson_sampling(tasks, pulls=100, rng=rng) for _ in range(20)], axis=0)
    for pulls in (10, 100):
        collected = float(returns[:, :pulls].sum(1).mean())
        thompson = rewards[:, :pulls].sum(1).mean()
        random = pulls * np.mean([task.arm_means for task in tasks])
        assert collected >= 0.97 * thompson, pulls
        # Far above random: most of what Thompson sampling gains over it.
        assert collected - random >= 0.75 * (thompson - random), pulls


@pytest.mark.long
def test_navigation_gets_better_from_episode_to_episode(tmp_path: Path) -> None:
    returns = held_out_returns(tmp_path, "rl2_point").numpy()
    config = load_experiment(ROOT / "configs/rl2_point.yaml").env
    without_memory, oracle = navigation_bounds(config)
    first, last = returns[:, 0], returns[:, -1]
    assert last.mean() > without_memory + 0.5 * (oracle - without_memory)
    # Adapting regains a third of what the first episode lost by not knowing the goal, by five
    # standard errors of the paired difference.
    gain = last - first
    assert gain.mean() > (oracle - first.mean()) / 3
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))


@pytest.mark.long
@pytest.mark.parametrize("config", ["varibad_point", "pearl_point"])
def test_an_inferred_goal_is_gone_to(tmp_path: Path, config: str) -> None:
    """After half, or a third, of the config's training."""
    steps = {"varibad_point": "500000", "pearl_point": "30000"}[config]
    evaluation = held_out(tmp_path, config, train_flags=("--train.env-steps", steps))
    returns = returns_of(evaluation).numpy()
    without_memory, oracle = navigation_bounds(load_experiment(ROOT / f"configs/{config}.yaml").env)
    last = returns[:, -1]
    # Regains a quarter of what not inferring costs, by five standard errors.
    margin = (oracle - without_memory) / 4
    assert last.mean() - 5 * last.std() / np.sqrt(len(last)) > without_memory + margin
    gain = last - returns[:, 0]
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))
    # The belief holds the goal at the end of a trial, and knew nothing at its start.
    goal_r2 = evaluation["belief"]["goal_r2"]
    assert goal_r2[0] < 0.1
    assert goal_r2[-1] > (0.9 if config == "varibad_point" else 0.6)


def navigation_bounds(config: PointConfig) -> tuple[float, float]:
    """Largest mean return on the held-out goals: without adapting, and with known goals."""
    goals = np.stack([task.goal for task in config.build().test])

    # A policy that does not adapt moves in the same way on every task, so its mean distance to
    # the goals is never below that of the point with the smallest mean distance.
    def mean_distance(point: np.ndarray) -> float:
        return float(np.linalg.norm(goals - point, axis=1).mean())

    without_adapting = -config.horizon * minimize(mean_distance, np.zeros(2)).fun
    # With a known goal, only the way there costs reward.
    oracle = -np.mean([distance_on_the_way(goal, config.horizon) for goal in goals])
    assert without_adapting < oracle
    return without_adapting, float(oracle)


@pytest.mark.parametrize("config", ["maml_trpo_point", "promp_point"])
def test_one_gradient_step_beats_all_that_does_not_adapt(tmp_path: Path, config: str) -> None:
    shorter = ("--train.env-steps", "1200000") if config == "promp_point" else ()
    returns = held_out_returns(tmp_path / "meta", config, train_flags=shorter).numpy()
    experiment = load_experiment(ROOT / f"configs/{config}.yaml")
    without_adapting, oracle = navigation_bounds(experiment.env)
    before, after = returns[:, 0], returns[:, 1]
    # Before its step the agent is a policy that does not adapt.
    assert before.mean() < without_adapting + 3 * before.std() / np.sqrt(len(before))
    # One step regains a third of what not knowing the goal costs even the best of those policies,
    # by five standard errors of the paired difference.
    margin = (oracle - without_adapting) / 3
    assert after.mean() > without_adapting + margin
    gain = after - before
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))
    if config == "promp_point":
        return
    # The same env steps for one policy for all tasks, which then takes the same gradient step, or
    # preferably none.
    baseline = held_out_returns(
        tmp_path / "multi", config, train_flags=("--agent.adapt-in-training", "false")
    ).numpy()
    fine_tuned = max(baseline[:, 0], baseline[:, 1], key=np.mean)
    difference = after - fine_tuned
    assert difference.mean() > margin
    assert difference.mean() > 5 * difference.std() / np.sqrt(len(difference))


def distance_on_the_way(goal: np.ndarray, horizon: int) -> float:
    """Sum of distances over an episode of a point that moves straight to its goal."""
    position, total = np.zeros(2), 0.0
    for _ in range(horizon):
        position = position + np.clip(goal - position, -STEP_LENGTH, STEP_LENGTH)
        total += float(np.linalg.norm(goal - position))
    return total


def test_the_oracle_of_navigation_by_hand() -> None:
    # From .3 away along an axis, the distances are .2, .1 and 0.
    assert distance_on_the_way(np.array([0.3, 0.0]), 5) == pytest.approx(0.3)
