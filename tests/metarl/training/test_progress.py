"""Progress display: texts from elsewhere are no markup, and failures never end the run."""

import io
import sys

import pytest

from metarl.training.progress import Progress

HOSTILE = "cannot read [/data/model] [bold] :smile: \x1b[31m\n$\\frac{" + "x" * 5_000_000
METRICS = {"train/return": 1.0, "train/success": 0.5, "update/[/x]": 1.0}


def progress() -> Progress:
    return Progress("a [/run] \x1b[2J", total_env_steps=10, done_env_steps=0)


def test_messages_are_no_markup(capsys) -> None:
    with progress() as shown:
        shown.note(HOSTILE)
    line = capsys.readouterr().out
    assert line.startswith("cannot read [/data/model] [bold] :smile: \\x1b[31m $\\frac{xxx")
    assert line.count("\n") == 1 and len(line) < 3000


def test_nothing_is_markup_on_a_terminal(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress() as shown:
        shown.note(HOSTILE)
        shown.show(METRICS, iteration=1, env_steps=5)
    out = capsys.readouterr().out
    assert "cannot read [/data/model] [bold] :smile: \\x1b[31m" in out
    assert "a [/run] \\x1b[2J" in out and "[/x]" in out and "\x1b[2J" not in out


def test_lines_that_cannot_be_written_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError("no space left")

    monkeypatch.setattr(sys, "stdout", Full())
    with progress() as shown:
        shown.note("skipped")
        shown.show(METRICS, iteration=1, env_steps=5)


def test_an_output_that_an_environment_closes_ends_nothing(
    capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    with progress() as shown:
        output.close()
        shown.show(METRICS, iteration=1, env_steps=5)
        shown.show(METRICS, iteration=2, env_steps=10)
    assert capfd.readouterr().err.count("training goes on") == 1
