"""Environments of users: the contract, the same bits anywhere, and processes that truly die."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from copy import deepcopy
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FlattenObservation

import evaluate
import train
from envs.gymnasium_tasks import GymnasiumConfig, GymnasiumEnv, GymnasiumTasks, check, checker
from envs.gymnasium_tasks.tasks import LOST_TRIALS
from envs.worker.player import FlatSpaces
from metarl.checkpoint import checkpoints
from metarl.errors import EnvironmentFailedError, TrialLostError, UserError
from metarl.protocols import TaskDistribution
from metarl.seeding import slot_generators
from tests.test_train import fails, metrics

ROOT = Path(__file__).parents[2]

# Walks by its action, the task and noise; ends after three steps where it walked beyond 1000.
WALK = """
import gymnasium
import numpy as np
from gymnasium import spaces

horizon = 5
train_tasks = [{"drift": 10 * i} for i in range(8)]
test_tasks = [{"drift": 500.0}]

class Walk(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def set_task(self, task):
        self.drift = task["drift"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.normal()
        return self._obs(), {}

    def _obs(self):
        return np.array([self.place, self.steps])

    def step(self, action):
        self.steps += 1
        self.place += float(action[0]) + self.drift + self.np_random.normal()
        far = self.steps == 3 and self.place > 1000
        return self._obs(), self.place, False, far, {"success": far}

make_env = Walk
"""

# Task 0 is harmless; others fail in the sixth step of a trial, the second of its second episode.
FAULTY = """
import os
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

horizon = 4
train_tasks = [0, 1, 2, 3, 4, 5]
test_tasks = [6]

def wrong():
    return 1 // 0

def once():
    if not Path("failed").exists():
        Path("failed").touch()
        os._exit(3)

FAULTS = [lambda: None, wrong, lambda: os._exit(3), lambda: time.sleep(1000),
          lambda: os.kill(os.getpid(), signal.SIGSEGV), once, wrong]

class Faulty(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def set_task(self, task):
        self.fault, self.steps = FAULTS[int(task)], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 6:
            self.fault()
        return np.array([self.steps]), 1.0, False, False, {}

make_env = Faulty
"""


def write(folder: Path, text: str, name: str = "module.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def worker_pids(env: GymnasiumEnv) -> list[int]:
    return [worker.pid for worker in env._workers if worker is not None]


def alive(pid: int) -> bool:
    """Whether there is such a process; a zombie counts, unless its parent is not us either."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


# -- the contract ----------------------------------------------------------------------------------


def test_the_contract_and_rest_after_an_early_end(tmp_path: Path) -> None:
    """Slot 0 stays near, slot 1 ends each episode after 3 of 5 steps, with a success."""
    distribution = GymnasiumConfig(module=write(tmp_path, WALK)).build()
    assert isinstance(distribution, TaskDistribution)
    assert (distribution.name, distribution.horizon) == ("module", 5)
    env = distribution.make_env(2)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    env.set_tasks([distribution.train[0], distribution.test[0]])
    obs, _ = env.reset(seed=3)
    for step in range(1, 11):
        before = obs
        obs, reward, terminated, truncated, info = env.step(np.zeros((2, 1), np.float32))
        in_episode = (step - 1) % 5 + 1
        assert env.observation_space.contains(obs) and reward.dtype == np.float64
        assert not terminated.any() and (truncated == (in_episode == 5)).all()
        assert info["final_obs"][:, 1].tolist() == [in_episode, min(in_episode, 3)]
        assert info["success"].tolist() == [False, in_episode >= 3]
        assert reward[0] == info["final_obs"][0, 0]
        assert reward[1] == (info["final_obs"][1, 0] if in_episode <= 3 else 0)
        if in_episode > 3:
            np.testing.assert_array_equal(info["final_obs"][1], before[1])
        assert (obs[:, 1] == 0).all() if in_episode == 5 else (obs == info["final_obs"]).all()


def test_tasks_take_effect_at_the_next_reset(tmp_path: Path) -> None:
    distribution = GymnasiumConfig(module=write(tmp_path, WALK)).build()
    env = distribution.make_env(1)
    env.set_tasks([distribution.train[0]])
    env.reset(seed=0)
    env.set_tasks([distribution.test[0]])
    assert env.step(np.zeros((1, 1)))[1][0] < 100
    env.reset(seed=0)
    assert env.step(np.zeros((1, 1)))[1][0] > 400


def play(distribution: GymnasiumTasks, num_slots: int) -> list[np.ndarray]:
    """Everything that two trials of random actions show; the second goes on with the streams."""
    env = distribution.make_env(num_slots)
    env.set_tasks(list(distribution.train)[:num_slots])
    rng = np.random.default_rng(0)
    seen = []
    for seed in (4, None):
        seen.append(env.reset(seed=seed)[0])
        for _ in range(7):
            obs, reward, _, _, info = env.step(rng.uniform(-1, 1, (8, 1))[:num_slots])
            seen += [obs, reward, info["success"], info["final_obs"]]
    env.close()
    return seen


def test_the_same_seed_gives_the_same_bits_for_any_number_of_workers(tmp_path: Path) -> None:
    module = write(tmp_path, WALK)
    here = play(GymnasiumConfig(module=module).build(), 7)
    for workers in (None, 3):
        there = play(GymnasiumConfig(module=module, num_workers=workers).build(), 7)
        for expected, got in zip(here, there, strict=True):
            np.testing.assert_array_equal(got, expected)
    # A slot has its own stream, whatever the others.
    for expected, got in zip(here, play(GymnasiumConfig(module=module).build(), 2), strict=True):
        np.testing.assert_array_equal(got, expected[:2])
    noise = here[0][:, 0]
    assert len(set(noise.tolist()) | set(here[29][:, 0].tolist())) == 14


class PendulumOfGravity(gymnasium.Wrapper):
    """Gymnasium's Pendulum; the task is g."""

    def set_task(self, task: float) -> None:
        self.unwrapped.g = task


def test_a_classic_plays_as_it_does_alone() -> None:
    def make_env() -> gymnasium.Env:
        return PendulumOfGravity(gymnasium.make("Pendulum-v1"))

    tasks = GymnasiumTasks(make_env, train_tasks=[1.0, 10.0], test_tasks=[5.0], horizon=6)
    env = tasks.make_env(2)
    env.set_tasks(list(tasks.train))
    actions = np.random.default_rng(0).uniform(-2, 2, (15, 2, 1)).astype(np.float32)
    for slot, g in enumerate((1.0, 10.0)):
        alone = gymnasium.make("Pendulum-v1", g=g)
        seed = int(slot_generators(11, 2)[slot].integers(2**31))
        expected, _ = alone.reset(seed=seed)
        got, _ = env.reset(seed=11)
        np.testing.assert_array_equal(got[slot], expected)
        for step, action in enumerate(actions, start=1):
            expected, expected_reward, *_ = alone.step(action[slot])
            got, reward, _, _, info = env.step(action)
            np.testing.assert_array_equal(info["final_obs"][slot], expected)
            assert reward[slot] == expected_reward
            if step % 6 == 0:
                expected, _ = alone.reset()
            np.testing.assert_array_equal(got[slot], expected)


# -- spaces and tasks ------------------------------------------------------------------------------


class Spaced(gymnasium.Env):
    """Any spaces; observes samples."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        # Copies, because a space holds the random stream of its samples.
        self.observation_space = deepcopy(observation_space)
        self.action_space = deepcopy(action_space)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(5)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict(
            {"camera": spaces.Box(0, 255, (2, 2, 3), np.uint8), "gear": spaces.Discrete(4)}
        ),
        spaces.Discrete(5),
        spaces.Box(-1, 1, (2, 3), np.float32),
        spaces.Box(0, 255, (4,), np.uint8),
    ],
    ids=["dict", "discrete", "matrix", "bytes"],
)
def test_observations_are_flattened_as_gymnasium_does_it(space: spaces.Space) -> None:
    actions = spaces.Discrete(3, start=-1)
    tasks = GymnasiumTasks(
        lambda task: Spaced(space, actions), train_tasks=[1], test_tasks=[2], horizon=9
    )
    env = tasks.make_env(1)
    flat = FlattenObservation(Spaced(space, actions))
    assert env.single_observation_space.dtype == np.float32
    assert env.single_action_space == spaces.Discrete(3)
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(obs[0], flat.reset(seed=0)[0])
    assert env.observation_space.contains(obs)
    for action in range(3):
        obs, *_ = env.step(np.array([action]))
        np.testing.assert_array_equal(obs[0], flat.step(action - 1)[0])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.MultiDiscrete([2, 2]), "neither Discrete nor a bounded Box"),
        (spaces.Box(-np.inf, 1, (2,)), "neither Discrete nor a bounded Box"),
        (spaces.Box(-1, 1, (2, 2)), "with one axis"),
        (spaces.Box(0, 9, (2,), np.int64), "of floats"),
    ],
)
def test_actions_that_agents_cannot_take_are_refused(space: spaces.Space, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FlatSpaces.of(Spaced(spaces.Discrete(2), space))
    with pytest.raises(UserError, match="cannot be flattened"):
        FlatSpaces.of(Spaced(spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(2)))


def test_the_numbers_of_a_task() -> None:
    tasks = GymnasiumTasks(
        dict, horizon=1, test_tasks=np.arange(6.0).reshape(2, 3),
        train_tasks=[3, (1, 2.5), np.ones((2, 2)), {"b": [1, 2], "a": 7}],
    )  # fmt: skip
    assert [task.parameters.tolist() for task in tasks.train] == [
        [3], [1, 2.5], [1, 1, 1, 1], [7, 1, 2]
    ]  # fmt: skip
    assert [task.parameters.tolist() for task in tasks.test] == [[0, 1, 2], [3, 4, 5]]
    for wrong, message in (
        ({"train_tasks": []}, "train_tasks is empty"),
        ({"test_tasks": [1, "reach"]}, r"test_tasks\[1\] is 'reach'; a task is"),
        ({"test_tasks": [float("nan")]}, "a finite number"),
        ({"test_tasks": "123"}, "must be a list of tasks"),
        ({"test_tasks": [2, 1.0]}, r"1 is in train_tasks and in test_tasks"),
        ({"horizon": 0}, "1 or more, but is 0"),
    ):
        with pytest.raises(UserError, match=message):
            GymnasiumTasks(dict, **{"train_tasks": [1], "test_tasks": [2], "horizon": 1, **wrong})


# -- failures --------------------------------------------------------------------------------------


def faulty(folder: Path, **options) -> tuple[GymnasiumTasks, GymnasiumEnv]:
    """Four slots in two workers."""
    options = {"num_workers": 2, "step_timeout": 1.0, **options}
    distribution = GymnasiumConfig(module=write(folder, FAULTY), **options).build()
    return distribution, distribution.make_env(4)


def play_until_failure(env: GymnasiumEnv, steps: int = 8) -> None:
    for _ in range(steps):
        env.step(np.zeros(4, int))


@pytest.mark.parametrize(
    ("task", "what"),
    [
        (1, r"ZeroDivisionError: integer division or modulo by zero \(module.py, line 16\)"),
        (2, "its worker process ended with exit code 3"),
        (3, "no answer for 1 s, worker killed"),
        (4, "its worker process was killed by SIGSEGV"),
    ],
)
def test_a_worker_that_fails_is_named_and_started_again(
    task: int, what: str, tmp_path: Path
) -> None:
    """It happens in slot 3, the second of the second worker; the first worker lives on."""
    distribution, env = faulty(tmp_path, on_failure="restart")
    good = distribution.train[0]
    env.set_tasks([good, good, good, distribution.train[task]])
    env.reset(seed=0)
    before = worker_pids(env)
    with pytest.raises(
        TrialLostError, match=rf"slot 3 in step 6 of its trial, task module \[{task}\]: {what}$"
    ):
        play_until_failure(env)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, int))
    env.set_tasks([good] * 4)
    env.reset(seed=0)
    play_until_failure(env)
    after = worker_pids(env)
    assert after[0] == before[0] and after[1] != before[1]
    env.close()
    assert gone(before + after, 0)


def test_a_worker_that_is_killed_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    _, env = faulty(tmp_path)
    env.reset(seed=0)
    pids = worker_pids(env)
    env.step(np.zeros(4, int))
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(EnvironmentFailedError, match="was killed by SIGKILL") as raised:
        env.step(np.zeros(4, int))
    assert not isinstance(raised.value, TrialLostError)
    env.close()
    assert gone(pids, 0)


def test_too_many_lost_trials_in_a_row_are_the_end(tmp_path: Path) -> None:
    """In this process too; a trial that was played in between starts the count anew."""
    distribution, env = faulty(tmp_path, on_failure="restart", num_workers=0)

    def lose(expected: type[Exception]) -> None:
        env.set_tasks([distribution.train[1]] * 4)
        env.reset(seed=0)
        with pytest.raises(expected, match="slot 0 in step 6") as raised:
            play_until_failure(env)
        assert type(raised.value) is expected

    for _ in range(LOST_TRIALS - 1):
        lose(TrialLostError)
    env.set_tasks([distribution.train[0]] * 4)
    env.reset(seed=0)
    env.reset(seed=0)
    for _ in range(LOST_TRIALS - 1):
        lose(TrialLostError)
    lose(EnvironmentFailedError)


def test_an_interrupted_step_leaves_no_stale_answers(tmp_path: Path) -> None:
    distribution = GymnasiumConfig(module=write(tmp_path, WALK), num_workers=1).build()
    env = distribution.make_env(2)
    first, _ = env.reset(seed=0)
    env._workers[0].ask("step", np.ones((2, 1)))
    env._waiting = True  # As where Ctrl-C came before the answer.
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again, first)
    env.close()


def test_what_cannot_be_sent_to_a_worker_is_said() -> None:
    tasks = GymnasiumTasks(
        lambda task: Spaced(spaces.Discrete(2), spaces.Discrete(2)),
        train_tasks=[1], test_tasks=[2], horizon=1, num_workers=1,
    )  # fmt: skip
    with pytest.raises(UserError, match="at the top level of a module, or set num_workers to 0"):
        tasks.make_env(1).reset()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """Even one that hangs in an environment."""
    script = f"""
        import numpy as np
        from envs.gymnasium_tasks import GymnasiumConfig
        tasks = GymnasiumConfig(module={write(tmp_path, FAULTY)!r}, num_workers=2).build()
        env = tasks.make_env(2)
        env.set_tasks([tasks.train[0], tasks.train[3]])
        env.reset()
        for _ in range(5):
            env.step(np.zeros(2, int))
        print(*[worker.pid for worker in env._workers], flush=True)
        env.step(np.zeros(2, int))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    time.sleep(0.5)  # Until the second of them hangs.
    process.kill()
    process.wait()
    process.stdout.close()
    assert gone(pids)


# -- training and evaluation -----------------------------------------------------------------------


TINY = """
env: {{kind: gymnasium, module: module.py, num_workers: 1, on_failure: {on_failure}}}
agent: {{kind: rl2, hidden_size: 4, encoder_sizes: [], epochs: 1, num_minibatches: 1}}
train: {{env_steps: 160, tasks_per_trial: 2, episodes_per_trial: 2, checkpoint_every: 1}}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes an experiment of ten iterations that samples from given faults; gives its file."""
    monkeypatch.chdir(tmp_path)

    def make(tasks: list[int], on_failure: str) -> str:
        write(tmp_path, FAULTY.replace("[0, 1, 2, 3, 4, 5]", str(tasks)))
        (tmp_path / "tiny.yaml").write_text(TINY.format(on_failure=on_failure))
        return "tiny.yaml"

    return make


def test_a_failure_stops_the_run_and_keeps_its_last_good_state(tiny, capsys) -> None:
    message = fails(capsys, train, [tiny([1], "stop")])
    assert "iteration 1: slot 0 in step 6 of its trial, task module [1]: ZeroDiv" in message
    assert "go on with --resume runs/tiny/seed1. The last good state is in runs/tiny" in message
    assert [path.name for path in checkpoints(Path("runs/tiny/seed1/checkpoints"))] == ["0"]
    tiny([0], "stop")  # The user mends the module and goes on.
    train.main(["--resume", "runs/tiny/seed1"])
    assert len(metrics(Path("runs/tiny/seed1"))) == 10
    message = fails(capsys, evaluate, ["runs/tiny/seed1"])
    assert "slot 0 in step 6 of its trial, task module [6]: ZeroDivisionError" in message


def test_a_lost_trial_costs_an_iteration(tiny, capsys) -> None:
    train.main([tiny([5], "restart")])
    assert "iteration 1 skipped: slot 0 in step 6" in capsys.readouterr().out
    assert ["skipped" in line for line in metrics(Path("runs/tiny/seed1"))] == [True] + [False] * 9


def test_lost_trials_only_end_the_run(tiny, capsys) -> None:
    message = fails(capsys, train, [tiny([1], "restart")])
    assert (
        f"iteration {LOST_TRIALS}: {LOST_TRIALS} trials were lost in a row, the last: slot 0"
        in (message)
    )


def test_ctrl_c_saves_the_run_and_ends_the_workers(tiny, tmp_path: Path) -> None:
    """The whole process group gets the signal, as from a terminal; workers do not complain."""
    config = tiny([0], "stop")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), config, "--train.env-steps", "100000000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        start_new_session=True,
    )  # fmt: skip
    log = tmp_path / "runs/tiny/seed1/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert "python train.py --resume runs/tiny/seed1" in out
    assert len(children) >= 1 and gone([int(pid) for pid in children])


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("{kind: gymnasiun, module: module.py}", "Did you mean gymnasium"),
        ("{kind: gymnasium}", "'env.module' is missing"),
        ("{kind: gymnasium, module: modul.py}", "modul.py. Did you mean"),
        ("{kind: gymnasium, module: nowhere.tasks}", "cannot import nowhere.tasks: ModuleNotFound"),
        ("{kind: gymnasium, module: module.py, horizon: 0}", "'env.horizon' should be greater"),
        (
            "{kind: gymnasium, module: module.py, on_failure: ignore}",
            "should be 'stop' or 'restart'",
        ),
        ("{kind: gymnasium, module: broken.py}", "SyntaxError"),
        ("{kind: gymnasium, module: raises.py}", "ValueError: no robot (raises.py, line 1)"),
        ("{kind: gymnasium, module: misspelt.py}", "there is no test_tasks;"),
        ("{kind: gymnasium, module: misspelt.py}", "Did you mean test_task?"),
        ("{kind: gymnasium, module: no_env.py}", "no_env: make_env must return a gymnasium.Env"),
    ],
)
def test_mistakes_of_users(tiny, tmp_path: Path, capsys, env: str, message: str) -> None:
    config = tiny([0], "stop")
    write(tmp_path, "horizon = = 3", "broken.py")
    write(tmp_path, "raise ValueError('no robot')", "raises.py")
    write(tmp_path, FAULTY.replace("test_tasks", "test_task"), "misspelt.py")
    write(tmp_path, FAULTY + "make_env = lambda: 3", "no_env.py")
    assert message in fails(capsys, train, [config, "--env", env])
    assert not Path("runs").exists()


