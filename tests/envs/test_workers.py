"""Workers that raise, hang and die in real processes, and the effect on a run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import evaluate
import train
from envs.gymnasium_tasks import GymnasiumConfig, GymnasiumEnv, GymnasiumTasks
from envs.gymnasium_tasks.tasks import LOST_TRIALS
from metarl.errors import EnvironmentFailedError, TrialLostError, UserError
from metarl.training.checkpoint import checkpoints
from tests.envs.user_modules import FAULTY, WALK, write
from tests.runs import fails, metrics

ROOT = Path(__file__).parents[2]


def worker_pids(env: GymnasiumEnv) -> list[int]:
    return [worker.pid for worker in env._workers if worker is not None]


def alive(pid: int) -> bool:
    """True if the process exists and is no zombie."""
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
    """The failure is in slot 3, the second of the second worker; the first worker survives."""
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
    """In this process too; a completed trial in between resets the count."""
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
    env._waiting = True  # As if Ctrl-C came before the answer.
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again, first)
    env.close()


def test_what_cannot_be_sent_to_a_worker_is_said() -> None:
    tasks = GymnasiumTasks(
        lambda task: gymnasium.make("CartPole-v1"),
        train_tasks=[1], test_tasks=[2], horizon=1, num_workers=1,
    )  # fmt: skip
    with pytest.raises(UserError, match="at the top level of a module, or set num_workers to 0"):
        tasks.make_env(1).reset()


WHERE = """
import os
from pathlib import Path

def note(what):
    with Path(__file__).with_name("where").open("a") as file:
        print(what, os.getpid(), file=file)

class Noted(Walk):
    def __init__(self):
        note("make")

    def close(self):
        note("close")

class Own(dict):
    pass

train_tasks = [Own(drift=3), Own(drift=4)]
note("import")
make_env = Noted
"""


def test_code_of_the_user_is_executed_in_workers_alone(tmp_path: Path) -> None:
    """Including the code of the tasks, whose types the parent does not know."""
    distribution = GymnasiumConfig(module=write(tmp_path, WALK + WHERE), num_workers=1).build()
    env = distribution.make_env(2)
    env.set_tasks(list(distribution.train))
    env.reset(seed=0)
    env.step(np.zeros((2, 1)))
    env.close()
    assert repr(distribution.train[0].value) == "{'drift': 3}"
    lines = [line.split() for line in (tmp_path / "where").read_text().splitlines()]
    done = [what for what, _ in lines]
    assert [done.count(what) for what in ("import", "make", "close")] == [3, 3, 3]
    assert str(os.getpid()) not in {pid for _, pid in lines}


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("signal.raise_signal(signal.SIGSEGV)", "its worker process was killed by SIGSEGV"),
        ("os._exit(3)", "its worker process ended with exit code 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("sys.exit('no licence')", "SystemExit: no licence (module.py, line "),
    ],
)
def test_a_module_that_takes_its_process_along(tiny, tmp_path: Path, capsys, fault, what) -> None:
    """On import, and when an environment is made."""
    config = tiny([0], "stop")
    start = "import os, signal, sys\n"
    write(tmp_path, FAULTY + start + fault)
    assert what in fails(capsys, train, [config])
    write(tmp_path, FAULTY + f"{start}def make_env():\n    {fault}")
    assert what in fails(capsys, train, [config])
    assert not Path("runs").exists()


def test_what_an_environment_started_ends_with_its_worker(tmp_path: Path) -> None:
    """After a close, and after a crash of the worker."""
    start = (
        "os.environ.setdefault('CHILD', str(__import__('subprocess').Popen(['sleep', '99']).pid))"
    )
    text = FAULTY.replace("self.fault, self", f"{start}\n        self.fault, self")
    text = text.replace("np.zeros(1), {}", "np.array([int(os.environ['CHILD'])]), {}")
    distribution = GymnasiumConfig(module=write(tmp_path, text), num_workers=1).build()
    for task in (0, 4):
        env = distribution.make_env(1)
        env.set_tasks([distribution.train[task]])
        obs, _ = env.reset()
        child = int(obs[0, 0])
        assert alive(child)
        if task == 4:
            with pytest.raises(EnvironmentFailedError, match="SIGSEGV"):
                for _ in range(6):
                    env.step(np.zeros(1, int))
        env.close()
        assert gone([child])


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """Even a worker that hangs in an environment."""
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
    time.sleep(0.5)  # until the second one hangs
    process.kill()
    process.wait()
    process.stdout.close()
    assert gone(pids)


# -- training and evaluation -----------------------------------------------------------------------


TINY = """
env: {{kind: gymnasium, module: module.py, num_workers: 1, on_failure: {on_failure}}}
agent: {{kind: rl2, hidden_size: 4, encoder_sizes: [], epochs: 1, num_minibatches: 1}}
train: {{env_steps: 160, meta_batch_size: 2, episodes_per_trial: 2, checkpoint_every: 1}}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Function that writes an experiment of ten iterations with given faults; returns its file."""
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
    module = Path("module.py")  # the user fixes it and resumes
    module.write_text(module.read_text().replace("[lambda: None, wrong,", "[lambda: None] * 2 + ["))
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


def heed_ctrl_c() -> None:
    """Enables SIGINT, which processes started by a shell in the background ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_ends_the_workers(tiny, tmp_path: Path, number: int) -> None:
    """The whole process group gets the signal, as from a terminal or a queue. Workers print no
    error, and no trial counts as lost if they die of it first."""
    config = tiny([0], "restart")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), config, "--train.env-steps", "100000000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        start_new_session=True, preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    log = tmp_path / "runs/tiny/seed1/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert "skipped" not in log.read_text()
    assert "python train.py --resume runs/tiny/seed1" in out
    assert len(children) >= 1 and gone([int(pid) for pid in children])


def test_ctrl_c_while_workers_start_leaves_them_deaf_and_silent(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(
        "import os, signal\n"
        "from envs.worker.process import Worker\n"
        "def make_env(task):\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    raise RuntimeError('heard nothing')\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, lambda *_: None)\n"
        "    worker = Worker(make_env, horizon=1, first_slot=0)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    worker.ask('reset', [0], [0], False)\n"
        "    print(worker.answer(60).what)\n"
    )
    done = subprocess.run(
        [sys.executable, "early.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, start_new_session=True,
    )  # fmt: skip
    assert ("heard nothing" in done.stdout, done.stderr) == (True, "")


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
