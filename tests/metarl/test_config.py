"""Every wrong key or value is one line that names it and what is allowed."""

from pathlib import Path

import pytest

from metarl.config import override, read_yaml, split_command_line, validate, write_yaml
from metarl.errors import UserError
from train import Experiment, load

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
GOOD = {"env": {"kind": "bandit"}, "agent": {"kind": "rl2"}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_survives_writing(path: Path, tmp_path: Path) -> None:
    experiment = load(path)
    write_yaml(experiment, tmp_path / "again.yaml")
    assert load(tmp_path / "again.yaml") == experiment


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
    assert validate(Experiment, values, source="flags").agent.learning_rate == 3e-4


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
            r"'env.kind' should be 'metaworld', .*'bandit', .* but .*Did you mean bandit",
        ),
        ({"env.num_arms": 1}, r"'env.num_arms' should be greater than or equal to 2, but is 1"),
        ({"agent.clip": "x"}, r"'agent.clip' should be a valid number.* but is 'x'"),
        ({"agent.memory": "rnn"}, r"'agent.memory' should be 'gru' or 'lstm', but is 'rnn'"),
        ({"train.env_steps": 0}, r"'train.env_steps' should be greater than or equal to 1"),
        ({"agent": {}}, r"'agent.kind' is missing; add it"),
    ],
)
def test_mistakes_are_named(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        validate(Experiment, override(GOOD, options), source="flags")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--seed"], "needs a value"), (["--seed", "1", "--seed", "2"], "given twice")],
)
def test_incomplete_flags_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_command_line(arguments)


def test_files_that_are_no_configs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("a: 1")
    with pytest.raises(UserError, match=r"no config file .*god.yaml. Did you mean .*good.yaml"):
        read_yaml(tmp_path / "god.yaml")
    for text in ("a: [", "- 1", "\0"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=r"bad\.yaml"):
            read_yaml(tmp_path / "bad.yaml")
