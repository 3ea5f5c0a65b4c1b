"""The YAML of configs: plain values by the rules of YAML 1.2, read within limits.

Numbers are read as people read them: `010` is ten, `1e-3` needs no decimal point, `4_000_000` may
have underscores. `yes`, `on` and `2024-05-01` are text. A duplicate key is an error. Tags are
refused, and the number of values is limited, so that nested aliases cannot exhaust memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from metarl.errors import UserError, printable

LONGEST = 2**20
"""Maximum number of characters in a file."""
DEEPEST = 20
"""Maximum depth of nesting."""
MOST = 20_000
"""Maximum number of values in a file; the values behind an alias count at each use."""
LONGEST_NUMBER = 400
"""Maximum number of characters in a number: no float needs more, and long integers are slow."""

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
"""Tags of nodes that have none in the file: unquoted scalars, and all other nodes."""


class _RefusedError(yaml.YAMLError):
    """Valid YAML that no config needs, such as a tag, or YAML beyond the limits."""


class _Written:
    """A number that remembers its text, because a text field takes a number as it was written."""

    text: str


class _Integer(_Written, int):
    pass


class _Float(_Written, float):
    pass


def written(value: object) -> object:
    """The original text of a number that was read from YAML; any other value unchanged."""
    return value.text if isinstance(value, _Written) else value


def plain(text: str) -> Any:
    """The value of an unquoted scalar: None, a boolean, a number, or text."""
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
        UserError: the text is not YAML, has more than plain values, or exceeds the limits; says
            where.
    """
    try:
        return _parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read {source} as YAML: {_what_is_wrong(error)}") from None


def read_argument(text: str, *, source: str) -> Any:
    """The value of a command-line argument; text that is not YAML is kept as it was typed.

    Raises:
        UserError: the text is YAML, but has more than plain values, or exceeds the limits.
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
    """Plain values as YAML that readers of YAML 1.2 and of YAML 1.1 read back unchanged."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Parses text into nodes; `_Values` converts them to values."""

    depth = count = 0

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """The tag of a node that has none in the file."""
        return _PLAIN if kind is yaml.ScalarNode and implicit[0] else _AS_IT_IS

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node with all nodes inside it; limits are checked before time or memory is spent."""
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
    """Converts nodes to values, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, node: yaml.Node, *, depth: int) -> Any:
        """The value of a node."""
        self._count += 1
        if self._count > MOST:
            raise _RefusedError(f"more than {MOST:,} values")
        if depth > DEEPEST:  # an alias refers to a node that contains it
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
    """Quotes text that either version of YAML would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        """True: repeated values are written out, not as aliases."""
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.Node:
    quoted = not isinstance(plain(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_Dumper.add_representer(str, _write_text)
