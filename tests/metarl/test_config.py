"""Every wrong key or value gives one line that names it and the allowed values."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from metarl import renames
from metarl.config import find_config, override, read_yaml, split_command_line, write_yaml
from metarl.errors import UserError
from metarl.renames import renamed
from metarl.training.experiment import experiment_of, load

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PUBLISHED = sorted((ROOT / "results").rglob("config.yaml"))
GOOD = {"env": {"kind": "bandit"}, "agent": {"kind": "rl2"}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_survives_writing(path: Path, tmp_path: Path) -> None:
    experiment = load(path)
    write_yaml(experiment, tmp_path / "again.yaml")
    assert load(tmp_path / "again.yaml") == experiment


@pytest.mark.parametrize("path", CONFIGS + PUBLISHED, ids=lambda p: "-".join(p.parts[-3:]))
def test_experiments_are_what_another_reader_of_yaml_makes_of_their_files(path: Path) -> None:
    """Compared with PyYAML's own reader, which was used when the results were trained."""
    experiment = load(path)
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    values = {"name": path.stem, **renamed(stored, renames.EXPERIMENT)}
    assert type(experiment).model_validate(values) == experiment
    assert PUBLISHED


@pytest.mark.parametrize("name", ["010", "2024-05-01", "1e3", "1.10", "0x1F", "yes", "a b", "日本"])
def test_a_name_is_what_was_typed(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.yaml").write_text(f"name: {name}\nenv: {{kind: bandit}}\nagent: {{kind: rl2}}")
    assert load(tmp_path / "a.yaml").name == name
    _, options = split_command_line(["--name", name])
    experiment = load(CONFIGS[0], options)
    assert experiment.name == name
    write_yaml(experiment, tmp_path / "again.yaml")
    assert load(tmp_path / "again.yaml") == experiment


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../x", "/tmp/x", "a/b", "a\\b", "~", ".hidden", "-x", "a:b", "a\nb", "a\tb",
     "\0", "\ud800", "\x1b[31m", " a", "a ", "a.", "x" * 101, "日" * 34, "*"],
)  # fmt: skip
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"'name' should be a name for a folder.*but is") as refused:
        experiment_of({**GOOD, "name": name}, source="flags")
    assert str(refused.value).isprintable()


def test_flags_become_dotted_keys_with_values() -> None:
    positional, options = split_command_line(
        ["a.yaml", "--agent.learning-rate", "3e-4", "--greedy", "--seed=3", "--x", "[1, 2]"],
        switches=["greedy"],
    )
    assert positional == ["a.yaml"]
    assert options == {
        "agent.learning_rate": 3e-4, "greedy": True, "seed": 3, "x": [1, 2],
    }  # fmt: skip
    assert override({"agent": {"clip": 0.2}}, {"agent.epochs": 3, "seed": 1}) == {
        "agent": {"clip": 0.2, "epochs": 3},
        "seed": 1,
    }


def test_numbers_without_a_point_are_numbers() -> None:
    values = override(GOOD, {"agent.learning_rate": "3e-4"})
    assert experiment_of(values, source="flags").agent.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"agent.lerning_rate": 1},
            r"unknown key 'agent.lerning_rate'. Did you mean learning_rate",
        ),
        ({"sede": 1}, r"unknown key 'sede'. Did you mean seed"),
        (
            {"env.kind": "bandid"},
            r"'env.kind' should be one of .*bandit, .*metaworld, .* but .*Did you mean bandit",
        ),
        ({"env.num_arms": 1}, r"'env.num_arms' should be greater than or equal to 2, but is 1"),
        ({"agent.clip": "x"}, r"'agent.clip' should be a valid number.* but is 'x'"),
        (
            {"agent.memory": "rnn"},
            r"'agent.memory' should be 'gru', 'lstm', 'recurrence', .* but is 'rnn'",
        ),
        ({"train.env_steps": 0}, r"'train.env_steps' should be greater than or equal to 1"),
        ({"agent": {}}, r"'agent.kind' is missing; add it"),
        ({"agent": {"kind": ["rl2"]}}, r"'agent.kind' should be .* but is"),
        ({"seed": 2**63}, r"'seed' should be less than 9223372036854775808"),
        ({"seed": True}, r"'seed' should be a valid integer.* but is 'true'"),
        ({"agent.clip": False}, r"'agent.clip' should be a valid number.* but is 'false'"),
        ({"agent.encoder_sizes": [8, True]}, r"'agent.encoder_sizes.1' should be a valid integer"),
        ({"agent.clip": float("inf")}, r"'agent.clip' should be a finite number"),
        ({"name": True}, r"'name' should be a valid string, but is True; put it in quotes"),
        ({"agent.hidden_size": 10**9}, r"'agent.hidden_size' should be less than or equal to 4096"),
        ({"agent.encoder_sizes": [8] * 17}, r"'agent.encoder_sizes' .* at most 16 items"),
        ({"train.meta_batch_size": 10**9}, r"'train.meta_batch_size' should be less than or equal"),
        ({"x" * 10**6: 1}, r"unknown key 'x"),
        ({"agent.clip": "x" * 10**6}, r"'agent.clip' should be a valid number"),
    ],
)
def test_mistakes_are_named(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        experiment_of(override(GOOD, options), source="flags")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed"], "needs a value"),
        (["--seed", "1", "--seed", "2"], "given twice"),
        (["--a.b", "1", "--a", "{c: 2}"], "--a and --a.b are given both"),
        (["--a", "{c: 2}", "--a.b.c=1"], "--a and --a.b.c are given both"),
        (["--a", "{b: 1, b: 2}"], "'b' is given twice"),
        (["--list=3"], "--list is given alone, or as --list=false"),
        *(
            ([text, "1"], "is no flag; flags are --NAME VALUE")
            for text in ("--", "--=", "--a.", "--.a", "--a..b", "-x", "-", "--" + "a." * 1000 + "b")
        ),
    ],
)
def test_incomplete_flags_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_command_line(arguments, switches=["list"])


