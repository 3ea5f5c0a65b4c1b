"""The YAML of configs: plain values by the rules of YAML 1.2, read with limits.

What looks like a number is one as people read it: `010` is ten, `1e-3` has no need of a point,
`4_000_000` may have underscores. `yes`, `on` and `2024-05-01` are text. A key that comes twice is a
mistake. No tag makes anything else of a value, and aliases cannot multiply without end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from metarl.errors import UserError, printable

LONGEST = 2**20
"""Characters of a file."""
DEEPEST = 20
"""Levels of values within values."""
MOST = 20_000
"""Values in a file; what an alias stands for counts each time."""
LONGEST_NUMBER = 400
"""Characters of a number; no float is longer, and reading integers takes time."""

_CONSTANTS = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    "null": None, "Null": None, "NULL": None, "~": None, "": None,
}  # fmt: skip
_DIGITS = "[0-9]+(?:_[0-9]+)*"
_INTEGER = re.compile(rf"[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(
    rf"[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?{_DIGITS})?", re.ASCII
)
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")
_PLAIN, _AS_IT_IS = "plain", "as it is"
"""What stands for a tag where there is none."""


class _RefusedError(yaml.YAMLError):
    """YAML that no config needs."""


class _Written:
    """A number that remembers how it was written: what is declared as text takes that."""

    text: str


class _Integer(_Written, int):
    pass


class _Float(_Written, float):
    pass


def written(value: object) -> object:
    """The text of a number that was read, and any other value as it is."""
    return value.text if isinstance(value, _Written) else value


def plain(text: str) -> Any:
    """What a value without quotes is: nothing, a truth value, a number, or text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        number = _Integer(text, base)
    elif _FLOAT.fullmatch(text):
        number = _Float(text)
    elif special := _NOT_FINITE.fullmatch(text):
        number = _Float(special[1] + special[2])
    else:
        return text
    number.text = text
    return number


def parse_yaml(text: str, *, source: str) -> Any:
    """The value of a YAML document.

    Raises:
        UserError: it is no YAML, more than plain values, or larger than the limits; says where.
    """
    try:
        return _parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read {source} as YAML: {_what_is_wrong(error)}") from None


def read_argument(text: str, *, source: str) -> Any:
    """The value of a command-line argument; what is neither a number nor a list is as it was typed.

    Raises:
        UserError: it is YAML, but more than plain values, or larger than the limits.
    """
    try:
        value = _parse(text)
    except _RefusedError as error:
        raise UserError(f"cannot read {source} as YAML: {error}") from None
    except yaml.YAMLError:
        return text
    quoted = text.lstrip()[:1] in ("'", '"')
    return text if isinstance(value, str) and not quoted else value


def _parse(text: str) -> Any:
    if len(text) > LONGEST:
        raise _RefusedError(f"more than {LONGEST:,} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _Values().of(node, depth=0)
    finally:
        loader.dispose()


def _what_is_wrong(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {printable(error.problem)}"
    return printable(error)


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML that is read as what they were, here and by readers of YAML 1.1."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Makes nodes of text; what they mean is for `_Values`."""

    depth = count = 0

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """The tag of a node that has none."""
        return _PLAIN if kind is yaml.ScalarNode and implicit[0] else _AS_IT_IS

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node with all that is in it; limits are kept before they cost time or memory."""
        self.depth += 1
        self.count += 1
        if self.depth > DEEPEST:
            raise _RefusedError(f"{_place(self.peek_event())}more than {DEEPEST} levels")
        if self.count > MOST:
            raise _RefusedError(f"more than {MOST:,} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Values:
    """Makes values of nodes, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, node: yaml.Node, *, depth: int) -> Any:
        """The value of a node."""
        self._count += 1
        if self._count > MOST:
            raise _RefusedError(f"more than {MOST:,} values")
        if depth > DEEPEST:  # by an alias of what it is in
            raise _RefusedError(f"{_place(node)}more than {DEEPEST} levels")
        if node.tag not in (_PLAIN, _AS_IT_IS):
            raise _RefusedError(f"{_place(node)}values have no tags; leave {node.tag!r} out")
        if isinstance(node, yaml.ScalarNode):
            return plain(node.value) if node.tag == _PLAIN else node.value
        if isinstance(node, yaml.SequenceNode):
            return [self.of(item, depth=depth + 1) for item in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _RefusedError(f"{_place(key_node)}a key is a word, not a list or a mapping")
            key = key_node.value
            if key in own or (key == "<<" and merged):
                raise _RefusedError(f"{_place(key_node)}{key!r} is given twice; give it once")
            value = self.of(value_node, depth=depth + 1)
            if key == "<<" and key_node.tag == _PLAIN:
                for base in value if isinstance(value, list) else [value]:
                    if not isinstance(base, dict):
                        raise _RefusedError(f"{_place(key_node)}<< takes mappings")
                    merged = base | merged
            else:
                own[key] = value
        return merged | own


def _place(of: Any) -> str:
    return f"line {of.start_mark.line + 1}: "


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that would be no text, by the rules of either version."""

    def ignore_aliases(self, data: Any) -> bool:
        """Everything is written where it stands."""
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.Node:
    quoted = not isinstance(plain(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_Dumper.add_representer(str, _write_text)
