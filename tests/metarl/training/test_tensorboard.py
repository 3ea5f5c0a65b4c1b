"""TensorBoard's view of a resumed run, and failures to write event files."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.training import tensorboard as board
from metarl.training.tensorboard import Board


def shown(folder: Path) -> list[tuple[int, float]]:
    """Step and value of each point of a line, as TensorBoard loads the folder."""
    events = EventAccumulator(str(folder)).Reload().Scalars("a/b")
    times = [event.wall_time for event in events]
    assert times == sorted(times)
    return [(event.step, event.value) for event in events]


def train(folder: Path, steps: range, *, value: float) -> None:
    events = Board(folder, first_step=steps[0])
    for step in steps:
        events.show({"a/b": value, "return/last_episode": value}, env_steps=step)
    events.close()


@pytest.mark.parametrize("hours", [1, 0, -1, -9000])
def test_the_clock_does_not_hide_what_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Nor does resuming within the same second; unsaved iterations are replaced."""
    train(tmp_path, range(1, 5), value=1.0)
    now = board.time.time() + 3600 * hours
    monkeypatch.setattr(board.time, "time", lambda: now)
    train(tmp_path, range(3, 7), value=2.0)
    train(tmp_path, range(7, 8), value=3.0)
    expected = [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2), (7, 3)]
    assert shown(tmp_path) == expected
    line = EventAccumulator(str(tmp_path / "last_episode")).Reload().Scalars("adaptation/return")
    assert [(event.step, event.value) for event in line] == expected


def test_a_board_that_cannot_be_written_says_so_once(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "a file"
    folder.touch()
    events = Board(folder, first_step=1)
    events.show({"a/b": 1.0}, env_steps=1)
    events.show_hyperparameters({"x": 1}, {"a/b": 1.0})
    events.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert "goes on without" in line and str(folder) in line
