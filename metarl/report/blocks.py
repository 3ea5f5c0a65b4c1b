"""Blocks of a report: labelled numbers, from which its pictures and files are made.

All content of a report comes from these blocks, and all of them are stored as JSON and CSV.
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
    """One line of a chart, optionally with an interval around it."""

    label: str
    x: list[float]
    y: list[float]
    low: list[float | None] | None = None
    """Lower ends of the intervals; None for a point without one."""
    high: list[float | None] | None = None
    style: Literal["main", "dashed", "steps", "quiet"] = "main"
    """How it is drawn; a quiet line is one of many, thin, grey and without its label."""
    color: int = 0
    """Number of the colour; lines of one colour belong together."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Lines over a common x axis."""

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
        """The block as a table, one row per point of every line."""
        yield ["line", self.x_label, self.y_label, "low", "high"]
        for line in self.lines:
            nothing = [None] * len(line.x)
            for point in zip(
                line.x, line.y, line.low or nothing, line.high or nothing, strict=True
            ):
                yield [line.label, *point]


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Table of colours, with tasks as rows."""

    name: str
    title: str
    x_label: str
    columns: list[str]
    tasks: list[str]
    values: list[list[float]]
    counts: list[str]
    """Texts above the columns."""
    percent: bool = False
    kind: Literal["heatmap"] = "heatmap"

    def rows(self) -> Iterator[list[Cell]]:
        """The block as a table, one row per task."""
        yield ["task", *self.columns]
        for task, values in zip(self.tasks, self.values, strict=True):
            yield [task, *values]


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Points coloured by a value, such as tasks at their goals."""

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
    log_x: bool = False
    x_names: list[str] | None = None
    """Names of x = 0, 1, …, where x counts things without an order."""
    kind: Literal["scatter"] = "scatter"

    def rows(self) -> Iterator[list[Cell]]:
        """The block as a table, one row per point."""
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
        """All cells without the header."""
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
    """Name of the file beside the report."""


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Replay and videos of rollouts; their files lie beside the report."""

    text: str
    """Description of the rollouts and of their selection."""
    replay: str
    """Name of the page of the interactive replay."""
    films: list[Film]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report."""

    title: str
    headlines: dict[str, str]
    """The most important numbers, by their names."""
    sections: list[Section]
    protocol: dict[str, str]
    """Details of the measurement, by their names."""

    def legend(self) -> dict[str, str]:
        """Explanations of the signs in its headlines and tables."""
        blocks = (block for section in self.sections for block in section.blocks)
        tables = [block for block in blocks if isinstance(block, Table)]
        return legend([*self.headlines.values(), *(cell for t in tables for cell in t.cells())])


def legend(cells: Iterable[Cell]) -> dict[str, str]:
    """Explanations of the signs that occur in some cells."""
    occurs = any(NO_INTERVAL in str(cell) for cell in cells)
    return {NO_INTERVAL: WHY_NO_INTERVAL} if occurs else {}


def block_from_json(values: dict) -> Block:
    """A block from its stored values."""
    values = dict(values)
    if "lines" in values:
        values["lines"] = [Line(**line) for line in values["lines"]]
    if "limits" in values:
        values["limits"] = tuple(values["limits"])
    return BLOCKS[values["kind"]](**values)
