"""Configs: frozen pydantic models that come from YAML and from the command line.

Every mistake is reported in one line that names the key, what is wrong and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from metarl.errors import UserError, nearest, printable
from metarl.system.files import read_text
from metarl.system.plain_yaml import DEEPEST, parse_yaml, read_argument, to_yaml, written
from metarl.system.started import SCRIPTS

C = TypeVar("C", bound="Config")
CONFIGS = SCRIPTS / "configs"
"""Folder of the toolkit's own configs."""

Positive = Annotated[float, Field(gt=0, lt=1e30)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**12)]
"""Number of things that are processed one after the other: costs time, not memory."""
Size = Annotated[int, Field(ge=1, le=10_000_000)]
"""Number of things that are held in memory."""
Few = Annotated[int, Field(ge=1, le=1000)]
"""Number of things that are expensive one by one, such as steps that are differentiated through."""
Width = Annotated[int, Field(ge=1, le=4096)]
"""Units of a layer."""
Widths = Annotated[tuple[Width, ...], Field(max_length=16)]
"""Units of each layer of a network."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Config(BaseModel):
    """Base of all configs: immutable; keys that it does not declare are errors.

    A text field takes a number as it was written, so that a name may be 010. A number field takes
    no boolean.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    benchmarks: ClassVar[Sequence[str]] = ()
    """Names that `evaluate.py --tasks` accepts; they are values of the field `benchmark`."""
    choices: ClassVar[Mapping[str, str]] = {}
    """Choices to list: values of a field, such as `variant=…`, with a line of description each."""

    @model_validator(mode="before")
    @classmethod
    def _as_declared(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        declared = {name: _types_in(field.annotation) for name, field in cls.model_fields.items()}
        return {key: _taken_as(declared.get(key, set()), value) for key, value in values.items()}


def find_config(given: str | Path) -> Path:
    """The config that a user names: a file or, where there is no such file, one of the toolkit's
    own by its name alone."""
    path, ours = Path(given), CONFIGS / f"{given}.yaml"
    return ours if ours.parent == CONFIGS and ours.is_file() and not path.is_file() else path


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        known = [str(p) for p in sorted(path.parent.glob("*.yaml"))]
        ours = [p.stem for p in CONFIGS.glob("*.yaml")]
        close = nearest(str(path), known) or nearest(path.stem, ours)
        raise UserError(f"no config file {path}.{close}") from None
    values = parse_yaml(text, source=str(path))
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise UserError(f"{path} must hold 'key: value' lines, not {found}")
    return values


def write_yaml(config: Config, path: Path) -> None:
    """Writes every value of `config`, defaults included, so that later versions read the same."""
    try:
        values = config.model_dump(mode="json")
    except PydanticSerializationError as error:
        raise UserError(f"an option cannot be written as YAML: {printable(error)}") from None
    path.write_text(to_yaml(values), encoding="utf-8")


def validate(model: type[C], values: Mapping[str, Any], *, source: str) -> C:
    """A config of type `model` from plain values.

    Raises:
        UserError: a value is not valid; names `source`, the first wrong key and what is allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{source}: {_first_problem(error, model, values)}") from None


def split_command_line(
    arguments: Sequence[str], *, switches: Sequence[str] = (), texts: Sequence[str] = ()
) -> tuple[list[str], dict[str, Any]]:
    """Positional arguments, and options as dotted keys: `--agent.learning-rate 3e-4` becomes
    `{"agent.learning_rate": …}`.

    Args:
        arguments: the command line without the program's name.
        switches: options that take no value; `-h` stands for `--help`.
        texts: options whose value is kept as typed; all other values are read as YAML.

    Raises:
        UserError: an argument is not a valid flag, lacks its value, or is given twice.
    """
    positional: list[str] = []
    options: dict[str, Any] = {}
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "-h" and "help" in switches:
            argument = "--help"
        if not argument.startswith("-"):
            positional.append(argument)
            continue
        name, has_value, text = argument.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        parts = key.split(".")
        if argument[:2] != "--" or not all(parts) or len(parts) > DEEPEST:
            raise UserError(f"{argument!r} is no flag; flags are --NAME VALUE, see --help")
        if key in options:
            raise UserError(f"--{name} is given twice; give it once")
        if not has_value and key in switches:
            options[key] = True
            continue
        if not has_value:
            if not remaining or remaining[0].startswith("--"):
                raise UserError(f"--{name} needs a value: --{name} VALUE")
            text = remaining.pop(0)
        options[key] = text if key in texts else read_argument(text, source=f"--{name}")
        if key in switches and not isinstance(options[key], bool):
            raise UserError(f"--{name} is given alone, or as --{name}=false")
    for key in options:
        for outer in options:
            if key.startswith(f"{outer}."):
                raise UserError(
                    f"{flag(outer)} and {flag(key)} are given both; put all values into one of them"
                )
    return positional, options


def flag(name: str) -> str:
    """The command-line flag of a field."""
    return f"--{name.replace('_', '-')}"


def given_options(config: Config) -> list[str]:
    """The fields that the user set, except those set to False."""
    fields = type(config).model_fields
    return [n for n in fields if n in config.model_fields_set and getattr(config, n) is not False]


def override(values: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with dotted `options` merged in.

    Raises:
        UserError: an option names a key inside a single value.
    """
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for dotted, value in options.items():
        outer, _, inner = dotted.partition(".")
        if not inner:
            merged[outer] = value
            continue
        section = merged.get(outer, {})
        if not isinstance(section, Mapping):
            raise UserError(f"--{dotted}: {outer} is a single value and has no keys of its own")
        merged[outer] = override(section, {inner: value})
    return merged


def _types_in(annotation: Any) -> set[type]:
    """The types that an annotation consists of."""
    inner = get_args(annotation)
    if not inner:
        return {annotation} if isinstance(annotation, type) else set()
    return set().union(*map(_types_in, inner))


def _taken_as(types: set[type], value: Any) -> Any:
    """A value, converted for a field whose annotation consists of `types`."""
    if isinstance(value, list | tuple):
        return [_taken_as(types, item) for item in value]
    if types & {str, Path} and not types & {int, float}:
        return written(value)
    if isinstance(value, bool) and types & {int, float} and bool not in types:
        return str(value).lower()
    return value


def _first_problem(
    error: ValidationError, model: type[BaseModel], values: Mapping[str, Any]
) -> str:
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(_without_union_tags(location, values))
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        return f"unknown key {key!r}.{nearest(location[-1], known)} Known: {', '.join(known)}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if problem["type"] == "value_error" and not key:
        return message
    if problem["type"] == "union_tag_invalid":
        context = problem.get("ctx", {})
        tag, expected = context["tag"], context["expected_tags"]
        close = nearest(tag, expected.replace("'", "").split(", "))
        return f"'{key}.kind' should be {expected}, but is {_shown(tag)}.{close}"
    if problem["type"] == "union_tag_not_found":
        return f"'{key}.kind' is missing; add it"
    if problem["type"] == "missing":
        return f"{key!r} is missing; add it"
    hint = "; put it in quotes" if problem["type"] == "string_type" else ""
    return f"{key!r} {message}, but is {_shown(problem['input'])}{hint}"


def _shown(value: object) -> str:
    """A value as messages show it."""
    return printable(repr(value), limit=200)


def _without_union_tags(location: list[str], values: Mapping[str, Any]) -> list[str]:
    """The location as users write it: pydantic adds tags of union members (agent.rl2.clip)."""
    path: list[str] = []
    here: Any = values
    for part in location:
        if isinstance(here, Mapping) and here.get("kind") == part and part not in here:
            continue
        path.append(part)
        here = here.get(part) if isinstance(here, Mapping) else None
    return path


def _known_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys that are allowed at `location`, which includes union tags."""
    here: Any = model
    for part in location:
        if isinstance(here, type) and part in here.model_fields:
            here = here.model_fields[part].annotation
        options = getattr(here, "__args__", ())
        for option in options:
            fields = getattr(option, "model_fields", {})
            if "kind" in fields and fields["kind"].default == part:
                here = option
    return list(getattr(here, "model_fields", {}))
