"""What docs/your_own_algorithm.md says can be done, is done; trainings are cut short."""

import re
import shlex
from pathlib import Path

import pytest

import evaluate
import train
from metarl import check_agent
from tests.runs import fails, final_bytes

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/your_own_algorithm.md").read_text()
FILES = ("docs/examples/sum_memory.py", "docs/examples/sum_memory.yaml")
SHORT = ["--train.env-steps", "400", "--train.meta-batch-size", "4", "--train.episodes-per-trial",
         "20", "--env.num-test-tasks", "50"]  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the repository with the page's files in it, where the process is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text((ROOT / file).read_text())
    return tmp_path


def test_the_page(elsewhere: Path, capsys) -> None:
    assert [blocks("python"), blocks("yaml")] == [[(ROOT / f).read_text()] for f in FILES]
    assert len(blocks("python")[0].splitlines()) < 120
    programs = {"train.py": train, "evaluate.py": evaluate}
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 5
    for _, program, *arguments in commands:
        if program == "-m":
            assert arguments.pop(0) == "metarl.check_agent"
            check_agent.main(arguments)
            assert "SumMemoryConfig is an agent" in capsys.readouterr().out
        else:
            short = SHORT if program == "train.py" else []
            programs[program].main([*arguments, *short])
    assert "Report: runs/comparisons/" in capsys.readouterr().out


def test_it_learns(elsewhere: Path, capsys) -> None:
    """Half of what is between chance and the best learner's 0.78 a pull, in a quarter of the
    budget."""
    train.main(["docs/examples/sum_memory.yaml", "--train.env-steps", "1_000_000",
                "--agent.learning-rate", "0.01", "--env.num-test-tasks", "200",
                "--run-dir", "run"])  # fmt: skip
    capsys.readouterr()
    evaluate.main(["run"])
    last = re.search(r"^ +99 +(\S+)", capsys.readouterr().out, re.M)
    assert last is not None and float(last[1]) >= 0.6  # chance is 0.5


def test_a_run_is_resumed_to_the_bit_and_a_change_is_noticed(elsewhere: Path, capsys) -> None:
    train.main([FILES[1], *SHORT, "--run-dir", "whole"])
    train.main([FILES[1], *SHORT[2:], "--run-dir", "parts", "--train.env-steps", "160"])
    config = Path("parts/config.yaml")
    config.write_text(config.read_text().replace("env_steps: 160", "env_steps: 400"))
    module = Path(FILES[0])
    module.write_text(module.read_text() + "\n# a remark\n")
    capsys.readouterr()
    train.main(["--resume", "parts"])
    assert "the file of parts's algorithm changed" in capsys.readouterr().err
    assert final_bytes(Path("parts")) == final_bytes(Path("whole"))


def test_code_of_somebody_else_is_not_executed(elsewhere: Path, monkeypatch, capsys) -> None:
    train.main([FILES[1], *SHORT, "--run-dir", "run"])
    monkeypatch.setenv("METARL_CACHE", str(elsewhere / "of_somebody_else"))
    mark = elsewhere / "executed"
    module = Path(FILES[0])
    module.write_text(
        f"open({str(mark)!r}, 'w')\n"
        + module.read_text().replace("from __future__ import annotations", "")
    )
    for program, arguments in ((evaluate, ["run"]), (train, ["--resume", "run"])):
        assert f"would execute {module.resolve()}" in fails(capsys, program, arguments)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("docs/examples/sum_memory.py:Sum", "has no metarl.config.Config of the name Sum."),
        ("docs/examples/sum_memori.py:SumMemoryConfig", "no module"),
        ("docs/examples/sum_memory:SumMemoryConfig", "or FILE.py:CLASS, but is"),
        ("half.py:Half", "half.py:Half has no method trial_shape; add it"),
        (
            "broken.py:Half",
            "cannot import broken.py: ZeroDivisionError: division by zero (broken.py",
        ),
    ],
)
def test_mistakes(elsewhere: Path, capsys, kind: str, message: str) -> None:
    Path("half.py").write_text(
        "from metarl.config import Config\n\n\nclass Half(Config):\n    def build(self): ...\n"
    )
    Path("broken.py").write_text("1 / 0\n")
    config = Path(FILES[1]).read_text().replace("docs/examples/sum_memory.py:SumMemoryConfig", kind)
    Path("mine.yaml").write_text(config)
    assert message in fails(capsys, train, ["mine.yaml"])
    assert message in fails(capsys, check_agent, [kind])


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("(rollout,) = trial", "raise SystemExit(0)", "failed: SystemExit: 0 (sum_memory.py, line"),
        ("float(loss.detach())", "loss.detach()", "SumMemoryConfig failed: Type"),
        ("return action, policy.log_prob(action), state", "return None", "failed: TypeError"),
        (
            "class SumMemoryConfig(Config):",
            "class SumMemoryConfig(Config):\n    note: object = object()\n",
            "cannot be written as YAML",
        ),
    ],
)
def test_what_fails_in_it_is_told_in_a_line(
    elsewhere: Path, capsys, right: str, wrong: str, message: str
) -> None:
    module = Path(FILES[0])
    assert right in module.read_text()
    module.write_text(module.read_text().replace(right, wrong))
    assert message in fails(capsys, train, [FILES[1], *SHORT])


def test_tasks_of_another_config_are_taken_without_its_algorithm(elsewhere: Path, capsys) -> None:
    train.main(["docs/examples/sum_memory.yaml", *SHORT, "--run-dir", "run"])
    Path("other.yaml").write_text("env: {kind: bandit, num_arms: 5}\nagent: {kind: nowhere.py:X}\n")
    evaluate.main(["run", "--tasks", "other.yaml", "--tasks-at-once", "1000"])
    assert "1,000 tasks of the test split" in capsys.readouterr().out
