"""The wheel, installed where no checkout is in sight: its command does what the scripts do."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("metarl", "envs", "agents", "configs")
SHORT = ("--train.env-steps", "2000", "--train.meta-batch-size", "10", "--agent.hidden-size", "8",
         "--train.episodes-per-trial", "20", "--env.num-test-tasks", "20")  # fmt: skip
ENV = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
"""Without the variable by which tests might see the checkout."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, which takes what building leaves behind."""
    source = tmp_path_factory.mktemp("source")
    for file in ("pyproject.toml", "README.md", "LICENSE", "train.py", "evaluate.py"):
        shutil.copy(ROOT / file, source)
    for folder in (*SHIPPED, "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, source / folder,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    pip("wheel", ".", "--no-build-isolation", "--wheel-dir", "built", cwd=source)
    (built,) = (source / "built").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel, which sees this one's dependencies."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    pip("--python", str(python), "install", "--no-index", "--no-compile", str(wheel), cwd=place)
    (site,) = place.glob("lib/python*/site-packages")
    # Files of this kind are not looked for in the folders that it names: what is installed there
    # as editable stays out of sight.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return python.parent


def pip(*arguments: str, cwd: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments,
         "--no-deps"],
        cwd=cwd, env=ENV, check=True,
    )  # fmt: skip


def ran(*command: object, cwd: Path, code: int = 0) -> str:
    """What a command prints; its errors if it is to end with another code than 0."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**ENV, "METARL_CACHE": str(cwd / "cache")},
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def test_the_wheel_holds_all_that_runs_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    needed = {
        path.relative_to(ROOT).as_posix()
        for folder in SHIPPED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    about = {name for name in names if ".dist-info/" in name}
    assert {f"metarl/report/page.{kind}" for kind in ("css", "html")} <= needed
    assert names - about == needed | {"train.py", "evaluate.py"}


def test_what_the_command_says_of_itself(bin: Path, tmp_path: Path) -> None:
    listed = ran(bin / "metarl", cwd=tmp_path)
    assert listed == ran(bin / "python", "-m", "metarl", "--help", cwd=tmp_path)
    for name in ("train", "evaluate", "show", "list", "sweep", "doctor", "check-agent"):
        assert f"\n  {name} " in listed
    said = ran(bin / "metarl", "trian", cwd=tmp_path, code=2)
    assert said == "metarl: no command 'trian'. Did you mean train? metarl --help lists all\n"
    said = ran(bin / "metarl", "show", "nowhere", cwd=tmp_path, code=2)
    assert said == "metarl show: nowhere is no run: it has no config.yaml\n"


def test_from_an_empty_folder(bin: Path, tmp_path: Path) -> None:
    metarl = bin / "metarl"
    names = {line.split()[0] for line in ran(metarl, "list", cwd=tmp_path).splitlines() if line}
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} <= names
    trained = ran(metarl, "train", "rl2_bandit", *SHORT, cwd=tmp_path)
    assert trained.endswith("Evaluate with:\n  metarl evaluate runs/rl2_bandit/seed1\n")
    run = Path("runs/rl2_bandit/seed1")
    assert "return" in ran(metarl, "evaluate", run, "--report", cwd=tmp_path)
    assert (tmp_path / run / "report/test_2000/report.html").is_file()
    shown = ran(metarl, "show", run, cwd=tmp_path)
    assert "finished at 2,000 of 2,000 env steps (100 %)" in shown
    assert "eval/test_2000.json" in shown and f"  metarl evaluate {run}\n" in shown


def test_what_a_user_has_hides_nothing_of_ours(bin: Path, tmp_path: Path) -> None:
    """Also where Python looks in the current folder first; and the user's algorithm is found."""
    for name in ("train", "evaluate", "envs/__init__", "agents/__init__", "configs/rl2_bandit"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('the wrong one')", encoding="utf-8")
    (tmp_path / "configs" / "rl2_bandit.yaml").write_text("the wrong one", encoding="utf-8")
    shutil.copy(ROOT / "docs/examples/sum_memory.py", tmp_path / "mine.py")
    start = [str(bin / "python"), "-m", "metarl", "train", "rl2_bandit",
             "--agent", "{kind: mine.py:SumMemoryConfig}", "--run-dir", "mine"]  # fmt: skip
    training = subprocess.Popen(
        start, cwd=tmp_path, env={**ENV, "METARL_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert training.stdout is not None
    first = training.stdout.readline()
    assert "iteration 1 " in first, training.communicate()
    assert "being trained now" in ran(bin / "metarl", "show", "mine", cwd=tmp_path)
    training.send_signal(signal.SIGINT)
    rest, _ = training.communicate(timeout=30)
    assert training.returncode == 130 and rest.endswith("  metarl train --resume mine\n")
    shown = ran(bin / "metarl", "show", "mine", cwd=tmp_path)
    assert "\nstopped at " in shown and "  metarl train --resume mine\n" in shown
