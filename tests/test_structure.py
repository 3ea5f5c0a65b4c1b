"""Imports go one way: metarl <- {envs, agents} <- train.py, evaluate.py, and down in metarl."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "metarl": {"envs", "agents", "train", "evaluate"},
    "envs": {"agents", "train", "evaluate"},
    "agents": {"envs", "train", "evaluate"},
}


FLOORS = (
    ("errors", "renames", "tasks"),
    ("types",),
    ("protocols",),
    ("system",),
    ("config",),
    ("nn",),
    ("learning", "rollout"),
    ("gradient_steps", "visual"),
    ("doctor", "training"),
    ("check_agent",),
    ("evaluation",),
    ("report",),
    ("sweep", "show"),
    ("__main__",),
)
"""Rooms of `metarl`, lowest first; each imports only from itself and from floors below."""


def imported(path: Path) -> set[str]:
    """Top-level names of all imports of a file, including those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & FORBIDDEN[package], path


def rooms_imported(path: Path) -> set[str]:
    """Rooms of `metarl` that one of its files imports from, including imports inside functions."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("metarl") for alias in node.names), path
        elif isinstance(node, ast.ImportFrom) and node.module:
            package, *room = node.module.split(".")
            if package == "metarl":
                rooms |= {room[0]} if room else {alias.name for alias in node.names}
    return rooms


def test_inside_metarl_imports_go_down() -> None:
    below: set[str] = set()
    for floor in FLOORS:
        for room in floor:
            place = ROOT / "metarl" / room
            files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
            for path in files:
                assert rooms_imported(path) <= below | {room}, path
        below |= set(floor)
    # By their files: what Python cached of a room that has gone may still lie there.
    found = {path.relative_to(ROOT / "metarl").parts[0] for path in (ROOT / "metarl").rglob("*.py")}
    found = {name.removesuffix(".py") for name in found} - {"__init__"}
    assert found == below, "a room has no floor yet"


def test_every_package_that_is_imported_is_declared() -> None:
    """Meta-World imports `packaging` without declaring it, so a clean install of it fails."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = " ".join(project["dependencies"]).lower().replace("-", "_")
    assert "packaging" in declared
    of_searches = " ".join(project["optional-dependencies"]["sweep"])
    on_gpus = (ROOT / "requirements-gpu.txt").read_text().lower().replace("-", "_")
    known = {"yaml": "pyyaml", "PIL": "pillow", "sklearn": "scikit_learn", "warp": "warp_lang",
             "pydantic_core": "pydantic"}  # fmt: skip
    for package in FORBIDDEN:
        for path in (ROOT / package).rglob("*.py"):
            for_gpus = path.parent.name == "warp_engine" or path.name in ("warp.py", "doctor.py")
            for name in imported(path) - set(FORBIDDEN):
                if name in __import__("sys").stdlib_module_names:
                    continue
                allowed = declared + on_gpus if for_gpus else declared
                if path.parent.name == "sweep":
                    allowed += of_searches
                assert known.get(name, name) in allowed, f"{path} imports {name}"


def test_adapt_is_imported_without_what_it_does_not_need() -> None:
    check = (
        "import sys; from metarl import adapt; unwanted = {'av', 'matplotlib', 'envs', 'agents'}; "
        "sys.exit(len(unwanted & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
