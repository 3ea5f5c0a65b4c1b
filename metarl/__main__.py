"""The command `metarl`, also as `python -m metarl`: what a checkout's scripts do, from anywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from metarl.errors import UserError, nearest, printable
from metarl.system.command_line import one_line_errors
from metarl.system.started import run


class Command(NamedTuple):
    """A command: the script that it runs, arguments that come first, and what it does."""

    script: str
    first: Sequence[str]
    what: str


COMMANDS = {
    "train": Command("train.py", [], "trains an agent: metarl train rl2_bandit --seed 3"),
    "evaluate": Command("evaluate.py", [], "measures how fast a trained agent adapts"),
    "show": Command("metarl/show.py", [], "shows where a run stands, and how to go on"),
    "list": Command("train.py", ["--list"], "lists task distributions and experiments"),
    "sweep": Command("metarl/sweep/__main__.py", [], "trains many runs and compares them"),
    "doctor": Command("metarl/doctor.py", [], "checks what works on this machine"),
    "check-agent": Command("metarl/check_agent.py", [], "checks an algorithm of your own"),
}


def print_help() -> None:
    """Prints every command, one line each."""
    print("metarl COMMAND …; metarl COMMAND --help says more\n")
    for name, command in COMMANDS.items():
        print(f"  {name:12}  {command.what}")


def chosen(arguments: Sequence[str]) -> Command | None:
    """The command that the first argument names; None if only help is wanted.

    Raises:
        UserError: there is no such command.
    """
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        return None
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        raise UserError(f"no command {printable(repr(name))}.{close} metarl --help lists all")
    return COMMANDS[name]


def main() -> None:
    """Runs the command line."""
    with one_line_errors("metarl"):
        command = chosen(sys.argv[1:])
        if command is None:
            print_help()
    if command is not None:
        run(command.script, [*command.first, *sys.argv[2:]])


if __name__ == "__main__":
    main()
