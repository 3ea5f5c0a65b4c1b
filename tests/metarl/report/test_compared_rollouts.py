"""Choice of the shown tasks of several agents, by hand."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metarl.errors import UserError
from metarl.evaluation.trials import Trials
from metarl.report import compared_rollouts
from metarl.report.compared_rollouts import Beside, candidates, most_different
from metarl.rollout.recording import Episode, Recording
from metarl.tasks import TaskSet
from metarl.types import TrialShape
from tests.metarl.report.test_report import evaluation


def judged(success: list[float], returns: list[float], classes: str, *, name: str = "a"):
    """An evaluation with this success and return in its last column."""
    one = evaluation(tasks=len(classes), columns=2, experiment=name)
    for measure, values in (("success_any", success), ("return", returns)):
        one.curve.scores[measure][:, -1] = torch.tensor(values)
    one.curve.env_names[:] = list(classes)
    return one


def test_tasks_that_differ_come_first_then_failures_then_returns_of_all_classes_in_turn() -> None:
    ours = judged([1, 1, 0, 0, 1, 0], [5, 5, 5, 9, 5, 5], "aaaabb")
    theirs = judged([1, 0, 0, 0, 1, 0], [5, 5, 5, 5, 5, 5], "aaaabb", name="b")
    # Class a: success on 1 differs; among failed tasks, returns on 3 differ; 0 succeeds. Class b:
    # 5, 4.
    assert most_different([ours, theirs], range(6), 6) == [1, 5, 3, 4, 2, 0]
    assert most_different([ours, theirs], [0, 2, 4], 2) == [2, 4]
    assert most_different([ours], range(6), 3) == [2, 5, 3]


def test_as_many_of_each_class_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert candidates(["a", "a", "b"]) == [0, 1, 2]
    monkeypatch.setattr(compared_rollouts, "CANDIDATES", 4)
    assert candidates(list("aaaaabbc")) == [0, 1, 5, 7]


def trials(experiment: str, seed: int, classes: str) -> Trials:
    tasks = TaskSet(
        SimpleNamespace(env_name=name, parameters=np.array([number]))
        for number, name in enumerate(classes)
    )
    return Trials(
        agent_file_hash=None,
        folder=Path(experiment), experiment=experiment, agent="rl2", seed=seed,
        output=Path(experiment),
        build_agent=lambda env: pytest.fail("nothing is played"), checkpoint=Path("7"),
        distribution=NO_DISTRIBUTION, reward_version=None, split="test", tasks=tasks,
        shape=TrialShape(),
    )  # fmt: skip


class NoDistribution:
    name, horizon = "none", 2
    train = test = TaskSet([])

    def make_env(self, num_slots: int):
        raise AssertionError


NO_DISTRIBUTION = NoDistribution()


def played(classes: str, *, mark: float) -> Iterator[Recording]:
    for task, name in enumerate(classes):
        one = Episode(
            before=0, states=np.full((3, 1), mark + task), reward=np.zeros(2),
            success=np.zeros(2, bool),
        )  # fmt: skip
        yield Recording(env_name=name, task=task, episodes=[one])


def test_each_task_is_shown_by_the_first_run_of_every_agent(tmp_path: Path) -> None:
    runs = [trials("a", 1, "xyx"), trials("a", 2, "xyx"), trials("b", 1, "xyx")]
    beside = Beside(runs)
    assert beside.labels == {"a-seed1": "a", "b-seed1": "b"}
    for mark, recordings in zip((10.0, 20.0), beside.recordings.values(), strict=True):
        recordings.kept = list(played("xyx", mark=mark))
    files = {run.name: tmp_path / "new" / f"{run.name}.npz" for run in runs}
    with pytest.raises(UserError, match="no recordings in"):
        beside.shown(files)
    evaluations = [
        judged([0, 0, 1], [0, 0, 0], "xyx", name="a"),
        judged([0, 9, 9], [9, 9, 9], "xyx", name="a"),  # a seed that is not shown has no influence
        judged([0, 0, 0], [0, 0, 0], "xyx", name="b"),
    ]
    object.__setattr__(evaluations[1], "seed", 2)
    beside.store(files, evaluations, limit=2)
    shown = beside.shown(files)
    assert [(r.agent, r.task, r.episodes[0].states[0, 0]) for r in shown] == [
        ("a", 2, 12.0), ("b", 2, 22.0), ("a", 1, 11.0), ("b", 1, 21.0)
    ]  # fmt: skip
    said = beside.description(shown)
    assert said.startswith("One run of each agent: a (seed 1), b (seed 1); on 2 of 3 tasks: those")


def test_of_one_agent_every_seed_is_shown() -> None:
    beside = Beside([trials("a", 1, "x"), trials("a", 5, "x")])
    assert beside.labels == {"a-seed1": "seed 1", "a-seed5": "seed 5"}
