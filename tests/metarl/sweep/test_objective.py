"""What trials are judged by."""

import json
from pathlib import Path

import pytest

from metarl.errors import UserError
from metarl.sweep.objective import Objective, UnknownMetricError, objective_of, read_lines
from metarl.sweep.plan import Plan, PlannedRun
from metarl.sweep.settings import SweepSettings

RETURN = Objective(metric="return/last_episode", minimize=False, folds=None)


@pytest.fixture
def plan(tiny: Path) -> Plan:
    return Plan(Path("sweep"), SweepSettings(name="tiny", seeds="1-2"), tiny)


@pytest.fixture
def runs(plan: Plan) -> list[PlannedRun]:
    """Two planned runs of 500 env steps."""
    return plan.trial({}).runs


@pytest.mark.parametrize(
    "metric",
    ["test/success", "evaluation/return", "eval/return", "held_out", "return/held-out", "TEST"],
)
def test_held_out_tasks_choose_nothing(tiny: Path, metric: str) -> None:
    with pytest.raises(UserError, match=r"held-out tasks choose nothing.*or --folds"):
        objective_of(Plan(Path("sweep"), SweepSettings(name="tiny", objective=metric), tiny))


def test_objectives(plan: Plan, tiny: Path) -> None:
    assert objective_of(plan) == RETURN
    for settings, message in (
        ({"objective": "retrun/last_episode"}, "Did you mean return"),
        ({"objective": "loss"}, "unknown metric loss"),
        ({"folds": 5, "objective": "train/return"}, "leave out --objective"),
    ):
        with pytest.raises(UserError, match=message):
            objective_of(Plan(Path("sweep"), SweepSettings(name="tiny", **settings), tiny))
    tiny.write_text("env: {kind: sinusoid}\nagent: {kind: maml}\n")
    found = objective_of(Plan(Path("sweep"), SweepSettings(name="tiny"), tiny))
    assert (found.metric, found.minimize) == ("train/loss", True)


def test_a_run_is_judged_by_its_last_tenth(runs: list[PlannedRun]) -> None:
    run = runs[0]
    lines = [{"env_steps": 25 * n, "return/last_episode": float(n)} for n in range(1, 21)]
    del lines[-1]["return/last_episode"]  # a skipped iteration
    # Tenths are of 50 env steps: of lines 1 and 2, 3 and 4, …
    assert RETURN.parts(lines[:5], run) == {1: 1.5, 2: 3.5}
    assert RETURN.parts(lines, run) == {n: 2 * n - 0.5 for n in range(1, 10)} | {10: 19.0}
    run.folder.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run.metrics.write_text(f'{text}damaged\n{{"env_steps": 525, "retu')
    assert len(read_lines(run.metrics)) == 20
    assert RETURN.score(run) == 19.0
    assert RETURN.parts([], run) == {}


def test_a_metric_that_is_not_logged_is_told_at_the_first_line(runs: list[PlannedRun]) -> None:
    lines = [{"env_steps": 1, "skipped": 1.0}, {"env_steps": 2, "train/return": 1.0}]
    assert not RETURN.check_logged([])
    assert not RETURN.check_logged(lines[:1])
    with pytest.raises(UnknownMetricError, match=r"unknown metric return/last_.* Known: train/ret"):
        RETURN.check_logged(lines)
    # Not every iteration draws every class.
    of_class = Objective(metric="classes/return/a", minimize=False, folds=None)
    assert not of_class.check_logged(lines)


def test_the_interval_is_over_seeds(runs: list[PlannedRun]) -> None:
    found = RETURN.over_seeds({runs[0]: 4.0, runs[1]: 6.0})
    assert found is not None and found.low[0] is not None and found.high[0] is not None
    # Standard error 1; the quantile of Student's t with one degree of freedom is 12.706.
    assert found.value == [5.0]
    assert (round(found.low[0], 3), round(found.high[0], 3)) == (-7.706, 17.706)
    assert RETURN.said(found, seeds=2) == "5.000 [-7.706, 17.706]"
    share = Objective(metric="success/last_episode", minimize=False, folds=None)
    found = share.over_seeds({runs[0]: 0.4, runs[1]: 0.6})
    assert share.said(found, seeds=2) == "50.0% [0.0%, 100.0%]"
    assert share.said(share.over_seeds({runs[0]: 0.4}), seeds=1) == "40.0%"
    assert share.over_seeds({}) is None and share.said(None, seeds=2) == "–"
