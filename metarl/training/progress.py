"""Progress of a training run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from metarl.errors import MESSAGE_LIMIT, note, printable
from metarl.system.command_line import take_any_output
from metarl.system.console import plain_console

RETURN_AND_SUCCESS = {"return": ".1f", "success": ".0%"}


class Progress:
    """Display of a run's progress, its speed and the agent's scores.

    `unit` names what is counted; `shown` maps each displayed metric to its format. A metric with
    values for the first and the last episode of a trial shows both. On a terminal the display stays
    in place; elsewhere a line is printed at most every `line_seconds` seconds, and always for the
    first and the last iteration. Lines that cannot be written are dropped: they must not end a run.
    A quiet one shows only notes.
    """

    def __init__(
        self,
        title: str,
        *,
        total_env_steps: int,
        done_env_steps: int,
        unit: str = "env steps",
        shown: Mapping[str, str] = RETURN_AND_SUCCESS,
        line_seconds: float = 10.0,
        quiet: bool = False,
    ) -> None:
        self._title = printable(title)
        self._unit = unit
        self._shown = shown
        self._total = total_env_steps
        self._first = done_env_steps
        self._started = time.monotonic()
        self._line_seconds = line_seconds
        self._last_line = float("-inf")
        self._console = plain_console()
        self._live: Live | None = None
        self._failed = False
        self._quiet = quiet

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
            self._live.update(f"{self._title}: the first iteration …")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            with self._or_go_on_without():
                self._live.stop()

    def show(self, metrics: dict[str, float], *, iteration: int, env_steps: int) -> None:
        """Shows the newest iteration's metrics."""
        if self._quiet:
            return
        with self._or_go_on_without():
            self._show(metrics, iteration, env_steps)

    def note(self, text: str) -> None:
        """Prints a line that stays, above the display if there is one."""
        with self._or_go_on_without():
            line = printable(text, limit=MESSAGE_LIMIT)
            if self._live is not None:
                self._console.print(line, soft_wrap=True)
            else:
                print(line, flush=True)

    @contextmanager
    def _or_go_on_without(self) -> Iterator[None]:
        """Ignores failures of the output, except a broken pipe.

        A full disk, a vanished terminal or an output that an environment closed must not stop the
        run; `| head` is meant to.
        """
        try:
            yield
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not sys.stdout.closed:
                raise
            take_any_output()
            if not self._failed:
                self._failed = True
                note(f"no progress can be shown, training goes on: {error}")

    def _show(self, metrics: dict[str, float], iteration: int, env_steps: int) -> None:
        elapsed = time.monotonic() - self._started
        speed = (env_steps - self._first) / max(elapsed, 1e-9)
        left = _clock((self._total - env_steps) / max(speed, 1e-9))
        if self._live is not None:
            self._live.update(self._table(metrics, iteration, env_steps, speed, left))
        elif elapsed - self._last_line >= self._line_seconds or env_steps >= self._total:
            self._last_line = elapsed
            scores = [f"  {name} {_shown(metrics, name, f)}" for name, f in self._shown.items()]
            print(
                f"{100 * env_steps / self._total:3.0f} %  iteration {iteration}"
                f"  {self._unit} {env_steps:,}  {speed:,.0f}/s  left {left}{''.join(scores)}",
                flush=True,
            )

    def _table(
        self, metrics: dict[str, float], iteration: int, env_steps: int, speed: float, left: str
    ) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(self._title, ProgressBar(total=self._total, completed=env_steps, width=40))
        rows = {
            "iteration": f"{iteration}",
            self._unit: f"{env_steps:,} of {self._total:,}",
            "speed": f"{speed:,.0f} {self._unit} per second, {left} left",
        }
        for name, format_ in self._shown.items():
            episodes = ", first → last episode" if f"{name}/first_episode" in metrics else ""
            rows[f"{name}{episodes}"] = _shown(metrics, name, format_)
        for name, value in rows.items():
            table.add_row(name, value)
        for name, value in metrics.items():
            if name.startswith("update/"):
                table.add_row(name.removeprefix("update/").replace("_", " "), f"{value:.4g}",
                              style="dim")  # fmt: skip
        return table


def _shown(metrics: Mapping[str, float], name: str, format_: str) -> str:
    if f"{name}/first_episode" not in metrics:
        return f"{metrics[f'train/{name}']:{format_}}"
    first, last = metrics[f"{name}/first_episode"], metrics[f"{name}/last_episode"]
    return f"{first:{format_}} → {last:{format_}}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