# -- the checker -----------------------------------------------------------------------------------

# What is replaced in WALK, by what, and what the checker finds.
OBS = "np.array([self.place, self.steps])"
STEP_RESULT = 'return self._obs(), self.place, False, far, {"success": far}'
START = "self.steps, self.place = 0"
MOVE = "self.place += float(action[0])"
MISTAKES = {
    "missing": ("test_tasks =", "test_task =", "there is no test_tasks;"),
    "not tasks": ('[{"drift": 500.0}]', '["far"]', "test_tasks[0] is 'far'; a task is"),
    "horizon": ("horizon = 5", "horizon = 5.0", "horizon must be a whole number"),
    "no set_task": ("def set_task", "def give_task", "its environment has no set_task(task)"),
    "no env": (
        "make_env = Walk", "make_env = lambda: 3",
        "make_env must return a gymnasium.Env, but returned int",
    ),
    "actions": (
        "spaces.Box(-1, 1, (1,), np.float32)", "spaces.MultiBinary(2)", "neither Discrete nor"
    ),
    "old reset": (
        "return self._obs(), {}", "return self._obs()",
        "reset must return (obs, info), but returned a ndarray",
    ),
    "old step": (
        STEP_RESULT, "return self._obs(), self.place, far, {}",
        "truncated, info), but returned 4 things",
    ),
    "shape": (
        OBS, "np.array([[self.place, self.steps]])",
        "reset: the observation has shape (1, 2), the observation space (2,)",
    ),
    "nan": (OBS, "np.array([np.nan, self.steps])", "the observation is not finite"),
    "dtype": (
        "(2,), np.float64", "(2,), np.float32", "is float64, the observation space float32"
    ),
    "outside": (
        "spaces.Box(-np.inf, np.inf, (2,)", "spaces.Box(-9, 2, (2,)",
        "the observation is outside the observation space",
    ),
    "reward": (
        "self.place, False, far", "np.inf, False, far",
        "step 1: the reward is inf, which is no finite number",
    ),
    "raises": (
        MOVE, "self.place += self.velocity",
        "step 1: AttributeError: 'Walk' object has no attribute 'velocity' (module.py, line 27)",
    ),
    "early": ("10 * i}", "10 * i + 1000}", "note: random play ended an episode after 3 of 5 steps"),
    "twice": ("10 * i}", "10 * (i // 2)}", "train_tasks has 8 tasks, but only 4 differ"),
    "shared": ("500.0", "70", "1 of train_tasks are in test_tasks too, e.g. {'drift': 70}"),
    "no difference": ('task["drift"]', "3", "the task makes no difference: 5 tasks give"),
    "forgotten": (
        START, f"self.drift = 0; {START}",
        "the task does not survive a reset: set_task(task), then reset() forgets it",
    ),
    "forgotten later": (
        MOVE, f"self.drift *= self.steps < 5; {MOVE}",
        "the task does not survive a reset, or something else does: a second episode is another",
    ),
    "not seeded": (
        "self.np_random.normal()\n        return", "np.random.normal()\n        return",
        "not reproducible: the same task, seed and actions lead elsewhere; draw all",
    ),
    "left over": (
        'self.drift = task["drift"]', 'self.drift = getattr(self, "drift", 1) + task["drift"]',
        "lead elsewhere once other tasks were played; let reset start everything anew",
    ),
    "no success": ('{"success": far}', "{}", 'note: no info has "success" or "is_success"'),
    "info": ('{"success": far}', "None", "info must be a dictionary, but is None"),
    "gymnasium": ("seed=None, options=None", "seed=None", "gymnasium's check_env: "),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_the_checker_finds(name: str, tmp_path: Path, capsys) -> None:
    old, new, finding = MISTAKES[name]
    assert WALK.count(old) == 1
    module = write(tmp_path, WALK.replace(old, new))
    found = check(module)
    first, *notes = found
    assert finding in first and "\n" not in first
    assert all(note.startswith("note: ") for note in notes)
    expected = 0 if first.startswith("note: ") else 2
    code = 0
    try:
        checker.main([module])
    except SystemExit as stopped:
        code = stopped.code
    assert code == expected
    assert capsys.readouterr().out.splitlines()[0] == first


def test_the_checker_is_content_with_what_is_right(tmp_path: Path) -> None:
    """Also with a distribution, and with a make_env that takes the task."""
    module = write(tmp_path, WALK)
    assert check(module) == check(GymnasiumConfig(module=module).build()) == []
    of_task = """
def make_env(task):
    env = Walk()
    env.drift = task["drift"]
    return env
"""
    assert check(write(tmp_path, WALK + of_task, "of_task.py")) == []
    assert "missing.py" in check(tmp_path / "missing.py")[0]


def test_the_checker_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "envs.gymnasium_tasks"]
    done = subprocess.run(
        [*command, write(tmp_path, WALK)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.endswith("module.py can be trained on\n")
