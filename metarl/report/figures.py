"""Pictures of blocks: a PNG on white, and an SVG in the colours of its page."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from metarl.errors import printable
from metarl.report.blocks import Curves, HeatMap, Scatter
from metarl.system.files import written_whole

mpl.use("Agg")

INK, QUIET, PAPER = "#1d2130", "#5c6471", "#fefefd"
"""Colours that no data uses; in an SVG they are replaced by the colours of the page."""
THEME = {INK: "var(--ink)", QUIET: "var(--quiet)", PAPER: "var(--paper)"}
COLORS = ("#2f76c4", "#d9772b", "#2f9a68", "#b452a0", "#7d6bd0", "#8c8f3a", "#5f7d95")
STYLE: Any = {
    "svg.fonttype": "none",
    "text.usetex": False,
    "svg.hashsalt": "metarl",  # the same numbers make the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "grid.color": QUIET,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
}
WRITTEN_CELLS = 400
"""Most cells of a heat map that have numbers in them."""
NAMED_TASKS = 60
"""Most tasks of a heat map that all have labels; with more, rows are lower and labels thinned."""
TALLEST = 12.0  # largest height of a heat map, in inches
PIXEL_ROWS = 1000
"""Most rows of the tallest heat map that have their own pixel."""
LONGEST_LABEL = 33
LINES_INSIDE = 4
"""Most lines whose legend lies inside a chart."""


def svg(block: Curves | HeatMap | Scatter, *, png: Path | None = None) -> str:
    """The picture as SVG text for an HTML page that defines --ink, --quiet and --paper.

    Args:
        png: also writes the picture to this file, on white.
    """
    with mpl.rc_context(STYLE):
        figure = draw(block)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        if png is not None:
            figure.savefig(png, dpi=150, format="png")
        plt.close(figure)
    markup = text.getvalue()
    markup = markup[markup.index("<svg") :]
    for color, variable in THEME.items():
        markup = markup.replace(color, variable)
    # Ids are unique only within a picture.
    for before in ('id="', 'href="#', "url(#"):
        markup = markup.replace(before, f"{before}{block.name}-")
    return markup


@singledispatch
def draw(block: object) -> Figure:
    """The picture of a block."""
    raise TypeError(f"no picture of a {type(block).__name__}")


def as_it_is(text: str) -> str:
    """Text escaped so that matplotlib shows it as is: as no formula, and also in a legend."""
    shown = printable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


@draw.register
def draw_curves(block: Curves) -> Figure:
    """Lines with their intervals."""
    figure, axes = plt.subplots(figsize=(4.6, 3.3), layout="constrained")
    draw_lines(axes, block)
    legend = axes.get_legend()
    if legend is not None and len(names := legend.get_texts()) > LINES_INSIDE:
        handles, labels = axes.get_legend_handles_labels()
        legend.remove()  # it would cover the lines
        figure.set_figheight(3.3 + 0.1 * len(names))
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def draw_lines(axes: Axes, block: Curves) -> None:
    """Draws lines with their intervals on given axes."""
    for line in block.lines:
        if line.style == "quiet":
            axes.plot(line.x, line.y, color=QUIET, alpha=0.35, linewidth=0.8, zorder=1)
            continue
        color = COLORS[line.color % len(COLORS)]
        if line.low is not None and line.high is not None:
            step = "post" if line.style == "steps" else None
            # None becomes NaN, so no band is drawn where there is no interval
            low, high = (np.array(bound, dtype=float) for bound in (line.low, line.high))
            axes.fill_between(line.x, low, high, alpha=0.2, linewidth=0, color=color, step=step)
        axes.plot(
            line.x, line.y, label=as_it_is(line.label), color=color,
            linestyle="--" if line.style == "dashed" else "-",
            drawstyle="steps-post" if line.style == "steps" else "default",
            marker="o" if line.style == "main" and len(line.x) <= 50 else None, markersize=3.5,
        )  # fmt: skip
    if block.log_x:
        axes.set_xscale("symlog", linthresh=100)
    else:
        longest = max((max(line.x) for line in block.lines if line.x), default=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=longest > 1, nbins=8))
    if block.log_y:
        axes.set_yscale("log")
    if block.percent:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid()
    if sum(line.style != "quiet" for line in block.lines) > 1:
        axes.legend(fontsize=8)
    _name(axes, block)


def save_panels(blocks: Sequence[Curves], png: Path, *, title: str, caption: str) -> None:
    """Writes charts side by side as one PNG, on white."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(blocks), figsize=(3.9 * len(blocks), 3.9), layout="constrained", squeeze=False
        )
        for one, block in zip(axes[0], blocks, strict=True):
            draw_lines(one, block)
        figure.suptitle(as_it_is(title), fontsize=11)
        figure.supxlabel(
            textwrap.fill(as_it_is(caption), 55 * len(blocks)), fontsize=7.5, color=QUIET
        )
        with written_whole(png) as partial:
            figure.savefig(partial, dpi=150, format="png")
        plt.close(figure)


