"""Everything on docs/your_own_environment.md works; trainings are shortened."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import evaluate
import train
from envs.gymnasium_tasks import check

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/your_own_environment.md").read_text()
MODULE = (ROOT / "docs/examples/windy_point.py").read_text()
SHORT = ["--train.env-steps", "1", "--train.meta-batch-size", "4"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def run_command(command: str) -> None:
    program, *arguments = shlex.split(command)[1:]
    if program == "train.py" and arguments[0] == "--check":
        train.main(arguments)
    elif program == "train.py":
        train.main([*arguments, *SHORT])
    else:
        assert program == "evaluate.py", command
        evaluate.main(arguments)


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and Python, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    module, *scripts = blocks("python")
    assert module == MODULE
    commands = "".join(blocks("sh")).splitlines()
    assert len(commands) >= 4 and len(scripts) == 2
    for command in commands:
        run_command(command)
    for script in scripts:
        names: dict = {"__name__": "page"}
        exec(script, names)
    monkeypatch.delitem(sys.modules, "windy_point")
    obs, *_ = names["env"].step(np.zeros((8, 1), np.float32))
    assert obs.shape == (8, 3)


def test_what_the_checker_says_on_the_page(tmp_path: Path) -> None:
    broken = tmp_path / "windy_point.py"
    broken.write_text(MODULE.replace("self.np_random.normal", "np.random.normal"))
    (finding,) = check(broken)
    assert finding in PAGE.replace("\n", " ")
