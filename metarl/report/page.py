"""Writing of a report: one self-contained HTML page, pictures as PNG, numbers as JSON and CSV."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import jinja2
from markupsafe import Markup
from pydantic import BaseModel

from metarl.errors import UserError, note
from metarl.report.blocks import Report, Rollouts, Table
from metarl.report.figures import svg
from metarl.system.files import read_json, written_whole

HERE = Path(__file__).parent


def write_report(
    folder: Path, report: Report, rollouts: Rollouts | None = None, *, name: str = "report"
) -> Path:
    """Writes `report.html` and its files into a folder, in place of an earlier report.

    Args:
        rollouts: files in the folder; the page contains copies of them.
        name: name of the page, and of its numbers as JSON, in place of `report`.

    Returns:
        Path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / f"{name}.json"
    for block in names_of_blocks(stored):
        for file in (folder / f"{block}.csv", folder / f"{block}.png"):
            file.unlink(missing_ok=True)
    pictures: dict[str, str] = {}
    for block in (block for section in report.sections for block in section.blocks):
        with (folder / f"{block.name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(block.rows())
        if not isinstance(block, Table):
            pictures[block.name] = svg(block, png=folder / f"{block.name}.png")
    with written_whole(stored) as partial:
        partial.write_text(json.dumps(asdict(report), indent=1), encoding="utf-8")
    page = folder / f"{name}.html"
    with written_whole(page) as partial:
        partial.write_text(render(report, pictures, rollouts, folder=folder), encoding="utf-8")
    return page


class _Block(BaseModel):
    name: str


class _Section(BaseModel):
    blocks: list[_Block]


class _Earlier(BaseModel):
    """The part of an earlier `report.json` that is read."""

    sections: list[_Section]


def names_of_blocks(stored: Path) -> list[str]:
    """Names of the files of an earlier report; empty if there is no readable one."""
    try:
        report = read_json(stored, _Earlier)
    except FileNotFoundError:
        return []
    except UserError as error:
        note(f"{error}; earlier pictures and tables are kept")
        return []
    names = [block.name for section in report.sections for block in section.blocks]
    return [name for name in names if Path(name).name == name]


def render(
    report: Report, pictures: Mapping[str, str], rollouts: Rollouts | None, *, folder: Path
) -> str:
    """The page as text; pictures are SVG, rollouts are read from the folder."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = cell
    template = environment.from_string((HERE / "page.html").read_text(encoding="utf-8"))
    films = rollouts.films if rollouts else []
    return template.render(
        report=report,
        pictures={name: Markup(markup) for name, markup in pictures.items()},
        rollouts=rollouts,
        films=[(film, data_address(folder / film.file, "video/mp4")) for film in films],
        replay=in_text(folder / rollouts.replay) if rollouts else None,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
    )


def cell(value: str | float | int | None) -> str:
    """Text of a table's cell."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else value


def in_text(path: Path) -> str:
    """The content of a file in base64."""
    return base64.b64encode(path.read_bytes()).decode()


def data_address(path: Path, kind: str) -> str:
    """The content of a file as a data URL."""
    return f"data:{kind};base64,{in_text(path)}"
