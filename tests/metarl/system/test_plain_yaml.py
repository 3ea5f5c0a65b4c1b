"""Configs are read by the rules of YAML 1.2, with limits; writing and reading gives the same."""

import random

import pytest
import yaml

from metarl.errors import UserError
from metarl.system.plain_yaml import DEEPEST, LONGEST, parse_yaml, read_argument, to_yaml, written


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("-007", -7), ("0o17", 15), ("0x1F", 31), ("4_000_000", 4_000_000),
        ("1e-3", 1e-3), (".5", 0.5), ("5.", 5.0), ("1E+2", 100.0), ("-1_0.5", -10.5),
        ("-.inf", float("-inf")), ("1e400", float("inf")),
        ("true", True), ("FALSE", False), ("~", None), ("null", None), ("", None),
        ("yes", "yes"), ("on", "on"), ("No", "No"), ("2024-05-01", "2024-05-01"),
        ("1:30", "1:30"), ("0b11", "0b11"), ("1__0", "1__0"), ("_1", "_1"), ("1e", "1e"),
        ("٣", "٣"), ("'010'", "010"), ('"true"', "true"),
    ],
)  # fmt: skip
def test_scalars_are_what_yaml_1_2_says(text: str, value: object) -> None:
    read = parse_yaml(f"- {text}", source="here")[0]
    assert read == value and isinstance(read, type(value))


def test_a_number_remembers_how_it_was_written() -> None:
    assert [written(value) for value in parse_yaml("[010, 1.10, x, true]", source="here")] == [
        "010", "1.10", "x", True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice"),
        ("{a: {b: 1, 'b': 2}}", "line 1: 'b' is given twice"),
        ("010: 1\n'010': 2", "line 2: '010' is given twice"),
        ("<<: {a: 1}\n<<: {b: 1}", "line 2: '<<' is given twice"),
        ("a: !!timestamp foo", "line 1: values have no tags"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: values have no tags"),
        ("[a]: 1", "line 1: a key is a word"),
        ("<<: 3", "line 1: << takes mappings"),
        ("a: 1\n---\nb: 1", "line 2: but found another document"),
        ("a: *b", "line 1: found undefined alias"),
        ("\0", "special characters are not allowed"),
        ("[" * 100_000, f"line 1: more than {DEEPEST} levels"),
        ("a: &a [*a]", f"line 1: more than {DEEPEST} levels"),
        ("- 1\n" * 100_000, "more than 20,000 values"),
        ("x" * (LONGEST + 1), "more than 1,048,576 characters"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
                for before, name in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "more than 20,000 values",
        ),
    ],
)
def test_what_no_config_needs_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_yaml(text, source="here.yaml")
    assert str(refused.value).startswith("cannot read here.yaml as YAML: ")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_values_can_be_shared_and_overridden() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{x: 4}, *a]}\n'<<': text"
    assert parse_yaml(text, source="here") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 4, "y": 2}, "<<": "text",
    }  # fmt: skip


HOSTILE = [
    "010", "yes", "2024-05-01", "1e3", "~", "0x1F", "null", "0o17", "1_000", ".5", "1:30", "", " ",
    "<<", "=", "- a", "a: b", "#", "!x", "&a", "*a", "'", '"', "\n", "a\nb ", "\t", "\0",
    "\x1b[31m", "\ud800", "\x85", "\ufeff", "true", "y", "0b1", "1.", "-.inf", ".nan", "x" * 300,
    "日本", "%", "@", "|", ">", "...", "---", "? a", "[", "{}",
]  # fmt: skip


def test_what_is_written_is_read_as_it_was_here_and_by_readers_of_yaml_1_1() -> None:
    rng = random.Random(0)
    pieces = [*HOSTILE, *"0123456789abeEoxX_.:-+~#'\"\\ \n", "é"]
    texts = HOSTILE + ["".join(rng.choices(pieces, k=rng.randint(1, 6))) for _ in range(1000)]
    numbers = [rng.uniform(-1, 1) * 10.0 ** rng.randint(-300, 300) for _ in range(200)]
    values = {
        "texts": texts,
        "numbers": [*numbers, 1e-5, 1e16, -0.0, float("inf"), 0, -3, 10**30],
        "others": [True, False, None, [], {}, [[1], {"a": "010"}]],
        **{f"key {text}": 1 for text in HOSTILE},
    }
    text = to_yaml(values)
    read = parse_yaml(text, source="here")
    assert read == values == yaml.safe_load(text)
    assert [type(written(value)) for value in read["texts"]] == [str] * len(texts)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("3", 3), ("[1, 2]", [1, 2]), ("'a'", "a"), ("run #3", "run #3"), ("*x", "*x"),
        ("&a b", "&a b"), ("[x", "[x"), ("\udcff", "\udcff"), ("C:\\x", "C:\\x"), ("", None),
    ],
)  # fmt: skip
def test_arguments_that_are_no_values_are_as_they_were_typed(typed: str, value: object) -> None:
    assert read_argument(typed, source="--x") == value


def test_an_argument_with_a_key_twice_is_refused() -> None:
    with pytest.raises(UserError, match="cannot read --agent as YAML: line 1: 'a' is given twice"):
        read_argument("{a: 1, a: 2}", source="--agent")