def test_paths_are_as_they_were_typed() -> None:
    _, options = split_command_line(
        ["--run-dir", "010 #1", "-h"], switches=["help"], texts=["run_dir"]
    )
    assert options == {"run_dir": "010 #1", "help": True}


def test_files_that_are_no_configs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("a: 1")
    with pytest.raises(UserError, match=r"no config file .*god.yaml. Did you mean .*good.yaml"):
        read_yaml(tmp_path / "god.yaml")
    for content in (
        b"a: [",
        b"- 1",
        b"\0",
        b"",
        b"# nothing",
        b"\xff\xfea\0",
        b"a: 1\na: 2",
        b"\xff",
    ):
        (tmp_path / "bad.yaml").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.yaml"):
            read_yaml(tmp_path / "bad.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in (
        tmp_path / "pipe.yaml",
        Path("/dev/zero"),
        tmp_path,
        Path("a\0b"),
        Path("x" * 5000),
    ):
        with pytest.raises(UserError, match="cannot read"):
            read_yaml(name)
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbfa: 1")  # as written by the Windows editor
    assert read_yaml(tmp_path / "marked.yaml") == {"a": 1}


def test_kinds_of_learning_do_not_mix() -> None:
    with pytest.raises(
        UserError,
        match=r"one of maml_trpo, pearl, promp, rl2, varibad, or FILE\.py:CLASS, but is 'maml'",
    ):
        experiment_of({**GOOD, "agent": {"kind": "maml"}}, source="flags")


def test_a_folder_that_hides_a_package_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").touch()
    (tmp_path / "train.py").write_text("raise SystemExit('the wrong train.py')", encoding="utf-8")
    program = (
        "import sys\n"  # an editable install would still find ours; others would not
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f)]\n"
        "from metarl.system.command_line import one_line_errors\n"
        "from metarl.training.experiment import load\n"
        "with one_line_errors('mine'):\n"
        f"    load(__import__('pathlib').Path({str(CONFIGS[-1])!r}))\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(CONFIGS[0].parents[1])])
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths}, encoding="utf-8",
    )  # fmt: skip
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1
    assert f"{tmp_path / 'envs'} hides the package of that name" in ran.stderr


def test_names_of_before_still_load(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    text = "env: {kind: point}\nagent: {kind: rl2}\ntrain: {%s}\n"
    path.write_text(text % "tasks_per_trial: 7")
    assert load(path).train.meta_batch_size == 7
    assert load(path, {"train.meta_batch_size": 8}).train.meta_batch_size == 8
    path.write_text(text % "tasks_per_trial: 7, meta_batch_size: 8")
    with pytest.raises(UserError, match=r"unknown key 'train\.tasks_per_trial'"):
        load(path)


def test_configs_of_ours_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("rl2_bandit") == ROOT / "configs" / "rl2_bandit.yaml"
    Path("rl2_bandit").mkdir()  # a folder of runs, say
    assert find_config("rl2_bandit") == ROOT / "configs" / "rl2_bandit.yaml"
    for file in ("rl2_point", "rl2_point.yaml"):
        Path(file).touch()
        assert find_config(file) == Path(file)
    for missing in ("rl2_bandits", "configs/rl2_bandit.yaml", "../configs/rl2_bandit"):
        with pytest.raises(UserError, match=f"no config file {missing}. Did you mean rl2_bandit"):
            read_yaml(find_config(missing))
