"""What a report is made of: labelled numbers, which pictures and files are drawn from.

Everything that a reader sees comes from these blocks, and all of them are stored as JSON and CSV.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from metarl.report.terminal import NO_INTERVAL, WHY_NO_INTERVAL

Cell = str | float | int | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart, perhaps with an interval around it."""

    label: str
    x: list[float]
    y: list[float]
    low: list[float | None] | None = None
    """None for a point without an interval."""
    high: list[float | None] | None = None
    style: Literal["main", "dashed", "steps"] = "main"
    color: int = 0
    """Lines of one colour belong together."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Lines over one axis."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    percent: bool = False
    log_x: bool = False
    log_y: bool = False
    kind: Literal["curves"] = "curves"

    def rows(self) -> Iterator[list[Cell]]:
        """As a table: a row for every point of every line."""
        yield ["line", self.x_label, self.y_label, "low", "high"]
        for line in self.lines:
            nothing = [None] * len(line.x)
            for point in zip(
                line.x, line.y, line.low or nothing, line.high or nothing, strict=True
            ):
                yield [line.label, *point]


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """One colour for each task (row) and each column."""

    name: str
    title: str
    x_label: str
    columns: list[str]
    tasks: list[str]
    values: list[list[float]]
    counts: list[str]
    """What is written above the columns."""
    percent: bool = False
    kind: Literal["heatmap"] = "heatmap"

    def rows(self) -> Iterator[list[Cell]]:
        """As a table: a row for every task."""
        yield ["task", *self.columns]
        for task, values in zip(self.tasks, self.values, strict=True):
            yield [task, *values]


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Tasks by where their goals are, with a value as their colour."""

    name: str
    title: str
    x_label: str
    y_label: str
    value_label: str
    x: list[float]
    y: list[float]
    value: list[float]
    limits: tuple[float, float]
    """Values of the first and the last colour."""
    kind: Literal["scatter"] = "scatter"

    def rows(self) -> Iterator[list[Cell]]:
        """As a table: a row for every task."""
        yield [self.x_label, self.y_label, self.value_label]
        for point in zip(self.x, self.y, self.value, strict=True):
            yield list(point)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text and numbers under a header."""

    name: str
    title: str
    header: list[str]
    body: list[list[Cell]]
    kind: Literal["table"] = "table"

    def rows(self) -> Iterator[list[Cell]]:
        """The header, then the rows."""
        yield [*self.header]
        yield from self.body

    def cells(self) -> Iterator[Cell]:
        """All of them, without the header."""
        return chain.from_iterable(self.body)


Block = Curves | HeatMap | Scatter | Table
BLOCKS: dict[str, type[Block]] = {
    "curves": Curves, "heatmap": HeatMap, "scatter": Scatter, "table": Table
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report under one heading."""

    title: str
    text: str = ""
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Film:
    """A video of a rollout."""

    caption: str
    file: str
    """Beside the report."""


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """What was played, to look at; its files lie beside the report."""

    text: str
    """What is shown, and how it was chosen."""
    replay: str
    """The page of the interactive replay."""
    films: list[Film]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report."""

    title: str
    headlines: dict[str, str]
    """The numbers that a reader wants first, by what they are."""
    sections: list[Section]
    protocol: dict[str, str]
    """How it was measured, by what it is."""

    def legend(self) -> dict[str, str]:
        """Of the signs in its headlines and tables."""
        blocks = (block for section in self.sections for block in section.blocks)
        tables = [block for block in blocks if isinstance(block, Table)]
        return legend([*self.headlines.values(), *(cell for t in tables for cell in t.cells())])


def legend(cells: Iterable[Cell]) -> dict[str, str]:
    """The signs that need to be explained, with what they mean, of those that occur."""
    occurs = any(NO_INTERVAL in str(cell) for cell in cells)
    return {NO_INTERVAL: WHY_NO_INTERVAL} if occurs else {}


def block_from_json(values: dict) -> Block:
    """A block as it was stored."""
    values = dict(values)
    if "lines" in values:
        values["lines"] = [Line(**line) for line in values["lines"]]
    if "limits" in values:
        values["limits"] = tuple(values["limits"])
    return BLOCKS[values["kind"]](**values)
