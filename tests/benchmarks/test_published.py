"""Published runs: omitted parts, possible uses, and the table made from them."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import evaluate
import train
from benchmarks import published
from benchmarks import published_tables as tables
from metarl.training.checkpoint import checkpoints, load_checkpoint
from metarl.training.run import METRICS
from metarl.types import AdaptationCurve, TrialShape
from tests.runs import fails

ROOT = Path(train.__file__).parent


@pytest.fixture
def shown(tiny: Path) -> Path:
    """A results folder with one published run of five iterations."""
    for seed in ("1", "2"):
        train.main([str(tiny), "--seed", seed])
        published.main([f"runs/tiny/seed{seed}", "--results", "results"])
    return Path("results")


def test_a_published_run_plays_as_it_did_and_nothing_is_replaced(
    shown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shown / "tiny" / "seed1"
    stored = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["500"]
    tensors, _ = load_checkpoint(run / "checkpoints" / "500")
    assert tensors and not [name for name in tensors if name.startswith("optimizer.")]
    capsys.readouterr()
    evaluate.main([str(run)])
    assert "Every score of every task is as published" in capsys.readouterr().out
    evaluate.main([str(run), "--stored"])
    assert "11 episodes" in capsys.readouterr().out
    evaluate.main([str(run), "--seed", "5"])
    assert "Not stored: the run is published" in capsys.readouterr().out
    altered = run / "eval" / "test_500_episodes-11.json"
    content = json.loads(altered.read_text())
    content["per_task"]["scores"]["return"][3][0] += 1
    altered.write_text(json.dumps(content))
    assert "its checksum is another" in fails(capsys, evaluate, [str(run), "--stored"])
    del content["sha256"]
    altered.write_text(json.dumps(content))
    evaluate.main([str(run), "--episodes", "11"])
    assert "return differs in 1 of 10 tasks" in capsys.readouterr().out
    assert "published without what training needs" in fails(capsys, train, ["--resume", str(run)])
    assert {path for path in run.rglob("*") if path.is_file()} == stored.keys()
    for path, content in stored.items():
        assert path == altered or path.read_bytes() == content
    assert "is published already" in fails(
        capsys, published, ["runs/tiny/seed1", "--results", "results"]
    )


def test_what_is_stored_is_read_without_the_agent(
    shown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main(["runs/tiny/seed1"])
    shutil.rmtree("runs/tiny/seed1/checkpoints/500")
    capsys.readouterr()
    evaluate.main(["runs/tiny/seed1", "--checkpoint", "500", "--stored"])
    assert "after 500 env steps" in " ".join(capsys.readouterr().out.split())


def test_both_seeds_are_in_the_table_and_the_metrics_are_thin(
    shown: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "| [`tiny`](tiny) | 2 |" in (shown / "README.md").read_text()
    monkeypatch.setattr(published, "KEPT_LINES", 2)
    train.main(["tiny.yaml", "--seed", "3"])
    published.main(["runs/tiny/seed3", "--results", "results"])
    lines = (shown / "tiny" / "seed3" / METRICS).read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ['{"iteration": 2', '{"iteration": 5']
    capsys.readouterr()
    train.main(["tiny.yaml", "--seed", "4", "--train.env-steps", "100"])
    config = Path("runs/tiny/seed4/config.yaml")
    config.write_text(config.read_text().replace("env_steps: 100", "env_steps: 200"))
    stopped = ["runs/tiny/seed4", "--results", "results"]
    assert "stopped at 100 of 200 env steps" in fails(capsys, published, stopped)
    published.main([*stopped, "--unfinished"])
    budgets = tables.found_experiments(Path("results"))[0].env_steps()
    assert budgets == "0.0005 M, 0.0001 of 0.0002 M"


def test_a_seed_counts_once_and_on_the_tasks_of_the_others(shown: Path, capsys) -> None:
    first = shown / "tiny" / "seed1" / "eval" / "test_500_episodes-11.json"
    again = first.with_name("test_500_episodes-12.json")
    shutil.copy(first, again)
    assert "one too many of this seed" in fails(capsys, published, ["--results", "results"])
    again.unlink()
    content = json.loads(first.read_text())
    first.write_text(json.dumps({**content, "split_hash": "another", "sha256": None}))
    assert "not evaluated on the same tasks" in fails(capsys, published, ["--results", "results"])


def test_the_table_of_this_repository_is_made_of_its_raw_files() -> None:
    experiments = tables.found_experiments(tables.RESULTS)
    assert (tables.RESULTS / "README.md").read_text() == tables.results_page(experiments)
    opening = tables.opening_table(experiments)
    assert tables.with_opening_table(tables.README.read_text(), opening) == (
        tables.README.read_text()
    )


@pytest.mark.parametrize(
    ("at_once", "trained_on", "episodes"), [(1, 3, 11), (5, 10, 15), (4, 8, 16), (10, 20, None)]
)
def test_each_agent_is_shown_after_ten_episodes(
    at_once: int, trained_on: int, episodes: int | None
) -> None:
    shape = TrialShape(slots_per_task=at_once, rollouts=trained_on // at_once)
    trials = SimpleNamespace(shape=shape, tasks=[SimpleNamespace(env_name="reach")])
    played = published.evaluations(trials)
    assert {config.episodes for config in played} == {episodes}
    assert [config.greedy for config in played] == [False, False]


def test_agents_that_need_no_random_actions_play_greedily_too(shown: Path) -> None:
    shape = TrialShape(episodes=3)
    trials = SimpleNamespace(shape=shape, tasks=[SimpleNamespace(env_name="reach")])
    played = published.evaluations(trials)
    assert [(config.split, config.greedy) for config in played] == [
        ("test", False), ("test", True), ("train", False)
    ]  # fmt: skip
    assert all(config.episodes == 11 for config in played)
    # The same is played for a run that was published without it.
    stored = shown / "tiny" / "seed1" / "eval" / "test_500_episodes-11_greedy-True.json"
    assert stored.exists()
    before = json.loads(stored.read_text())
    stored.unlink()
    published.main(["--results", "results"])
    assert not stored.exists()
    published.main(["--complete", "--results", "results"])
    again = json.loads(stored.read_text())
    assert again["per_task"] == before["per_task"]
    assert "| `tiny` | 2 |" in (shown / "README.md").read_text()


def test_a_class_is_scored_by_its_own_tasks_at_first_and_in_the_test_episodes() -> None:
    scores = torch.zeros(4, 12)  # tasks × episodes of experience
    scores[0, 0], scores[2, 10] = 1, 1
    curve = AdaptationCurve(
        env_names=["push", "reach", "push", "reach"],
        experience=list(range(12)),
        scores={"success_any": scores},
    )
    other = dataclasses.replace(curve, scores={"success_any": torch.zeros(4, 12)})
    seeds = [SimpleNamespace(curve=each) for each in (curve, other)]
    found = tables.before_and_after(seeds)
    assert found["push"].startswith("25% → 12%, -12 [")
    assert found["reach"].startswith("0% → 0%, +0")
    scores[1::2, 10:] = 1
    assert tables.before_and_after(seeds)["reach"].startswith("0% → 50%, +50 [")


def test_a_rise_has_an_interval_over_goals_and_seeds() -> None:
    """Student's t by SciPy, where the bounds are far."""
    rng = np.random.default_rng(0)
    first, test = rng.random((2, 3, 40))
    curves = [
        AdaptationCurve(
            env_names=["push"] * 40,
            experience=[0, 10],
            scores={"success_any": torch.tensor(np.stack([a, b], axis=1))},
        )
        for a, b in zip(first, test, strict=True)
    ]
    seeds = [SimpleNamespace(curve=curve) for curve in curves]
    value, interval = tables.rise_cell(seeds).split(" ", 1)
    assert value == f"{100 * (test - first).mean():+.0f}"
    low, high = map(float, interval.strip("[]").split(", "))
    assert low <= float(value) <= high
    # One seed: over goals alone.
    one = tables.rise_cell(seeds[:1]).split(" ", 1)[1].strip("[]").split(", ")
    rise = 100 * (test - first)[0]
    expected = stats.t.interval(0.95, 39, rise.mean(), rise.std(ddof=1) / 40**0.5)
    np.testing.assert_allclose([float(end) for end in one], expected, atol=1)
