"""Adapting to one environment equals a trial in vector environments, episode by episode."""

import math
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import evaluate
import train
from envs.gymnasium_tasks import GymnasiumTasks
from metarl.errors import NotFiniteError, UserError
from metarl.evaluation.adapt import AdaptedAgent, adapt
from metarl.nn.distributions import DiagonalGaussian
from metarl.rollout.trial import run_trial
from metarl.system.seeding import derive_seed, torch_generator
from metarl.system.user_module import UserModule
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import build_agent, load_experiment
from metarl.training.run import load_agent
from metarl.types import Rollout, TrialShape
from tests.runs import fails

HORIZON, SIDE_BY_SIDE = 6, 4
TASK = (0.4, -0.7)

# Nothing is random: a point moves by its action and is paid for being near a hidden goal.
POINT = """
import gymnasium
import numpy as np
from gymnasium import spaces

horizon = 6
train_tasks = [(x / 4, y / 4) for x in (-1, 1) for y in (-1, 1)]
test_tasks = [(0.4, -0.7)]

class Point(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def set_task(self, task):
        self.goal = np.array(task)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = np.zeros(2)
        return self.position, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.position = self.position + 0.1 * action
        distance = float(np.linalg.norm(self.position - self.goal))
        return self.position, -distance, False, False, {"success": distance < 0.75}

make_env = Point
"""
AGENTS = {
    "rl2": "{kind: rl2, hidden_size: 8, epochs: 1, num_minibatches: 1}",
    "maml_trpo": "{kind: maml_trpo, hidden_sizes: [8], episodes_per_step: 4}",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one iteration per agent, and with the module of tasks."""
    folder = tmp_path_factory.mktemp("runs")
    module = folder / "point.py"
    module.write_text(POINT)
    for name, agent in AGENTS.items():
        config = folder / f"{name}.yaml"
        config.write_text(
            f"env: {{kind: gymnasium, module: {module}, num_workers: 0}}\nagent: {agent}\n"
            "train: {env_steps: 1, meta_batch_size: 2, episodes_per_trial: 8}\n"
        )
        train.main([str(config), "--run-dir", str(folder / name)])
    return folder


@pytest.fixture
def env(runs: Path) -> gymnasium.Env:
    """The user's environment."""
    env = UserModule(str(runs / "point.py")).loaded.make_env()
    env.set_task(TASK)
    return env


def oracle(run: Path, shape: TrialShape, *, seed: int = 0) -> list[Rollout]:
    """The trial as played in training and evaluation."""
    experiment = load_experiment(run / "config.yaml")
    tasks = experiment.env.build()
    assert isinstance(tasks, GymnasiumTasks)
    env = tasks.make_env(shape.slots_per_task)
    agent = build_agent(experiment, env)
    load_agent(agent, checkpoints(run / "checkpoints")[-1])
    generator = torch_generator(derive_seed(seed, "agent"), agent.device)
    return run_trial(agent, env, list(tasks.test), shape=shape, seed=0, generator=generator)


def test_rl2_goes_on_as_in_one_long_trial(runs: Path, env: gymnasium.Env) -> None:
    """Two episodes to adapt, then a third: with `play`, and with `act` in the user's own loop."""
    (rollout,) = oracle(runs / "rl2", TrialShape(episodes=4))
    returns = rollout.reward.double().view(4, HORIZON).sum(1).numpy()
    success = rollout.success.view(4, HORIZON).any(1).numpy()
    assert len(set(returns.tolist())) == 4 and success.any()

    adapted = adapt(runs / "rl2", env, episodes=2)
    np.testing.assert_array_equal(adapted.returns, returns[:2])
    np.testing.assert_array_equal(adapted.success, success[:2])
    played = adapted.play(env, episodes=2)
    np.testing.assert_array_equal(played.returns, returns[2:])
    np.testing.assert_array_equal(played.success, success[2:])

    adapted, reward, rewards = adapt(runs / "rl2", env, episodes=2), None, []
    for _ in range(2):
        obs, _ = env.reset()
        for step in range(HORIZON):
            action = adapted.act(obs, reward, episode_start=step == 0)
            obs, reward, *_ = env.step(action)
            rewards.append(reward)
    np.testing.assert_allclose(rewards, rollout.reward[0, 2 * HORIZON :].numpy(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"act\(obs, reward\)"):
        adapted.act(obs)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch):
    """Makes the noise of actions depend only on rollout, step and episode, for episodes side by
    side (1 K A) and one after the other (1 1 A)."""
    table = torch.randn(3, HORIZON, SIDE_BY_SIDE, 2, generator=torch.Generator().manual_seed(0))
    one_by_one = table.transpose(1, 2).reshape(-1, 2)
    calls = [0]

    def sample(self: DiagonalGaussian, generator: torch.Generator) -> torch.Tensor:
        call, calls[0] = calls[0], calls[0] + 1
        together = self.mean.shape[1] == SIDE_BY_SIDE
        drawn = table.flatten(0, 1)[call] if together else one_by_one[call]
        return self.mean + self.log_std.exp() * drawn

    monkeypatch.setattr(DiagonalGaussian, "sample", sample)

    def start_anew() -> None:
        calls[0] = 0

    return start_anew


def test_maml_learns_of_episodes_in_a_row_what_it_learns_of_them_side_by_side(
    runs: Path, env: gymnasium.Env, noise
) -> None:
    """Eight episodes are two gradient steps with four each; the result plays four more."""
    trial = oracle(runs / "maml_trpo", TrialShape(slots_per_task=SIDE_BY_SIDE, rollouts=3))
    returns = np.concatenate([rollout.reward.sum(1).numpy() for rollout in trial])
    noise()
    adapted = adapt(runs / "maml_trpo", env, episodes=8)
    np.testing.assert_allclose(adapted.returns, returns[:8], rtol=1e-5)
    np.testing.assert_allclose(adapted.play(env, episodes=4).returns, returns[8:], rtol=1e-5)
    # With one gradient step fewer, the same noise gives other actions.
    noise()
    less = adapt(runs / "maml_trpo", env, episodes=4)
    less.play(env, episodes=4)
    assert not np.allclose(less.play(env, episodes=4).returns, returns[8:], rtol=1e-4)


class Watched(gymnasium.Wrapper):
    """Environment that counts resets, ends after three steps, and may fail."""

    def __init__(self, env: gymnasium.Env, *, broken_at: int | None = None) -> None:
        super().__init__(env)
        self.resets, self.steps, self.closed, self.broken_at = 0, 0, False, broken_at

    def reset(self, **options):
        self.resets += 1
        return super().reset(**options)

    def step(self, action):
        self.steps += 1
        obs, reward, *_, info = super().step(action)
        broken = self.steps == self.broken_at
        return obs, math.nan if broken else reward, self.steps % 3 == 0, False, info

    def close(self):
        self.closed = True


@pytest.mark.parametrize("agent", AGENTS)
def test_a_real_robot_is_reset_as_seldom_as_can_be(agent: str, runs: Path, env) -> None:
    """It is reset once per episode, not stepped at rest, and left open."""
    robot = Watched(env)
    adapted = adapt(str(runs / agent), robot, episodes=4)
    assert (robot.resets, robot.steps, robot.closed) == (4, 12, False)
    adapted.play(robot, greedy=True)
    assert (robot.resets, robot.steps, robot.closed) == (5, 15, False)
    with pytest.raises(NotFiniteError, match="reward in step 2 "):
        adapted.play(Watched(env, broken_at=2))


def test_greedy_adaptation_is_the_same_whatever_the_seed(runs: Path, env) -> None:
    first, second = (adapt(runs / "rl2", env, episodes=2, greedy=True, seed=n) for n in (0, 1))
    np.testing.assert_array_equal(first.returns, second.returns)
    assert isinstance(first, AdaptedAgent)


class Other(gymnasium.Env):
    """Environment with spaces on which no run was trained."""

    def __init__(self, observations: int, action_space: spaces.Space) -> None:
        self.observation_space = spaces.Box(-1, 1, (observations,))
        self.action_space = action_space


class Bounded(gymnasium.Wrapper):
    """The environment with other bounds; keeps the largest action that it received."""

    def __init__(self, env: gymnasium.Env, bound: float, dtype: type = np.float32) -> None:
        super().__init__(env)
        self.action_space = spaces.Box(-bound, bound, (2,), dtype)
        self.largest = 0.0

    def step(self, action):
        assert self.action_space.contains(action)
        self.largest = max(self.largest, float(np.abs(action).max()))
        action *= 1  # an environment may change its input
        return super().step(np.clip(action, -1, 1).astype(np.float32))


@pytest.mark.parametrize("agent", AGENTS)
def test_actions_stay_within_the_bounds_of_training_unless_asked(agent: str, runs, env) -> None:
    """Training was within ±1; a policy with a standard deviation of 1 exceeds it."""
    for bound, bounds, largest in (
        (1.0, None, 1.0), (9.0, "trained", 1.0), (0.5, "trained", 0.5), (9.0, "environment", 9.0)
    ):  # fmt: skip
        robot = Bounded(env, bound)
        adapted = adapt(runs / agent, robot, episodes=4, bounds=bounds)
        other = Bounded(env, bound)
        adapted.play(other)
        obs, _ = robot.reset()
        for _ in range(50):
            robot.step(adapted.act(obs, 0.0))
        for largest_sent in (robot.largest, other.largest):
            assert largest_sent <= largest
        assert robot.largest == largest if largest < 9 else robot.largest > 1
    for bound in (9.0, 0.5):
        with pytest.raises(UserError, match=rf"are within \[-{bound:g}, {bound:g}\], .* \[-1, 1\]"):
            adapt(runs / agent, Bounded(env, bound), episodes=4)
        with pytest.raises(UserError, match="bounds='trained'"):
            adapt(runs / agent, env, episodes=4).play(Bounded(env, bound))
    apart = Bounded(env, 1.0)
    apart.action_space = spaces.Box(2, 3, (2,))
    with pytest.raises(UserError, match="no action is within both"):
        adapt(runs / agent, apart, episodes=4, bounds="trained")


def test_bounds_are_the_same_in_another_precision(runs: Path, env) -> None:
    double = Bounded(env, 1.0, np.float64)
    adapt(runs / "rl2", double, episodes=4)
    assert double.largest == 1.0


def test_the_policy_sees_the_action_that_was_executed(runs: Path, env) -> None:
    adapted = adapt(runs / "rl2", Bounded(env, 0.01), episodes=1, bounds="trained")
    sent = adapted.act(np.zeros(2), episode_start=True)
    np.testing.assert_array_equal(adapted._step.prev_action[0].numpy(), sent)
    assert np.abs(sent).max() == np.float32(0.01)


def test_what_act_is_shown_is_finite(runs: Path, env) -> None:
    adapted = adapt(runs / "rl2", env, episodes=1)
    for obs, reward in ((np.array([0, math.inf]), 0.0), (np.zeros(2), math.nan)):
        with pytest.raises(NotFiniteError, match=r"the (observation|reward) is not finite"):
            adapted.act(obs, reward)


def test_bounds_are_those_of_training_whatever_the_module_has_become(
    runs: Path, tmp_path: Path, capsys
) -> None:
    """Evaluation and training refuse another distribution, and a changed module of the run, in one
    line."""
    wide = POINT.replace("spaces.Box(-1, 1, (2,)", "spaces.Box(-3, 3, (2,)")
    (tmp_path / "wide.py").write_text(wide)
    config = (runs / "rl2.yaml").read_text().replace(str(runs / "point.py"), "wide.py")
    (tmp_path / "wide.yaml").write_text(config.replace("wide.py", str(tmp_path / "wide.py")))
    run = str(shutil.copytree(runs / "rl2", tmp_path / "rl2"))
    options = ["--episodes", "1", "--tasks", str(tmp_path / "wide.yaml")]
    refused = "its actions are within [-3, 3], the agent was trained within [-1, 1]"
    assert refused in fails(capsys, evaluate, [run, *options])
    (Path(run) / "interface.json").unlink()  # as in runs of earlier versions
    assert refused in fails(capsys, evaluate, [run, *options])
    evaluate.main([run, *options, "--bounds", "environment"])

    module = tmp_path / "module.py"
    module.write_text(POINT)
    config = (runs / "rl2.yaml").read_text().replace(str(runs / "point.py"), str(module))
    (tmp_path / "changed.yaml").write_text(config)
    run = str(tmp_path / "changed")
    train.main([str(tmp_path / "changed.yaml"), "--run-dir", run])
    module.write_text(wide)
    assert refused in fails(capsys, evaluate, [run, "--episodes", "1"])
    message = fails(capsys, train, ["--resume", run])
    assert "was started with actions of shape (2,) within [-1, 1]; now they are" in message


def test_mistakes(runs: Path, env: gymnasium.Env) -> None:
    maml, rl2 = runs / "maml_trpo", runs / "rl2"
    actions = env.action_space
    for message, run, there, options in (
        ("is no run: it has no config.yaml", runs / "nowhere", env, {}),
        (r"observations are of shape \(3,\), .* are of shape \(2,\)", rl2, Other(3, actions), {}),
        (r"actions are 4 choices, .* of shape \(2,\)", rl2, Other(2, spaces.Discrete(4)), {}),
        ("neither Discrete nor", rl2, Other(2, spaces.MultiBinary(2)), {}),
        ("maml_trpo adapts by what its own random actions lead to", maml, env, {"greedy": True}),
        ("a trial of 5 episodes does not divide", maml, env, {"episodes": 5}),
        ("'episodes' should be greater", rl2, env, {"episodes": 0}),
        ("there are 0, 96", rl2, env, {"checkpoint": 7}),
    ):
        with pytest.raises(UserError, match=message) as raised:
            adapt(run, there, **{"episodes": 4, **options})
        assert "\n" not in str(raised.value)