def thinned(count: int, *, room: float, each: float) -> range:
    """Numbers of the items that get a label: every n-th, so that all labels fit.

    Args:
        room: room for all labels, in inches.
        each: room of one label, in inches.
    """
    rounding = 1e-9  # labels that just fit must not be thinned because of a rounding error
    return range(0, count, max(1, math.ceil(count * each / max(room, each) - rounding)))


def shortened(text: str) -> str:
    """A label, without its middle if it is too long for a picture."""
    if len(text) <= LONGEST_LABEL:
        return as_it_is(text)
    half = (LONGEST_LABEL - 1) // 2
    return as_it_is(f"{text[:half]}…{text[-half:]}")


@draw.register
def draw_heatmap(block: HeatMap) -> Figure:
    """Table of colours, with numbers in the cells if there are few."""
    values = np.array(block.values)
    rows, columns = values.shape
    cell = 0.17 if rows <= NAMED_TASKS else 0.05
    height = min(1.1 + cell * rows, TALLEST)
    width = min(9.4, 2.9 + 0.42 * columns)
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    low, high = (0.0, 1.0) if block.percent else (float(values.min()), float(values.max()))
    image = axes.imshow(
        values, aspect="auto", cmap="viridis", vmin=low, vmax=high,
        # Rows that share a pixel are averaged, so that no row is left out.
        interpolation="nearest" if rows <= PIXEL_ROWS else "auto",
    )  # fmt: skip
    named = thinned(rows, room=height - 1.1, each=0.17)
    axes.set_yticks(named, [shortened(block.tasks[row]) for row in named], fontsize=7)
    longest = max(len(text) for text in (*block.counts, *block.columns))
    labelled = thinned(columns, room=width - 2.9, each=max(0.3, 0.06 * longest))
    axes.set_xticks(labelled, [as_it_is(block.columns[k]) for k in labelled])
    for k in labelled:
        axes.text(
            k, 1.003, as_it_is(block.counts[k]), transform=axes.get_xaxis_transform(),
            ha="center", va="bottom", fontsize=6.5, color=QUIET,
        )  # fmt: skip
    if values.size <= WRITTEN_CELLS:
        for (row, column), value in np.ndenumerate(values):
            light = (value - low) / max(high - low, 1e-9) > 0.6
            text = f"{100 * value:.0f}" if block.percent else f"{value:.4g}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=6,
                color="black" if light else "white",
            )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    if block.percent:
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(as_it_is(block.x_label))
    axes.set_title(as_it_is(block.title), fontsize=10, pad=18)
    return figure


@draw.register
def draw_scatter(block: Scatter) -> Figure:
    """Points coloured by their values."""
    figure, axes = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
    low, high = block.limits
    points = axes.scatter(
        block.x, block.y, c=block.value, cmap="viridis", vmin=low, vmax=high,
        s=46, edgecolors=QUIET, linewidths=0.6,
    )  # fmt: skip
    figure.colorbar(points, ax=axes, label=as_it_is(block.value_label))
    if block.log_x:
        axes.set_xscale("log")
    if block.x_names is not None:
        axes.set_xticks(range(len(block.x_names)), [shortened(name) for name in block.x_names])
    axes.grid()
    axes.margins(0.08)
    _name(axes, block)
    return figure


def _name(axes: Axes, block: Curves | Scatter) -> None:
    axes.set_title(as_it_is(block.title), fontsize=10)
    axes.set_xlabel(as_it_is(block.x_label))
    axes.set_ylabel(as_it_is(block.y_label))
