"""What docs/your_own_native_task.md says can be done, is done; trainings are cut short."""

import re
import shlex
from pathlib import Path

import pytest

import evaluate
import train
from tests.runs import fails

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/your_own_native_task.md").read_text()
MODULE = (ROOT / "docs/examples/touch_pole.py").read_text()
SHORT = ["--train.env-steps", "8000", "--train.meta-batch-size", "4", "--env.horizon", "20"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Commands and Python, in the order in which they stand there; the file lies elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs/examples").mkdir(parents=True)
    (tmp_path / "results").symlink_to(ROOT / "results")
    module, script = blocks("python")
    assert module == MODULE
    (tmp_path / "docs/examples/touch_pole.py").write_text(module)
    config = (ROOT / "docs/examples/touch_pole.yaml").read_text()
    (tmp_path / "docs/examples/touch_pole.yaml").write_text(config)
    for command in "".join(blocks("sh")).splitlines():
        program, *arguments = shlex.split(command)[1:]
        if program == "train.py":
            train.main([*arguments, *SHORT])
            assert "iteration 5" in capsys.readouterr().out
        else:
            evaluate.main([*arguments, "--episodes", "10"])
            assert "20 tasks of the test split of touch_pole" in capsys.readouterr().out
    names: dict = {"__name__": "page"}
    exec(script, names)
    assert names["obs"].shape == (8, 39) and names["reward"].shape == (8,)

    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "of_somebody_else"))
    message = fails(capsys, evaluate, ["runs/touch_pole/seed1"])
    assert f"would execute {tmp_path / 'docs/examples/touch_pole.py'}, which was not" in message
