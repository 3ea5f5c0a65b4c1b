"""What --seeds, --set and --search accept, and how values reach a command line."""

import pytest

from metarl.errors import UserError
from metarl.sweep.settings import (
    Choice,
    Numbers,
    SweepSettings,
    as_argument,
    assignments,
    check_apart,
    range_of,
    seeds_of,
    values_of,
)
from metarl.system.plain_yaml import read_argument


def test_seeds() -> None:
    assert seeds_of("1-5") == [1, 2, 3, 4, 5]
    assert seeds_of("1,3,7") == [1, 3, 7]
    assert seeds_of("0-1, 9") == [0, 1, 9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5-1", "5-1 is empty"),
        ("1,2,1", "names a seed twice"),
        ("1-3000", "more than 1,000"),
        ("", "should be like 1-5"),
        ("-1", "should be like 1-5"),
        ("1,", "should be like 1-5"),
        ("x", "should be like 1-5"),
    ],
)
def test_seeds_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        seeds_of(text)


def test_values_are_those_of_a_command_line() -> None:
    text = "3e-4, 010,true,gru,[32, 32],'a,b',{kind: rl2},\"7\""
    values = values_of(text, source="--set k")
    assert values == [3e-4, 10, True, "gru", [32, 32], "a,b", {"kind": "rl2"}, "7"]
    back = [read_argument(as_argument(value), source="--k") for value in values]
    assert back == values and [type(value) for value in back] == [type(v) for v in values]
    assert [as_argument(value) for value in values[:2]] == ["3e-4", "010"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,,2", "with a comma between two"),
        ("1,null", "says nothing"),
        ("0.1,0.10", "a value twice"),
    ],
)
def test_values_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        values_of(text, source="--set k")


def test_ranges() -> None:
    assert range_of("log:1e-4:1e-2", source="") == Numbers(scale="log", low=1e-4, high=1e-2)
    assert range_of("uniform:-1:1", source="") == Numbers(scale="uniform", low=-1, high=1)
    assert range_of("int:8:64", source="") == Numbers(scale="int", low=8, high=64)
    assert range_of("choice:gru,lstm", source="") == Choice(values=["gru", "lstm"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log:1:1", "is empty"),
        ("uniform:2:1", "is empty"),
        ("log:0:1", "begins above 0"),
        ("int:1:2.5", "whole numbers"),
        ("uniform:0:.inf", "endless"),
        ("log:1e-4", "should be log:LOW:HIGH"),
        ("uniform:a:b", "should be log:LOW:HIGH"),
        ("1e-4:1e-2", "should be log:LOW:HIGH"),
        ("choice:[1],[2]", "a choice is a number or a word"),
    ],
)
def test_ranges_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        range_of(text, source="--search k")


def test_assignments() -> None:
    given = assignments(["agent.learning-rate=1,2", "--agent.clip=a=b"], option="--set")
    assert given == {"agent.learning_rate": "1,2", "agent.clip": "a=b"}
    for wrong, message in {
        "agent.clip": "takes KEY=…",
        "=1": "takes KEY=…",
        "agent..clip=1": "takes KEY=…",
        "agent.clip=": "has no values",
        "seed=1": "give --seeds",
        "env.fold=1": "give --folds",
    }.items():
        with pytest.raises(UserError, match=message):
            assignments([wrong], option="--set")
    with pytest.raises(UserError, match="given twice"):
        assignments(["a=1", "a=2"], option="--set")
    with pytest.raises(UserError, match="set and searched"):
        check_apart(["a", "b", "a"])
    with pytest.raises(UserError, match=r"agent and agent\.clip are given both"):
        check_apart(["agent.clip", "agent"])


def test_what_makes_another_sweep() -> None:
    grid = SweepSettings(name="a", seeds="1-2", set={"k": "1,2"})
    assert not grid.difference(SweepSettings(name="a", seeds="1-2", set={"k": "1,2"}))
    # What is trained is the same, only judged by something else.
    judged = SweepSettings(name="a", seeds="1-2", set={"k": "1,2"}, objective="train/return")
    assert not grid.difference(judged)
    assert "seeds 1-2, not 1-3" in grid.difference(SweepSettings(name="a", seeds="1-3"))
    search = SweepSettings(name="a", search={"k": "int:1:2"}, trials=5)
    assert not search.difference(SweepSettings(name="a", search={"k": "int:1:2"}, trials=9))
    other = SweepSettings(name="a", search={"k": "int:1:2"}, trials=5, objective="train/return")
    assert "objective nothing, not train/return" in search.difference(other)
