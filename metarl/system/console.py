"""Consoles that print plain text."""

from __future__ import annotations

from rich.console import Console


def plain_console(width: int | None = None) -> Console:
    """A console that interprets no markup: names and messages may contain brackets."""
    return Console(width=width, markup=False, emoji=False, highlight=False)
