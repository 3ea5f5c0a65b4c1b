"""Signals: one stops a command after saving, further ones wait, but the third in a row does not."""

import signal
import subprocess
import sys

import pytest

COMMAND = """
import os, signal, sys
from metarl.system import stopping
stopping.install("command")
def send(name="SIGTERM"):
    os.kill(os.getpid(), getattr(signal, name))
{importing}
from metarl.system.command_line import one_line_errors
with one_line_errors("command"):
    {running}
"""


def run(running: str, *, importing: str = "") -> tuple[int, list[str], list[str]]:
    """Exit code, lines of output and lines of errors of a command."""
    text = COMMAND.format(importing=importing, running=running.replace("\n", "\n    "))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_with_a_line(name: str) -> None:
    stopped = (130, [], ["command: stopped"])
    assert run("print('not reached')", importing=f"send('{name}')") == stopped
    assert run(f"send('{name}')\nprint('not reached')") == stopped


def test_further_signals_wait_for_cleanup() -> None:
    code, out, err = run("try:\n    send()\nfinally:\n    send()\n    print('saved')")
    assert (code, out, err) == (130, ["saved"], ["command: stopped"])


def test_three_in_a_row_do_not_wait() -> None:
    code, out, err = run("try:\n    send()\nfinally:\n    send()\n    send()\n    print('no')")
    assert (code, out, err) == (130, [], ["command: stopped by force"])


def test_a_signal_waits_for_what_is_deferred() -> None:
    """A pending signal interrupts interruptible parts within it, also if it came earlier."""
    code, out, err = run(
        "with stopping.deferred():\n"
        "    send()\n"
        "    print('written')\n"
        "    with stopping.interruptible():\n"
        "        print('not reached')"
    )
    assert (code, out, err) == (130, ["written"], ["command: stopped"])


def test_work_that_is_done_ends_as_done() -> None:
    assert run("with stopping.deferred():\n    send()\nprint('done')") == (0, ["done"], [])


def test_an_exception_that_is_swallowed_stops_at_the_next_chance() -> None:
    """As in a callback of compiled code, through which Python cannot raise."""
    code, out, err = run(
        "with stopping.deferred():\n"
        "    for number in range(5):\n"
        "        with stopping.interruptible():\n"
        "            try:\n"
        "                send()\n"
        "            except BaseException:\n"
        "                pass\n"
        "        print('not counted')"
    )
    assert (code, out, err) == (130, [], ["command: stopped"])


def test_what_was_interrupted_may_fail_in_its_own_way() -> None:
    code, _, err = run(
        "try:\n    send()\nexcept KeyboardInterrupt:\n    raise ImportError('half a module')"
    )
    assert (code, err) == (130, ["command: stopped"])


def test_who_is_to_ignore_a_signal_ignores_it() -> None:
    text = COMMAND.format(importing="send('SIGHUP')", running="print('done')")
    ignoring = f"import signal\nsignal.signal({int(signal.SIGHUP)}, signal.SIG_IGN)\n" + text
    done = subprocess.run([sys.executable, "-c", ignoring], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")
