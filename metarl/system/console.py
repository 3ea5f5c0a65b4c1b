"""Terminals: what is printed on them is text and nothing else."""

from __future__ import annotations

from rich.console import Console


def plain_console(width: int | None = None) -> Console:
    """A console that takes no part of a text for markup: names and messages are not ours."""
    return Console(width=width, markup=False, emoji=False, highlight=False)
