"""The command line of sweeps, from a config to its page."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest

import train
from metarl.errors import UserError
from metarl.sweep import __main__ as sweep
from metarl.sweep import jobs, search
from metarl.sweep.jobs import Children, claimed, lanes_of
from metarl.sweep.plan import LOCKS, open_plan
from metarl.sweep.search import Search
from metarl.system.hardware import processors
from tests.runs import fails, final_bytes, metrics

ROOT = Path(train.__file__).parent
GRID = ["tiny.yaml", "--seeds", "1-2", "--set", "agent.learning_rate=3e-4,1e-2", "--folder", "s"]
SEARCH = ["tiny.yaml", "--search", "agent.learning_rate=log:1e-4:1e-1",
          "--search", "agent.hidden_size=choice:4,8", "--trials", "3",
          "--set", "train.env_steps=200"]  # fmt: skip


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> list[list[str]]:
    """Runs are trained in this process, which is faster; the arguments of each come here."""
    commands: list[list[str]] = []

    def run(
        children: Children, script: str, arguments: Sequence[str], *, log: Path, on: jobs.Processors
    ) -> Generator[None, None, int]:
        assert script == "train.py"
        commands.append(list(arguments))
        yield
        try:
            train.main(list(arguments))
        except UserError as error:
            log.write_text(f"train.py: {error}\n")
            return 2
        return 0

    monkeypatch.setattr(Children, "run", run)
    monkeypatch.setattr(jobs, "PAUSE", 0.0)
    return commands


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are not written: drawing them takes seconds."""
    monkeypatch.setattr(sweep, "write_pages", lambda plan, *_: plan.folder)


def stopped_after(count: int, started: list[list[str]]) -> Callable[[], None]:
    """A check of signals that says that one came when so many runs were started."""

    def check() -> None:
        if len(started) == count:
            raise KeyboardInterrupt

    return check


def test_a_grid_is_trained_once(started: list[list[str]], capsys) -> None:
    assert sweep.main([*GRID, "--jobs", "2"]) == 0
    assert len(started) == 4
    first = capsys.readouterr().out
    train.main(["tiny.yaml", "--agent.learning-rate", "1e-2", "--seed", "2"])
    run = Path("s/learning_rate=1e-2/seed2")
    assert final_bytes(run) == final_bytes(Path("runs/tiny/seed2"))
    capsys.readouterr()
    runs = {path: path.stat().st_mtime_ns for path in Path("s").glob("*/seed*/**/*")}
    assert sweep.main(GRID) == 0
    assert len(started) == 4
    said = capsys.readouterr().out
    assert said.count("was finished before") == 4
    assert said.splitlines()[-4:] == first.splitlines()[-4:]  # the table and the page
    assert {path: path.stat().st_mtime_ns for path in Path("s").glob("*/seed*/**/*")} == runs

    # The table is sorted by the mean over seeds of the last line: a tenth of a run of 5 iterations.
    last = {rate: [metrics(Path(f"s/learning_rate={rate}/seed{k}"))[-1]["return/last_episode"]
                   for k in (1, 2)] for rate in ("3e-4", "1e-2")}  # fmt: skip
    best, other = sorted(last, key=lambda rate: -sum(last[rate]))
    table = Path("s/sweep.md").read_text().splitlines()
    assert table[2].startswith(f"| {best} | {sum(last[best]) / 2:.3f}")
    assert table[3].startswith(f"| {other} | {sum(last[other]) / 2:.3f}")
    page = Path("s/sweep.html").read_text()
    assert "Learning curves" in page and "learning_rate=1e-2/seed2" in page
    assert sweep.main([*GRID, "--objective", "train/return"]) == 0  # judged by something else
    assert len(started) == 4


