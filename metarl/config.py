"""Configs: frozen pydantic models that come from YAML and from the command line.

Every mistake, wherever it was made, becomes one line that names the key, what is wrong and what is
allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from metarl.errors import UserError, nearest

C = TypeVar("C", bound="Config")

Positive = Annotated[float, Field(gt=0, lt=1e30)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """Base of all configs: cannot be changed, knows no key that it does not declare."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    choices: ClassVar[Mapping[str, str]] = {}
    """What there is to choose from: values of a field, such as `variant=…`, with a line on each."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = [str(p) for p in sorted(path.parent.glob("*.yaml"))]
        raise UserError(f"no config file {path}.{nearest(str(path), known)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path} as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold 'key: value' lines, not a {type(values).__name__}")
    return values


def write_yaml(config: Config, path: Path) -> None:
    """Writes every value of `config`, defaults too, so that it means the same in later versions."""
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
    )


def validate(model: type[C], values: Mapping[str, Any], *, source: str) -> C:
    """A config of type `model` from plain values.

    Raises:
        UserError: naming `source`, the first wrong key and what is allowed there.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{source}: {_first_problem(error, model, values)}") from None


def split_command_line(
    arguments: Sequence[str], *, switches: Sequence[str] = ()
) -> tuple[list[str], dict[str, Any]]:
    """Positional arguments, and options as dotted keys: `--agent.learning-rate 3e-4` is
    `{"agent.learning_rate": …}`. Values are read as YAML; `switches` take no value.

    Raises:
        UserError: an option without its value, or given twice.
    """
    positional: list[str] = []
    options: dict[str, Any] = {}
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--"):
            positional.append(argument)
            continue
        name, has_value, text = argument[2:].partition("=")
        key = name.replace("-", "_")
        if key in options:
            raise UserError(f"--{name} is given twice; give it once")
        if has_value:
            options[key] = _scalar(text)
        elif key in switches:
            options[key] = True
        elif remaining and not remaining[0].startswith("--"):
            options[key] = _scalar(remaining.pop(0))
        else:
            raise UserError(f"--{name} needs a value: --{name} VALUE")
    return positional, options


def flag(name: str) -> str:
    """A field as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def given_options(config: Config) -> list[str]:
    """The fields that were given, and not to switch something off."""
    fields = type(config).model_fields
    return [n for n in fields if n in config.model_fields_set and getattr(config, n) is not False]


def override(values: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with dotted `options` put in place."""
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


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


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
        return f"'{key}.kind' should be {expected}, but is {tag!r}.{close}"
    if problem["type"] == "union_tag_not_found":
        return f"'{key}.kind' is missing; add it"
    if problem["type"] == "missing":
        return f"{key!r} is missing; add it"
    return f"{key!r} {message}, but is {problem['input']!r}"


def _without_union_tags(location: list[str], values: Mapping[str, Any]) -> list[str]:
    """pydantic names the member of a union inside a location (agent.rl2.clip); users do not."""
    path: list[str] = []
    here: Any = values
    for part in location:
        if isinstance(here, Mapping) and here.get("kind") == part and part not in here:
            continue
        path.append(part)
        here = here.get(part) if isinstance(here, Mapping) else None
    return path


def _known_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys that are allowed at `location`, union tags included."""
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
