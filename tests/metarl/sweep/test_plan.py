"""The trials and runs of a sweep, and its folder."""

from pathlib import Path

import pytest

from evaluate import EvaluationConfig
from metarl.errors import UserError
from metarl.evaluation.options import EvaluationOptions
from metarl.sweep.objective import objective_of
from metarl.sweep.plan import Plan, make_plan, open_plan
from metarl.sweep.settings import SweepSettings

CONFIGS = Path(__file__).parents[3] / "configs"


def plan_of(config: Path, **settings) -> Plan:
    return Plan(Path("sweep"), SweepSettings(name="tiny", **settings), config)


def test_the_grid_is_the_product(tiny: Path) -> None:
    plan = plan_of(
        tiny, seeds="4-5", set={"agent.clip": "0.1,2e-1", "env.kind": "bandit", "train.env_steps":
        "100,200"},
    )  # fmt: skip
    plan.check()
    assert plan.varied == ["agent.clip", "train.env_steps"]
    trials = [plan.trial(point) for point in plan.grid]
    assert [trial.name for trial in trials] == [
        "clip=0.1,env_steps=100", "clip=0.1,env_steps=200",
        "clip=2e-1,env_steps=100", "clip=2e-1,env_steps=200",
    ]  # fmt: skip
    first, second = trials[2].runs
    assert (first.folder, second.folder) == (
        Path("sweep/clip=2e-1,env_steps=100/seed4"), Path("sweep/clip=2e-1,env_steps=100/seed5")
    )  # fmt: skip
    assert (first.experiment.agent.clip, first.budget, first.experiment.seed) == (0.2, 100, 4)
    assert not Path("sweep").exists()


def test_names_are_folders_and_differ(tiny: Path) -> None:
    plan = plan_of(tiny, set={"agent.encoder_sizes": "[32, 32],[64]", "agent.memory": "gru,lstm"})
    assert plan.trial(plan.grid[0]).name == "encoder_sizes=32,32,memory=gru"
    long = plan_of(tiny, set={"agent.encoder_sizes": f"{[1000] * 15},{[1000] * 16}"})
    one, other = (long.trial(point).name for point in long.grid)
    assert one != other and max(len(one), len(other)) < 90
    assert plan_of(tiny).trial({}).name == "tiny"
    same = plan_of(tiny, set={"agent.clip": "0.1,0.2", "train.clip": "1,2"})
    assert same.short("agent.clip") == "agent.clip"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"set": {"agent.clap": "1"}}, "Did you mean clip"),
        ({"set": {"agent.clip": "0.1,-1"}}, "'agent.clip' should be greater than 0"),
        ({"search": {"agent.clip": "uniform:-1:1"}}, "'agent.clip' should be greater than 0"),
        ({"set": {"agent.chunk_length": "10,3"}}, "chunk_length 3 does not divide"),
        ({"set": {"env.kind": "nothing"}}, "'env.kind' should be one of"),
        ({"folds": 5}, "bandit has no classes to divide"),
        ({"set": {"train.env_steps": ",".join(map(str, range(1, 1100)))}}, "more than 1,000"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    tiny: Path, settings: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(tiny, **settings).check()


def test_another_sweep_in_the_same_folder_is_refused(tiny: Path) -> None:
    plan = plan_of(tiny, seeds="1-2", set={"agent.clip": "0.1,0.2"})
    made = make_plan(plan)
    before = {path: path.stat().st_mtime_ns for path in Path("sweep").rglob("*")}
    assert make_plan(plan).settings == made.settings == open_plan(Path("sweep")).settings
    with pytest.raises(UserError, match="holds a sweep with seeds 1-2, not 1"):
        make_plan(plan_of(tiny, set={"agent.clip": "0.1,0.2"}))
    tiny.write_text(tiny.read_text() + "\n# changed\n")
    with pytest.raises(UserError, match="is not what it was"):
        make_plan(plan)
    assert {path: path.stat().st_mtime_ns for path in Path("sweep").rglob("*")} == before
    Path("other").mkdir()
    with pytest.raises(UserError, match="other is no sweep"):
        make_plan(Plan(Path("other"), plan.settings, tiny))


def test_code_of_somebody_elses_sweep_has_to_be_trusted(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METARL_CACHE", str(tiny.parent / "cache"))
    Path("mine.py").write_text("open('executed', 'w').close()\n")
    make_plan(plan_of(tiny, set={"agent.kind": "mine.py:Mine,rl2"}))
    with pytest.raises(UserError, match=r"would execute .*mine\.py.*--trust"):
        open_plan(Path("sweep"))
    assert not Path("executed").exists()


def test_folds_play_no_test_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of(CONFIGS / "rl2_ml10.yaml", folds=5, seeds="1-2")
    trial = plan.trial({})
    assert [run.folder.name for run in trial.runs[:2]] == ["fold1_seed1", "fold2_seed1"]
    assert len(trial.runs) == 10
    official = type(trial.runs[0].experiment.env)(benchmark="ML10").build()
    left_out: list[str] = []
    for run in trial.runs[:5]:
        distribution = run.experiment.env.build()
        assert set(distribution.train.classes) < set(official.train.classes)
        left_out += distribution.test.classes
    assert sorted(left_out) == sorted(official.train.classes)
    judged = objective_of(plan).evaluation(trial.runs[0])
    assert judged is not None
    assert judged[0] == ["sweep/tiny/fold1_seed1", "--protocol", "metaworld"]
    # evaluate.py names its file after the same options.
    options = {"few_shot": False, "exclude_defaults": True}
    assert EvaluationConfig(protocol="metaworld").result_options(**options) == EvaluationOptions(
        protocol="metaworld"
    ).result_options(**options)
