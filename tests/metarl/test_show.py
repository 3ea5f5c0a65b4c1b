"""What is shown of a run, whole or damaged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from metarl.errors import UserError
from metarl.show import HEIGHT, drawn, told

CONFIG = "name: a\nseed: 3\nenv: {kind: bandit}\nagent: {kind: rl2}\ntrain: {env_steps: 1000}\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that stopped after 600 of 1,000 steps, and had logged 700."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    lines = [
        {"iteration": k, "env_steps": 100 * k, "timing/env_steps_per_s": 50.0,
         "return/first_episode": 1.0, "return/last_episode": float(k)}
        for k in range(1, 8)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for steps in (0, 600):
        (tmp_path / "checkpoints" / str(steps)).mkdir(parents=True)
        (tmp_path / "checkpoints" / str(steps) / "meta.json").write_text("{}")
    (tmp_path / ".lock").touch()
    return tmp_path


def test_where_a_run_stands(run: Path) -> None:
    shown = list(told(run))
    assert shown[:2] == ["a, seed 3: rl2 on bandit", "stopped at 600 of 1,000 env steps (60 %)"]
    assert "newest       iteration 7, 50 env steps per second" in shown
    assert "return       1.0 → 7.0, first → last episode of a trial" in shown
    assert "checkpoints  2: 0, 600" in shown and "not evaluated yet" in shown
    assert shown[-2:] == [f"  python train.py --resume {run}", f"  python evaluate.py {run}"]
    assert max(map(len, shown[:-2])) <= 80
    with FileLock(run / ".lock"):
        shown = list(told(run))
    assert shown[1] == "being trained now at 700 of 1,000 env steps (70 %)"
    assert f"  python train.py --resume {run}" not in shown
    (run / "checkpoints" / "600").rename(run / "checkpoints" / "1000")
    shown = list(told(run))
    assert shown[1].startswith("finished at 1,000") and shown[-1] == f"  python evaluate.py {run}"


def test_what_is_damaged_is_a_line(run: Path) -> None:
    (run / "checkpoints" / "600" / "meta.json").write_text("{")
    (run / "metrics.jsonl").write_bytes(b"\xff\n")
    (run / "eval").mkdir()
    (run / "eval" / "one.json").write_text('{"overall": {"mean": 1}}')
    (run / "eval" / "two.json").write_text('{"success": 1}')
    shown = list(told(run))
    assert "nothing logged yet" in shown and "  no summary in it" in shown
    assert sum("cannot read" in line for line in shown) == 3
    log = [
        [],
        "x",
        {"env_steps": "many"},
        {"env_steps": 5, "return/last_episode": [1]},
        {"env_steps": 6, "return/last_episode": 10**400, "train/return": float("nan")},
    ]
    (run / "metrics.jsonl").write_text("{\n" + "".join(json.dumps(each) + "\n" for each in log))
    assert "newest       iteration 0" in list(told(run))
    for config in ("name: 1", CONFIG.replace("env_steps", "steps"), "- a"):
        (run / "config.yaml").write_text(config)
        with pytest.raises(UserError, match=r"config\.yaml"):
            list(told(run))
    with pytest.raises(UserError, match=f"is no run: .*it holds {run}"):
        list(told(run.parent))


def test_a_curve_has_its_highest_value_on_top() -> None:
    rising = list(drawn([(k, float(k)) for k in range(1, 101)], form=".0f"))
    assert len(rising) == HEIGHT + 2
    assert rising[0].startswith("       100 |") and rising[0].endswith("*")
    assert rising[HEIGHT - 1].startswith("         2 |*")  # the mean of the first column's values
    assert rising[-1].split() == ["1", "100"]
    flat = list(drawn([(5, 2.0)], form=".0f"))
    assert sum(line.count("*") for line in flat) == 1


def test_it_needs_no_torch() -> None:
    check = "import sys, metarl.show; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
