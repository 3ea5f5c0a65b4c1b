"""All benchmarks run by `python -m benchmarks.NAME`, as their docstrings say."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import benchmarks

ROOT = Path(benchmarks.__file__).parents[1]
FILES = sorted((ROOT / "benchmarks").glob("[a-z]*.py"))
PROGRAMS = [path for path in FILES if '__name__ == "__main__"' in path.read_text("utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_benchmark_imports_as_part_of_the_package(path: Path) -> None:
    importlib.import_module(f"benchmarks.{path.stem}")
    neighbours = {path.stem for path in FILES} - {"train"}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.partition(".")[0] for name in names} & neighbours, "as a script would"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_the_head_of_a_program_says_how_it_is_called(path: Path) -> None:
    text = path.read_text("utf-8")
    assert re.search(
        r"^(\w+=\S+ )?python -m benchmarks\.\w+", ast.get_docstring(ast.parse(text)) or "", re.M
    )
    assert f'one_line_errors("benchmarks.{path.stem}")' in text


def test_what_is_documented_is_there() -> None:
    pages = [page for room in (".", "docs", "results/**") for page in ROOT.glob(f"{room}/*.md")]
    assert ROOT / "README.md" in pages and ROOT / "docs/speed.md" in pages
    programs = {path.stem for path in PROGRAMS} | {"campaign"}
    for page in pages:
        text = page.read_text("utf-8")
        assert not re.search(r"python benchmarks/", text), page
        for name in re.findall(r"python -m benchmarks\.(\w+)", text):
            assert name in programs | {"NAME"}, f"{page}: {name}"
