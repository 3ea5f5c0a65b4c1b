"""Imports go one way: metarl <- {envs, agents} <- train.py, evaluate.py."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "metarl": {"envs", "agents", "train", "evaluate"},
    "envs": {"agents", "train", "evaluate"},
    "agents": {"envs", "train", "evaluate"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, inside functions too."""
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


def test_every_package_that_is_imported_is_declared() -> None:
    """Meta-World imports `packaging` and does not declare it: a clean install of it fails."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = " ".join(project["dependencies"]).lower().replace("-", "_")
    assert "packaging" in declared
    on_gpus = (ROOT / "requirements-gpu.txt").read_text().lower().replace("-", "_")
    known = {"yaml": "pyyaml", "PIL": "pillow", "sklearn": "scikit_learn", "warp": "warp_lang"}
    for package in FORBIDDEN:
        for path in (ROOT / package).rglob("*.py"):
            for_gpus = path.parent.name == "warp_engine" or path.name in ("warp.py", "doctor.py")
            for name in imported(path) - set(FORBIDDEN):
                if name in __import__("sys").stdlib_module_names:
                    continue
                allowed = declared + on_gpus if for_gpus else declared
                assert known.get(name, name) in allowed, f"{path} imports {name}"
