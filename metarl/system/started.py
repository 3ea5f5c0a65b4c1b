"""How this program was started: by a script of a checkout, or by the command `metarl`.

The scripts lie beside the packages, also where those are installed, and the command runs the same
ones: what differs is what a user types, and so what messages name. Only the standard library is
imported here, so that this module can come before slow imports.
"""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(__file__).parents[2]
"""Folder of train.py, evaluate.py and configs/: that of the packages, also where they are
installed."""
TYPED = {
    "python train.py": "metarl train",
    "python evaluate.py": "metarl evaluate",
    "python -m metarl.doctor": "metarl doctor",
    "python -m metarl.sweep": "metarl sweep",
    "python -m metarl.check_agent": "metarl check-agent",
}
"""What a user of the command types in place of each script."""
VARIABLE = "METARL_STARTED_BY_COMMAND"
"""Environment variable, as processes that the command starts print messages too."""


def run(script: str, arguments: Sequence[str]) -> None:
    """Runs a script by its path, as `python SCRIPT ARGUMENTS` would, for a user of the command.

    Nothing in the current folder can take the place of the script or of what it imports.
    """
    os.environ[VARIABLE] = "1"
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder with `python -m metarl`, else that of the command
    sys.path.insert(0, str(SCRIPTS))
    path = str(SCRIPTS / script)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def typed(text: str) -> str:
    """A text in which the scripts are named as this user starts them."""
    if VARIABLE in os.environ:
        for script, command in TYPED.items():
            text = text.replace(script, command)
    return text
