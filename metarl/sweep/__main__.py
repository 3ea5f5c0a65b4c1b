"""Trains a config with other values and on several seeds, side by side, and compares what came.

python -m metarl.sweep CONFIG --seeds 1-5 --set agent.learning_rate=3e-4,1e-3      a grid
python -m metarl.sweep CONFIG --search agent.entropy_coef=log:1e-4:1e-2 --trials 20
python -m metarl.sweep CONFIG --set agent.clip=0.1,0.2 --folds 5    judged on left-out classes
python -m metarl.sweep --resume FOLDER --jobs 2                     go on where a sweep stopped
python -m metarl.sweep --show FOLDER                                what is known by now

--set and --search can be given several times. Every run is an ordinary one, of `python train.py`.
"""

from __future__ import annotations

from metarl.system import stopping

if __name__ == "__main__":
    stopping.install("metarl.sweep")  # before the imports, which take seconds

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from metarl.config import find_config, validate
from metarl.errors import UserError, note
from metarl.sweep.jobs import Children, lanes_of, side_by_side
from metarl.sweep.lanes import Sweep
from metarl.sweep.objective import Objective, objective_of
from metarl.sweep.page import results_of, tell, write_pages
from metarl.sweep.plan import Plan, make_plan, open_plan
from metarl.sweep.search import Search, check_installed, storage_of
from metarl.sweep.settings import FORMS, SweepSettings, assignments
from metarl.system.command_line import one_line_errors
from metarl.system.console import plain_console
from metarl.system.files import check_can_write
from metarl.system.hardware import num_processors
from metarl.system.started import typed

TRIALS = 20


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = _Parser(
        prog=typed("python -m metarl.sweep"), description=typed(__doc__ or ""), allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("config", nargs="?", type=Path, help="what all trials start from: a file, or a name")
    add("--seeds", metavar="SEEDS", help="seeds of every trial: 1-5, or 1,3,7 (default: 1)")
    add("--set", action="append", default=[], metavar="KEY=V1,V2,…", help="values of a grid")
    add("--search", action="append", default=[], metavar="KEY=RANGE", help=FORMS)
    add("--trials", type=int, help=f"trials of each search (default: {TRIALS})")
    add("--objective", metavar="METRIC",
        help="key of metrics.jsonl, mean over the last tenth of a run (default: "
        "return/last_episode; few-shot learning: train/loss, minimized)")  # fmt: skip
    add("--minimize", action="store_true", help="lower is better")
    add("--folds", type=int,
        help="judge by success on folds of Meta-World's training classes")  # fmt: skip
    add("--no-prune", action="store_true", help="train every trial of a search to its end")
    add("--storage", metavar="URL",
        help="of a search: a database, or journal:FILE (default: optuna.db in the folder)"
        )  # fmt: skip
    add("--folder", type=Path, help="folder of the sweep (default: runs/sweeps/<config>)")
    add("--jobs", type=int, default=1, help="runs at once, each on its own processors (default: 1)")
    add("--resume", type=Path, metavar="FOLDER", help="go on with the sweep in a folder")
    add("--show", type=Path, metavar="FOLDER", help="train nothing; table and page as they are now")
    add("--trust", action="store_true",
        help="with --resume: execute code that the sweep names, even if it was never trained with "
        "here")  # fmt: skip
    return made


def planned(options: argparse.Namespace) -> Plan:
    """The plan that a command line describes; nothing is written yet.

    Raises:
        UserError: something in it is wrong.
    """
    if options.config is None:
        raise UserError("name a config, such as rl2_bandit, or --resume FOLDER")
    base = find_config(options.config)
    search = assignments(options.search, option="--search")
    for option, given in (("--trials", options.trials), ("--storage", options.storage)):
        if given is not None and not search:
            raise UserError(f"{option} is for searches; add --search or leave it out")
    values = {
        "name": base.stem,
        "seeds": options.seeds,
        "set": assignments(options.set, option="--set"),
        "search": search,
        "trials": options.trials if options.trials is not None or not search else TRIALS,
        "folds": options.folds,
        "objective": options.objective,
        "minimize": options.minimize,
        "prune": not options.no_prune,
        "storage": options.storage,
    }
    given = {key: value for key, value in values.items() if value is not None}
    settings = validate(SweepSettings, given, source="the command line")
    folder = options.folder or Path("runs") / "sweeps" / settings.name
    return Plan(folder, settings, base)


def given_plan(options: argparse.Namespace) -> Plan:
    """The plan of a new sweep, checked and stored, or that of an old one.

    Raises:
        UserError: something is wrong; nothing has been trained.
    """
    if (folder := options.resume or options.show) is not None:
        rest = {"resume": options.resume, "show": options.show, "jobs": options.jobs,
                "trust": options.trust}  # fmt: skip
        if vars(options) != vars(parser().parse_args([])) | rest or (
            options.resume and options.show
        ):
            raise UserError("--resume and --show take a sweep as it is; give only --jobs with them")
        return open_plan(folder, trusted=options.trust)
    if options.trust:
        raise UserError("--trust is for --resume; a config that you train with is trusted anyway")
    plan = planned(options)
    if plan.settings.search:
        check_installed()
    plan.check()
    objective_of(plan)
    check_can_write(plan.folder)
    if plan.settings.storage is not None:
        storage_of(plan)
    return make_plan(plan)


def work(plan: Plan, objective: Objective, *, jobs: int) -> Sweep:
    """Trains all that is not trained yet, and tells what came of it."""
    lanes = lanes_of(jobs)
    if jobs > num_processors():
        note(f"{jobs} jobs share {num_processors()} processors; each takes longer")
    sweep = Sweep(plan, objective, Children())
    search = None
    if plan.ranges:
        search = Search(plan, minimize=objective.minimize)
        lane = sweep.search(search)
    else:
        lane = sweep.grid([plan.trial(point) for point in plan.grid])
    try:
        side_by_side([lane(on) for on in lanes], sweep.children)
    except KeyboardInterrupt:
        again = typed(f"python -m metarl.sweep --resume {plan.folder}")
        print(f"Stopped, all is saved; go on with: {again}", flush=True)
        raise SystemExit(stopping.EXIT_CODE) from None
    show(plan, objective, search, sweep.failed)
    return sweep


def show(plan: Plan, objective: Objective, search: Search | None, failed: dict[str, str]) -> None:
    """Prints the table of all trials, and writes it and the page."""
    results = results_of(plan, objective, search, failed)
    tell(plan, objective, results, plain_console())
    print(f"Page: {write_pages(plan, objective, results)}", flush=True)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit code, 1 if a run failed."""
    options = parser().parse_args(arguments)
    if options.jobs < 1:
        raise UserError(f"--jobs should be at least 1, not {options.jobs}")
    plan = given_plan(options)
    objective = objective_of(plan)
    if options.show is not None:
        search = Search(plan, minimize=objective.minimize) if plan.ranges else None
        show(plan, objective, search, {})
        return 0
    sweep = work(plan, objective, jobs=options.jobs)
    return int(bool(sweep.failed))


if __name__ == "__main__":
    with one_line_errors("metarl.sweep"):
        sys.exit(main(sys.argv[1:]))