@pytest.mark.long
def test_a_sweep_that_is_stopped_goes_on_to_the_same_weights(tiny: Path, capsys) -> None:
    """With real processes, of which one is stopped while it trains."""
    tiny.write_text(tiny.read_text().replace("env_steps: 500", "env_steps: 6000"))
    command = [sys.executable, "-m", "metarl.sweep", "tiny.yaml", "--folder", "s"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    run = Path("s/tiny/seed1")
    while not (run / "metrics.jsonl").exists() or len(metrics(run)) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.splitlines()[-1].endswith("go on with: python -m metarl.sweep --resume s")
    assert 3 <= len(metrics(run)) < 60
    assert sweep.main(["--resume", "s"]) == 0
    assert "tiny/seed1 goes on from" in capsys.readouterr().out
    train.main([str(tiny)])
    assert final_bytes(run) == final_bytes(Path("runs/tiny/seed1"))


def test_a_failed_run_is_told_and_the_others_go_on(
    no_page, started: list[list[str]], capsys
) -> None:
    arguments = ["tiny.yaml", "--set", "agent.learning_rate=1e-3,1e29", "--folder", "s"]
    assert sweep.main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "learning_rate=1e29/seed1 failed: train.py: iteration" in captured.err
    assert "(exit code 2, log s/learning_rate=1e29/seed1.log)" in captured.err
    assert "finished" in captured.out and "failed" in captured.out
    assert len(started) == 2


def test_what_another_process_trains_is_left_to_it(
    no_page, started: list[list[str]], capsys
) -> None:
    sweep.main(["tiny.yaml", "--seeds", "1", "--folder", "s"])
    plan = open_plan(Path("s"))
    assert len(started) == 1
    with claimed(plan.folder / LOCKS / "tiny-seed1") as ours:
        assert ours
        assert sweep.main(["--resume", "s"]) == 0
    with claimed(Path("s/tiny/seed1/.lock")):
        assert sweep.main(["--resume", "s"]) == 0
    assert capsys.readouterr().out.count("tiny/seed1 is trained by another process") == 2
    assert len(started) == 1


def test_jobs_share_the_processors() -> None:
    free = processors()
    assert lanes_of(1) == [tuple(free)]
    assert sorted(sum(lanes_of(len(free)), ())) == free
    assert lanes_of(2 * len(free)) == [(number,) for number in free * 2]


# -- searches --------------------------------------------------------------------------------------


def tried(folder: str) -> list[tuple]:
    plan = open_plan(Path(folder))
    known = Search(plan, minimize=False).known()
    return [(each.number, each.values, each.state, each.value) for each in known]


def test_a_search_is_reproducible_also_if_it_is_stopped(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert sweep.main([*SEARCH, "--folder", "whole", "--seeds", "1-2"]) == 0
    assert len(started) == 6
    whole = tried("whole")
    assert [number for number, *_ in whole] == [0, 1, 2]
    assert {state for *_, state, _ in whole} == {"finished"}
    assert len({values["agent.learning_rate"] for _, values, *_ in whole}) == 3
    # A trial's value is the mean over its seeds of the last line.
    runs = [Path(f"whole/trial0001/seed{seed}") for seed in (1, 2)]
    last = [metrics(run)[-1]["return/last_episode"] for run in runs]
    assert whole[1][-1] == pytest.approx(sum(last) / 2)
    page = Path("whole/sweep.html").read_text()
    assert "The objective by each value that was searched" in page

    started.clear()
    monkeypatch.setattr(sweep, "write_pages", lambda plan, *_: plan.folder)
    with monkeypatch.context() as patched:
        patched.setattr(jobs.stopping, "check", stopped_after(3, started))
        with pytest.raises(SystemExit) as stopped:
            sweep.main([*SEARCH, "--folder", "parts", "--seeds", "1-2"])
    assert stopped.value.code == 130
    assert "--resume parts" in capsys.readouterr().out
    assert [state for *_, state, _ in tried("parts")] == ["finished", "unfinished"]
    assert sweep.main(["--resume", "parts"]) == 0
    assert tried("parts") == whole
    # One more trial can be asked for.
    longer = [*SEARCH, "--trials", "4", "--folder", "parts", "--seeds", "1-2"]
    assert sweep.main(longer) == 0
    assert tried("parts")[:3] == whole and len(tried("parts")) == 4


def test_two_folders_share_a_storage(no_page, started: list[list[str]], capsys) -> None:
    for folder in ("one/s", "other/s"):
        storage = ["--storage", "journal:shared", "--folder", folder]
        assert sweep.main([*SEARCH, *storage]) == 0
    assert len(started) == 3
    assert tried("one/s") == tried("other/s")
    assert capsys.readouterr().out.splitlines()[-2].startswith("trial000")


def test_a_grid_of_searches(no_page, started: list[list[str]]) -> None:
    more = ["--trials", "2", "--set", "agent.clip=0.1,0.2", "--folder", "s"]
    assert sweep.main([*SEARCH, *more]) == 0
    assert {path.name for path in Path("s").glob("clip*")} == {
        f"clip={clip}_trial000{number}" for clip in (0.1, 0.2) for number in (0, 1)
    }


def test_a_trial_that_is_worse_than_most_is_pruned(tiny: Path) -> None:
    plan = sweep.given_plan(sweep.parser().parse_args([*SEARCH[:3], "--folder", "s"]))
    found = Search(plan, minimize=False)
    for number in range(search.FIRST_PRUNED + 1):
        with found.next() as asked:
            assert asked is not None
            worse = number == search.FIRST_PRUNED
            for part in range(1, 11):
                pruned = asked[0].is_worse(part, 0.0 if worse else 1.0)
                assert pruned == (worse and part >= search.WARM_UP)
                if pruned:
                    break
            found.tell(asked[0], value=None if worse else 1.0,
                       state="pruned" if worse else "finished")  # fmt: skip
    assert [each.state for each in found.known()][-1] == "pruned"


def test_without_optuna_grids_run_and_searches_say_what_is_missing(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'optuna>=4'" in fails(capsys, sweep, SEARCH)
    assert not Path("runs").exists()
    assert sweep.main(["tiny.yaml", "--folder", "s"]) == 0


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a config"),
        (["nowhere.yaml"], "no config file nowhere.yaml"),
        (["tiny.yaml", "--set", "agent.hiden_size=3"], "Did you mean hidden_size"),
        (["tiny.yaml", "--set", "agent.clip=0.1,-1"], "'agent.clip' should be greater than 0"),
        (["tiny.yaml", "--search", "agent.clip=log:2:1"], "is empty"),
        (["tiny.yaml", "--search", "agent.clip=log:1:2", "--set", "agent.clip=1"], "is set and"),
        (["tiny.yaml", "--objective", "test/success"], "held-out tasks choose nothing"),
        (["tiny.yaml", "--objective", "loss"], "unknown metric loss"),
        (["tiny.yaml", "--folds", "5"], "has no classes to divide"),
        (["tiny.yaml", "--folds", "1"], "'folds' should be greater than or equal to 2"),
        (["tiny.yaml", "--trials", "5"], "--trials is for searches"),
        (["tiny.yaml", "--jobs", "0"], "--jobs should be at least 1"),
        (["tiny.yaml", "--jobs", "x"], "invalid int value"),
        (["tiny.yaml", "--seed", "1"], "unrecognized arguments: --seed"),
        (["tiny.yaml", "--folder", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        ([*SEARCH, "--storage", "foo://x"], "cannot use the storage foo://x"),
        ([*SEARCH, "--storage", "journal:/nowhere/x"], "cannot use the storage journal:/nowhere"),
        (["--resume", "nowhere"], "nowhere is no sweep"),
        (["--resume", "a", "--seeds", "3"], "give only --jobs"),
        (["--show", "nowhere"], "nowhere is no sweep"),
        (["tiny.yaml", "--trust"], "--trust is for --resume"),
    ],
)
def test_mistakes(tiny: Path, capsys, arguments: list[str], message: str) -> None:
    assert message in fails(capsys, sweep, arguments)
    assert not Path("runs").exists()


def test_a_metric_that_no_run_logs_ends_the_sweep(started: list[list[str]], capsys) -> None:
    message = fails(capsys, sweep, [*GRID, "--objective", "update/klo"])
    assert "unknown metric update/klo. Did you mean update/kl" in message
    assert len(started) == 1
