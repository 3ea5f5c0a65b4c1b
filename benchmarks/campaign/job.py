"""Process that carries out attacks one after the other, as ordered on stdin.

python benchmarks/campaign/job.py PROJECT FOLDER SECONDS
"""

import gc
import importlib
import json
import os
import random
import shutil
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ("train", "evaluate")
LATE = (
    "torch._dynamo",
    "torch.utils.tensorboard.writer",
    "torch.utils.tensorboard.summary",
    "tensorboard.plugins.hparams.metadata",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
)
"""Modules that the programs import late, if they import torch."""


def main(project: Path, base: Path, patience: float) -> None:
    """Answers every line on stdin (an attack) with a line (its verdict)."""
    # The project comes first on the path, except for this package, which can attack other
    # checkouts.
    sys.path[:] = [str(ROOT), *sys.path[1:]]
    from benchmarks.campaign import commands, experiments
    from benchmarks.campaign.campaigns import CAMPAIGNS

    sys.path[0] = str(project)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    commands.adopt_orphans()
    for names in (PROGRAMS, LATE):
        for name in names if names is PROGRAMS or "torch" in sys.modules else ():
            with suppress(Exception):  # a command that needs it reports the error
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that forks do not touch, and copy, existing objects
    place = experiments.Place(base, project, patience)
    for line in sys.stdin:
        order = json.loads(line)
        campaign = CAMPAIGNS[order["campaign"]]
        place.folder = base / f"{order['campaign']}-{order['number']}" / "a" / "b" / "c"
        place.folder.mkdir(parents=True)
        rng = random.Random(f"{order['seed']}/{order['campaign']}/{order['number']}")
        started = time.monotonic()
        try:
            verdict = asdict(campaign.attack(order["number"], rng, place))
        except Exception:
            verdict = {"broken": traceback.format_exc()}
        if not order["keep"]:
            shutil.rmtree(place.folder.parents[2], ignore_errors=True)
        answers.write(json.dumps({"seconds": time.monotonic() - started, **verdict}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
