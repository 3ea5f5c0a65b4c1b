"""Campaigns of attacks: a small part of each, and their counts.

The whole campaign is `python -m benchmarks.campaign`. The attacks carried out here are fixed. Those
that need root (small and read-only disks) count as skipped for other users, who cannot mount;
limits and traps make the same errors.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.campaign.director import PROJECT, Attacked, carried_out, groups, main, table
from benchmarks.campaign.verdict import GOOD, Verdict

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="campaigns fork, adopt orphans and look into /proc"
)
SMALL = {
    "kills": (0, 6, 10),
    "storms": (0, 12, 20),
    "damage": (0, 2, 3, 4, 5, 6, 7, 8, 9),
    "hostile": (0, 1, 2, 3, 4, 9),
    "configs": (3, 13, 23),
    "workers": (3, 5),
    "disks": (0, 2, 3, 5),
}
"""Numbers of attacks that take about a second each."""
FAKE = """
import json, os, subprocess, sys, time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def main(run, resumed):
    fault = (Path(__file__).parent / "fault").read_text()
    if fault.startswith("{"):  # another one for each attack
        fault = json.loads(fault).get(Path.cwd().parts[-4], "")
    weights, begin = np.zeros(3), 0
    if resumed:
        if fault == "a traceback":
            raise ValueError("no")
        if fault == "a hang":
            time.sleep(1000)
        if fault == "another exit code":
            sys.exit(3)
        if fault in ("a refusal", "two more lines"):
            for _ in fault.split()[1:]:
                print("train.py: damaged", file=sys.stderr)
            sys.exit(2)
        if fault == "a process that is left":
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
        names = sorted((path.name for path in run.glob("checkpoints/[0-9]*")), key=int)
        if names:
            begin = int(names[-1])
            newest = run / "checkpoints" / names[-1] / "tensors.safetensors"
            weights = weights if fault == "other bits" else load_file(newest)["weights"]
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"iteration": k, "timing/s": time.time()}) for k in range(5)]
    (run / "metrics.jsonl").write_text(chr(10).join(lines))
    for step in range(begin, 6):
        partial, folder = run / "checkpoints/.partial", run / f"checkpoints/{step}"
        weights = weights if step == begin else weights * 3 + 0.1 * step
        partial.mkdir(exist_ok=True)
        save_file({"weights": weights}, partial / "tensors.safetensors")
        meta = {"format": 1, "iteration": step, "env_steps": step, "skipped": 0}
        (partial / "meta.json").write_text(json.dumps(meta))
        if not folder.exists():
            os.rename(partial, folder)


if __name__ == "__main__":
    main(Path(sys.argv[-1]), "--resume" in sys.argv)
"""
"""A program that trains, with one fault when it resumes a run."""


def attack(
    numbers: dict[str, Sequence[int]], *, project: Path, folder: Path, patience: float
) -> list[Attacked]:
    orders = [
        {"campaign": campaign, "number": number, "seed": 1, "keep": False}
        for campaign, all_numbers in numbers.items()
        for number in all_numbers
    ]
    done = carried_out(orders, jobs=1, project=project, folder=folder, patience=patience)
    return list(done)


def test_a_small_part_of_every_campaign_succeeds_nowhere(tmp_path: Path) -> None:
    attacks = attack(SMALL, project=PROJECT, folder=tmp_path, patience=60)
    assert len(attacks) == sum(map(len, SMALL.values()))
    assert not [attacked.report(1) for attacked in attacks if not attacked.verdict.good]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with `FAKE` as its train.py."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(FAKE)
    (folder / "evaluate.py").touch()
    return folder


FAULTS = {
    "a traceback": ("traceback", "ValueError: no"),
    "a hang": ("hang", "line 18 in main"),
    "other bits": ("accepted", "tensor weights differs"),
    "a refusal": ("refused", "train.py: damaged"),
    "two more lines": ("other", "2 lines for one error"),
    "another exit code": ("other", "exit code 3"),
    "a process that is left": ("other", "left running: sleep 1000"),
}


def test_what_a_damaged_run_meets_is_counted(project: Path, tmp_path: Path) -> None:
    numbers = dict(zip((0, 1, 10, 11, 20, 21, 30), FAULTS, strict=True))  # all of them damage bytes
    (project / "fault").write_text(json.dumps({f"damage-{n}": f for n, f in numbers.items()}))
    attacks = attack({"damage": list(numbers)}, project=project, folder=tmp_path, patience=1.5)
    assert len(attacks) == len(FAULTS)
    for attacked in attacks:
        kind, said = FAULTS[numbers[attacked.number]]
        assert attacked.verdict.kind == kind, attacked.verdict
        assert said in attacked.verdict.said


def test_kills_survive_or_lose_bits(project: Path, tmp_path: Path) -> None:
    """Kills at the same file operations distinguish a program that loses bits from a right one."""
    kinds = {}
    for fault in ("none", "other bits"):
        (project / "fault").write_text(fault)
        numbers = {"kills": [0, 1, 6]}
        attacks = attack(numbers, project=project, folder=tmp_path / fault, patience=5)
        kinds[fault] = {attacked.number: attacked for attacked in attacks}
        assert all("killed before file operation" in a.verdict.attack for a in attacks)
    assert {a.verdict.kind for a in kinds["none"].values()} == {"survived"}
    assert "differs" in {a.verdict.kind for a in kinds["other bits"].values()}
    for number, attacked in kinds["none"].items():  # all randomness follows from the seed
        assert attacked.verdict.attack == kinds["other bits"][number].verdict.attack


def test_the_command_says_what_repeats_a_failure_and_stores_the_table(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "fault").write_text("a traceback")
    options = ["--project", str(project), "--output", str(tmp_path / "out"), "--seed", "3"]
    assert main(["damage", "--share", "0.002", "--jobs", "1", *options]) == 1
    printed = capsys.readouterr().out
    assert "again: python -m benchmarks.campaign damage --seed 3 --only 0\n" in printed
    stored = json.loads((tmp_path / "out" / "campaign.json").read_text())
    assert stored["seed"] == 3
    assert stored["campaigns"]["damage"]["traceback"] == len(stored["failed"]) > 0
    assert str(tmp_path) not in (tmp_path / "out" / "campaign.json").read_text()
    assert "| damage | 3 |" in (tmp_path / "out" / "campaign.md").read_text()
    assert main(["damage", "--only", "0", "--jobs", "1", *options]) == 1
    assert "What it left is in" in capsys.readouterr().out


def test_the_table_counts_every_verdict_once() -> None:
    kinds = ("survived", "refused", "refused", "traceback", "hang", "differs", "accepted", "other")
    attacks = [
        Attacked("a" if number % 2 else "b", number, 1.0, Verdict(kind, "x", f"line {number}"))
        for number, kind in enumerate(kinds)
    ]
    rows = [line.split("|")[1:-1] for line in table(attacks).splitlines()]
    assert [cell.strip() for cell in rows[-1]] == ["all", "8", "1", "2", "1", "1", "1", "1", "1"]
    assert all(int(row[1]) == sum(map(int, row[2:])) for row in rows[2:])
    assert sum(len(alike) for _, alike in groups(attacks)) == 5
    assert [a.verdict.kind in GOOD for a in attacks].count(True) == 3
