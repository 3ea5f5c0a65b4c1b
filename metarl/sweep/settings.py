"""Settings of a sweep: which values are tried, on which seeds, and what they are judged by."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from metarl.config import Config, Count
from metarl.errors import UserError, printable
from metarl.system.plain_yaml import plain, read_argument, written
from metarl.training.settings import Name

MOST = 1000
"""Most seeds, and most values of a key."""
RESERVED = {
    "name": "names of trials follow from their values",
    "seed": "give --seeds",
    "env.fold": "give --folds",
    "env.folds": "give --folds",
}
"""Keys that a sweep sets itself, and what to do instead of setting them."""
FORMS = "log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH or choice:A,B,C"


class SweepSettings(Config):
    """What a sweep is. The same command gives the same settings, except `id`."""

    name: Name
    """Name of the config, without its folder."""
    seeds: str = "1"
    """Seeds of every trial, such as 1-5 or 1,3,7."""
    set: dict[str, str] = Field(default={})
    """For each key, the values of the grid, as they were given."""
    search: dict[str, str] = Field(default={})
    """For each key, the range that is searched, as it was given."""
    trials: Count | None = None
    """Trials of each search."""
    folds: int | None = Field(default=None, ge=2, le=MOST)
    """Folds of cross-validation over classes."""
    objective: str | None = None
    """The training metric that trials are judged by; None for its default."""
    minimize: bool = False
    """True if lower is better."""
    prune: bool = True
    """True if trials of a search that are worse than most end early."""
    storage: str | None = None
    """Storage of a search's trials; None for a file in the sweep's folder."""
    id: str = Field(default_factory=lambda: secrets.token_hex(8))
    """What tells apart two folders that share a storage."""

    def difference(self, other: SweepSettings) -> str:
        """The first setting that differs, in words; '' if none does. A search can be made longer,
        and a grid be judged by something else: these settings may differ."""
        may = {"id", "trials"} if self.search else {"id", "objective", "minimize"}
        for name in type(self).model_fields:
            here, there = getattr(self, name), getattr(other, name)
            if here != there and name not in may:
                return f"{name} {_said(here)}, not {_said(there)}"
        return ""


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return printable(" ".join(f"{key}={text}" for key, text in value.items()) or "nothing")
    return printable("nothing" if value is None else value)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A range of numbers; both ends belong to it."""

    scale: Literal["log", "uniform", "int"]
    low: float | int
    high: float | int

    def ends(self) -> list[Any]:
        """Values that every other one lies between."""
        return [self.low, self.high]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Some values without an order."""

    values: list[Any]

    def ends(self) -> list[Any]:
        """All values."""
        return self.values


Range = Numbers | Choice


def assignments(given: Sequence[str], *, option: str) -> dict[str, str]:
    """`KEY=TEXT` arguments as a mapping; a dash in a key stands for an underscore.

    Raises:
        UserError: one has no key or no text, a key is given twice, or the sweep sets it itself.
    """
    found: dict[str, str] = {}
    for argument in given:
        name, separator, text = argument.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if not separator or not all(part.isidentifier() for part in key.split(".")):
            raise UserError(f"{option} takes KEY=…, not {printable(argument)!r}")
        if not text.strip():
            raise UserError(f"{option} {key} has no values; give it at least one")
        if key in RESERVED:
            raise UserError(f"{option} {key}: a sweep sets this itself; {RESERVED[key]}")
        if key in found:
            raise UserError(f"{option} {key} is given twice; put all its values into one")
        found[key] = text
    return found


def check_apart(keys: Sequence[str]) -> None:
    """Checks that no key is given twice, and none lies inside another.

    Raises:
        UserError: one is or does; names it.
    """
    for number, key in enumerate(keys):
        for other in (*keys[:number], *keys[number + 1 :]):
            if key == other:
                raise UserError(f"{key} is set and searched; leave one of them out")
            if other.startswith(f"{key}."):
                raise UserError(
                    f"{key} and {other} are given both; put all values into one of them"
                )


def seeds_of(text: str) -> list[int]:
    """The seeds that a text such as `1-5` or `1,3,7` names.

    Raises:
        UserError: it names none, one of them twice, or too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part, re.ASCII)
        if match is None:
            raise UserError(f"--seeds {printable(text)!r} should be like 1-5 or 1,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"--seeds {first}-{last} is empty; give the lower seed first")
        if len(seeds) + last - first >= MOST:
            raise UserError(f"--seeds {printable(text)} are more than {MOST:,}; give fewer")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {printable(text)} names a seed twice; name each once")
    return seeds


def values_of(text: str, *, source: str) -> list[Any]:
    """The values in a text such as `3e-4,1e-3` or `[32, 32],[64]`; each is read as YAML.

    Raises:
        UserError: there are none, one is given twice, or they are too many.
    """
    values = read_argument(f"[{text}]", source=source)
    if not isinstance(values, list):
        raise UserError(f"{source} {printable(text)} should be values with a comma between two")
    if not values or None in values:
        raise UserError(f"{source} {printable(text)} has a value that says nothing; leave it out")
    if len({json.dumps(value) for value in values}) < len(values):
        raise UserError(f"{source} {printable(text)} has a value twice; give each once")
    if len(values) > MOST:
        raise UserError(f"{source} has more than {MOST:,} values; give fewer")
    return values


def range_of(text: str, *, source: str) -> Range:
    """The range that a text such as `log:1e-4:1e-2` names.

    Raises:
        UserError: it is no range, or an empty one.
    """
    scale, _, rest = text.partition(":")
    if scale == "choice":
        values = values_of(rest, source=source)
        if any(isinstance(value, list | dict) for value in values):
            raise UserError(f"{source}: a choice is a number or a word; give lists with --set")
        return Choice(values=[_bare(value) for value in values])
    ends = [plain(part) for part in rest.split(":")]
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    if scale not in ("log", "uniform", "int") or len(ends) != 2 or len(numbers) != 2:
        raise UserError(f"{source} should be {FORMS}, not {printable(text)!r}")
    low, high = (_bare(end) for end in numbers)
    if not low < high:
        raise UserError(f"{source} {printable(text)} is empty; give the lower end first")
    if scale == "log" and low <= 0:
        raise UserError(f"{source} {printable(text)}: a log range begins above 0")
    if scale == "int" and not (isinstance(low, int) and isinstance(high, int)):
        raise UserError(f"{source} {printable(text)}: ends of an int range are whole numbers")
    if not abs(low) + abs(high) < float("inf"):
        raise UserError(f"{source} {printable(text)} is endless; give both ends")
    if scale == "int":
        return Numbers(scale=scale, low=low, high=high)
    return Numbers(scale=scale, low=float(low), high=float(high))


def _bare(value: Any) -> Any:
    """A value as a plain number; numbers that were read remember their text, which databases do
    not take."""
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def as_argument(value: Any) -> str:
    """A value as a command line takes it: `read_argument` gives the value back."""
    text = written(value)
    if isinstance(text, str) and not isinstance(value, str):
        return text  # a number, as it was typed
    return json.dumps(value, ensure_ascii=False)


def said_value(value: Any) -> str:
    """A value as people read it: as it was typed, or with three digits if it was drawn."""
    text = written(value)
    if isinstance(text, str):
        return printable(text)
    return f"{value:.3g}" if isinstance(value, float) else printable(value)
