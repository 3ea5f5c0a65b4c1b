"""Ranks that torchrun starts: they learn what a single process learns, and end or go on together.

Each test starts processes, which takes seconds; what needs none is in
tests/metarl/system/test_ranks.py.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import evaluate
from metarl.training.checkpoint import TENSORS, checkpoints
from tests.ranks_worker import FEW_SHOT, ITERATIONS, SMALL, experiment_of
from train import main, start

ROOT = Path(__file__).parents[1]
# Point robots are simulated in float32, which turns a difference of 1e-14 into one of 1e-7 once it
# changes the rounding of a position. Conjugate gradients, and the belief under PPO, amplify that:
# one process whose weights are changed by 1e-11 ends as far away. They are compared before.
AMPLIFIES = ("maml_trpo", "varibad")


def torchrun(*arguments: object, ranks: int, restarts: int = 0, **env: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
         "--max-restarts", str(restarts), *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | env, text=True,
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip


def worker(folder: Path, *names: str, ranks: int, **options: Any) -> Any:
    return torchrun("-m", "tests.ranks_worker", folder, *names, ranks=ranks, **options)


def newest(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run / "checkpoints")[-1] / TENSORS)


def sha256(run: Path) -> str:
    tensors = newest(run)
    return hashlib.sha256(
        b"".join(t.numpy().tobytes() for _, t in sorted(tensors.items()))
    ).hexdigest()


def metrics(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("timing")} for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """All small runs, trained by one process and by three ranks, which get unequal shares."""
    folders = {}
    for ranks in (1, 3):
        folders[ranks] = tmp_path_factory.mktemp(f"ranks{ranks}")
        done = worker(folders[ranks], ranks=ranks)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("name", SMALL)
def test_ranks_learn_what_one_process_learns(trained: dict[int, Path], name: str) -> None:
    alone, together = (metrics(run / name) for run in trained.values())
    assert len(alone) == len(together) == ITERATIONS
    compared = 1 if name in AMPLIFIES else ITERATIONS
    close = 1e-4 if name in FEW_SHOT else 1e-7
    for one, other in zip(alone[:compared], together, strict=False):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert math.isclose(value, other[key], rel_tol=close, abs_tol=close), key
    one, other = (newest(run / name) for run in trained.values())
    assert one.keys() == other.keys()
    close = 0.05 if name in AMPLIFIES else 1e-3 if name in FEW_SHOT else 1e-7
    for key in one:
        if not key.startswith("optimizer."):
            scale = one[key].double().abs().max().clamp(min=1e-3)
            assert (one[key] - other[key]).abs().max() <= close * scale, key


@pytest.mark.long
def test_ranks_that_were_killed_start_again_and_end_with_the_same_bits(
    trained: dict[int, Path], tmp_path: Path
) -> None:
    done = worker(tmp_path, "rl2", ranks=3, restarts=1, FAULT="2:3:kill")
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / "rl2") == sha256(trained[3] / "rl2")
    assert len(metrics(tmp_path / "rl2")) == ITERATIONS


def test_a_rank_that_raises_is_named_and_one_process_goes_on(
    trained: dict[int, Path], tmp_path: Path, double_precision: None
) -> None:
    done = worker(tmp_path, "rl2", ranks=2, FAULT="1:3:raise")
    assert done.returncode != 0
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("ranks_worker:"))
    assert "rank 1 of 2 on " in told and "slot 0 is on fire" in told
    assert len(metrics(tmp_path / "rl2")) == 3
    start(experiment_of("rl2"), tmp_path / "rl2", new=False)
    one, other = newest(trained[1] / "rl2"), newest(tmp_path / "rl2")
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-7, atol=1e-9)


@pytest.mark.long
def test_ranks_killed_at_any_time_go_on_to_the_same_bits(tmp_path: Path) -> None:
    assert worker(tmp_path, ranks=2).returncode == 0
    rng = np.random.default_rng(int(os.environ.get("SEED", "0")))
    names = [list(SMALL)[n % len(SMALL)] for n in range(int(os.environ.get("KILLS", "10")))]
    killed = 0
    for number, name in enumerate(names):
        fault = f"{rng.integers(2)}:{rng.integers(3_000)}:later"
        folder = tmp_path / str(number)
        done = worker(folder, name, ranks=2, restarts=1, FAULT=fault)
        print(number, name, fault)
        if done.returncode:
            print(done.stderr)
        assert done.returncode == 0, (name, fault)
        assert sha256(folder / name) == sha256(tmp_path / name), (name, fault)
        killed += "Signal 9" in done.stderr or "exitcode: -9" in done.stderr
    assert killed


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "cause"), [("hang", "did not go on for 8 s"), ("stop", "was not heard of for 4 s")]
)
def test_a_rank_that_hangs_or_is_frozen_is_named(tmp_path: Path, how: str, cause: str) -> None:
    done = worker(tmp_path, "rl2", ranks=2, FAULT=f"1:2:{how}", METARL_SECONDS_TO_GO_ON="8")
    assert done.returncode != 0
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("ranks_worker:"))
    assert "rank 1 of 2 on " in told and cause in told


def test_two_ranks_evaluate_to_the_bit_what_one_process_does(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main([str(tiny), "--run-dir", str(run)])
    options = [str(run), "--tasks-at-once", "3", "--output"]
    evaluate.main([*options, str(tmp_path / "alone")])
    done = torchrun(ROOT / "evaluate.py", *options, tmp_path / "together", ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("area under the curve") == 1
    alone, together = (
        json.loads(next((tmp_path / of).glob("*/eval/*.json")).read_text())
        for of in ("alone", "together")
    )
    for name in alone.keys() - {"environment", "sha256"}:
        assert alone[name] == together[name], name


@pytest.mark.long
def test_ranks_that_start_again_leave_the_run_of_others_alone(tmp_path: Path, tiny: Path) -> None:
    run = tmp_path / "run"
    main([str(tiny), "--run-dir", str(run), "--train.env-steps", "100"])
    before = sha256(run)
    done = torchrun(ROOT / "train.py", tiny, "--run-dir", run, "--train.env-steps", 100,
                    ranks=2, restarts=1)  # fmt: skip
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("train.py:")]
    assert len(told) == 2 and all("exists already" in line for line in told)
    assert sha256(run) == before


def test_a_meta_batch_smaller_than_the_ranks_is_one_line(tmp_path: Path) -> None:
    done = torchrun("train.py", "configs/rl2_point.yaml", "--train.meta_batch_size", 1,
                    "--run-dir", tmp_path / "run", ranks=2)  # fmt: skip
    told = [line for line in done.stderr.splitlines() if line.startswith("train.py:")]
    assert len(told) == 1 and "train.meta_batch_size 1 is fewer than 2 ranks" in told[0]
    assert not (tmp_path / "run").exists()
