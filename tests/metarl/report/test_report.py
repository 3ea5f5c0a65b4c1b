"""Reports: numbers by hand, pictures drawn from the stored numbers, pages in a browser."""

import csv
import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from rich.console import Console

from metarl.errors import UserError
from metarl.evaluation.record import Evaluation
from metarl.evaluation.statistics import Estimate
from metarl.report.adaptation import adaptation_report, plot_adaptation
from metarl.report.blocks import Curves, HeatMap, Line, Report, Table, block_from_json
from metarl.report.comparison import comparison_report
from metarl.report.figures import draw, svg
from metarl.report.page import write_report
from metarl.report.terminal import print_evaluation, with_interval
from metarl.report.yardsticks import yardstick_section
from metarl.system.console import plain_console
from metarl.types import AdaptationCurve
from tests.browser import LAPTOP, PHONE, fits_its_width, needs_browser, opened

ENVIRONMENT = {
    "command": "evaluate.py run", "time": "2026-01-01T00:00:00Z", "python": "3.11", "git": "abc",
    "versions": {"torch": "2", "mujoco": "3"}, "cpu": "a processor", "cpus": 2, "gpu": None,
}  # fmt: skip


def evaluation(
    *, seed: int = 1, experiment: str = "rl2_push", tasks: int = 50, columns: int = 13,
    goals: int = 3, shift: float = 0.0,
) -> Evaluation:  # fmt: skip
    """An evaluation of an agent that improves, on tasks of two classes."""
    rng = np.random.default_rng(seed)
    chance = np.linspace(0.1, 0.9 + shift, columns).clip(0, 1)
    success = torch.tensor(rng.random((tasks, columns)) < chance).double()
    last = success * torch.tensor(rng.random((tasks, columns)) < 0.5)
    returns = torch.tensor(rng.normal(1000 * chance, 50, (tasks, columns)))
    return Evaluation(
        experiment=experiment, agent="rl2", seed=seed, env_steps=10_000_000,
        distribution="Meta-World <custom>", split="test", split_hash="ab" * 32, horizon=500,
        slots_per_task=1,
        options={"threshold": 0.8, "seed": 0, "greedy": False, "protocol": "curve"},
        parameters=rng.uniform(size=(tasks, 3)).tolist(),
        goals=rng.uniform(size=(tasks, goals)).tolist() if goals else None,
        curve=AdaptationCurve(
            env_names=["push-v3"] * (tasks // 2) + ["reach-v3"] * (tasks - tasks // 2),
            experience=list(range(columns)),
            scores={"return": returns, "success_any": success, "success_last": last},
        ),
        environment=ENVIRONMENT,
    )  # fmt: skip


def with_success(success: list[list[float]], *, experience: list[int]) -> Evaluation:
    """An evaluation with this success in every measure."""
    scores = torch.tensor(success).double()
    base = evaluation(tasks=len(success), columns=len(experience))
    names = ("return", "success_any", "success_last")
    curve = AdaptationCurve(
        env_names=["reach-v3"] * len(success), experience=experience,
        scores=dict.fromkeys(names, scores),
    )  # fmt: skip
    return replace(base, curve=curve)


HOSTILE = "_[/red] $\\frac{ $x$ <script> \x1b[31m \n{{ 1 }}"


def test_names_are_text_in_tables_pictures_and_pages(tmp_path: Path, capsys) -> None:
    """Names are no markup for rich, matplotlib, terminals or HTML."""
    named = evaluation(experiment=HOSTILE, tasks=4, columns=3)
    curve = replace(named.curve, env_names=[HOSTILE] * 2 + ["push-v3"] * 2)
    named = replace(named, curve=curve, distribution=HOSTILE)
    print_evaluation(named, plain_console(120))
    printed = capsys.readouterr().out
    assert "_[/red] $\\frac{" in printed and "\x1b" not in printed
    plot_adaptation(named, tmp_path / "curve.png")
    write_report(tmp_path / "one", adaptation_report(named))
    page = (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "\\frac{" in page
    other = replace(named, experiment="other")
    write_report(tmp_path / "two", comparison_report([named, other]))


@pytest.mark.parametrize("text", ["$x$", r"$\frac{", r"a\$b$", "_hidden", "$$", "100 $"])
def test_labels_are_shown_as_they_are(text: str) -> None:
    lines = [Line(label=label, x=[0.0, 1.0], y=[0.0, 1.0]) for label in (text, "other")]
    figure = draw(Curves(name="a", title=text, x_label=text, y_label=text, lines=lines))
    drawn = figure.axes[0].get_legend().get_texts()
    assert len(drawn) == 2
    for shown in (figure.axes[0].title, drawn[0]):
        literal, formula = shown._preprocess_math(shown.get_text())
        assert literal.strip() == text and not formula
    plt.close(figure)


def table(report: Report, name: str) -> Table:
    blocks = [block for section in report.sections for block in section.blocks]
    return next(block for block in blocks if isinstance(block, Table) and block.name == name)


def test_speed_by_hand() -> None:
    """Means 0, 1/4, 3/4, 1/2, 1: half of the final success after 4 episodes, higher shares after
    8."""
    ends = with_success(
        [[0, 0, 0, 0, 1], [0, 0, 1, 0, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]],
        experience=[0, 2, 4, 6, 8],
    )
    row = table(adaptation_report(ends), "speed").body[0]
    assert row == [
        "success at any step", "4 (2,000)", "8 (4,000)", "8 (4,000)", "50.0%", "100% [51%, 100%]"
    ]  # fmt: skip
    never = with_success([[0, 0], [0, 0]], experience=[0, 1])
    assert table(adaptation_report(never), "speed").body[0][1] == "0 in the end"


def test_where_there_is_no_interval_none_is_shown(tmp_path: Path) -> None:
    """One task: its return has no interval, its success has Wilson's."""
    alone = with_success([[0, 1]], experience=[0, 1])
    assert "over 1 task" in alone.protocol() and "1 seed: runs are not" in alone.protocol()
    alone.write(tmp_path / "one.json")
    overall = json.loads((tmp_path / "one.json").read_text())["overall"]
    assert overall["mean"]["return"] == {"value": [0, 1], "low": [None] * 2, "high": [None] * 2}
    assert overall["mean"]["success_any"]["high"] == pytest.approx([0.793, 1.0], abs=1e-3)
    text = io.StringIO()
    print_evaluation(alone, Console(file=text, width=200))
    assert "1.0 [–]" in text.getvalue() and "[–]: no interval" in text.getvalue()
    assert "100% [21%, 100%]" in text.getvalue()
    for report in (adaptation_report(alone), comparison_report([alone])):
        page = write_report(tmp_path, report)
        assert "no interval" in page.read_text()
        with (tmp_path / "curve_return.csv").open(newline="") as file:
            assert [row[3:] for row in csv.reader(file)][1] == ["", ""]
        (band,) = [b for s in report.sections for b in s.blocks if b.name == "curve_return"]
        figure = draw(band)
        assert not figure.axes[0].collections[0].get_paths(), "no band"
        plt.close(figure)
    assert "1 task: tasks are not resampled" in comparison_report([alone]).protocol["intervals"]
    several = adaptation_report(evaluation(tasks=6))
    assert several.legend() == {}, "nothing is explained that does not occur"


def test_an_interval_is_written_with_the_digits_that_show_its_width() -> None:
    of = Estimate(value=[1.0, 0.5, -1.0], low=[0.9962, 0.4, -1.0], high=[1.0, 0.6, -0.98])
    shown = [with_interval(of, 0, ".0%"), with_interval(of, 1, "+.0%"), with_interval(of, 2, ".1f")]
    assert shown == ["100.0% [99.6%, 100.0%]", "+50% [+40%, +60%]", "-1.00 [-1.00, -0.98]"]


def test_a_stored_evaluation_is_read_as_it_was(tmp_path: Path) -> None:
    written = replace(evaluation(goals=0), reward_version="v1")
    written.write(tmp_path / "new" / "evaluation.json")
    read = Evaluation.read(tmp_path / "new" / "evaluation.json")
    assert read.summary == written.summary and read.protocol() == written.protocol()
    assert read.goals is None and read.parameters == written.parameters
    assert read.setting == written.setting and read.reward_version == "v1"
    (tmp_path / "bad.json").write_text('{"experiment": 1}')
    for name, message in (("bad.json", "cannot be read"), ("none.json", "no stored evaluation")):
        with pytest.raises(UserError, match=message):
            Evaluation.read(tmp_path / name)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("seed",), "1", "seed: Input should be a valid integer"),
        (("env_steps",), -5, "env_steps: Input should be greater than or equal to 0"),
        (("options", "protocol"), "other", "protocol: Input should be 'curve' or 'metaworld'"),
        (("options",), {}, "protocol: Field required"),
        (("per_task", "scores", "return"), [[1.0]], "return has 1 rows in place of 4"),
        (("per_task", "scores", "return", 1), [], "return has 0 rows in place of 3"),
        (("per_task", "scores", "return", 1, 0), float("nan"), "1.0: Input should be a finite"),
        (("per_task", "scores", "success_any", 1, 0), 1.5, "should be shares from 0 to 1"),
        (("per_task", "scores"), {}, "there should be scores of return"),
        (("per_task", "experience"), [0, 5, 1], "experience is"),
        (("per_task", "env_name"), ["a"], "should be those of 1 task"),
        (("per_task", "goal"), 3, "per_task.goal: Input should be a valid array"),
        (("split",), "another", "its checksum is another"),
    ],
)  # fmt: skip
def test_a_stored_evaluation_that_makes_no_sense_is_refused(
    tmp_path: Path, place: tuple, value: object, message: str
) -> None:
    path = tmp_path / "evaluation.json"
    evaluation(tasks=4, columns=3).write(path)
    content = json.loads(path.read_text())
    *parents, last = place
    part = content
    for key in parents:
        part = part[key]
    part[last] = value
    if "checksum" not in message:
        del content["sha256"]  # as in files of earlier versions
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="cannot be read") as refused:
        Evaluation.read(path)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a complete report with 50 tasks and 13 episodes."""
    return write_report(tmp_path_factory.mktemp("report"), adaptation_report(evaluation()))


def test_pictures_and_files_are_made_of_the_stored_numbers(written: Path) -> None:
    page = written.read_text()
    stored = json.loads((written.parent / "report.json").read_text())
    blocks = [
        block_from_json(block) for section in stored["sections"] for block in section["blocks"]
    ]
    assert {block.kind for block in blocks} == {"curves", "heatmap", "scatter", "table"}
    for block in blocks:
        if isinstance(block, Table):
            assert all(str(cell) in page for row in block.body for cell in row[:1])
        else:
            assert svg(block) in page, f"the picture {block.name} is that of its numbers"
            assert (written.parent / f"{block.name}.png").read_bytes().startswith(b"\x89PNG")
        with (written.parent / f"{block.name}.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows == [["" if cell is None else str(cell) for cell in row] for row in block.rows()]
    curve = next(block for block in blocks if block.name == "curve_success_any")
    expected = evaluation().summary[0].mean["success_any"]
    assert (curve.lines[0].y, curve.lines[0].low) == (expected.value, expected.low)


def test_files_of_an_earlier_report_go_and_foreign_ones_stay(tmp_path: Path) -> None:
    """The first report has goals and two classes, the second neither."""
    write_report(tmp_path, adaptation_report(evaluation(tasks=4, columns=2)))
    before = {path.name for path in tmp_path.iterdir()}
    assert {"goals_return_before.csv", "goals_return_before.png", "classes.csv"} <= before
    (tmp_path / "notes.csv").write_text("mine")
    report = adaptation_report(evaluation(tasks=1, columns=2, goals=0))
    write_report(tmp_path, report)
    blocks = [block for section in report.sections for block in section.blocks]
    expected = {"report.html", "report.json", "notes.csv", *(f"{b.name}.csv" for b in blocks)}
    expected |= {f"{block.name}.png" for block in blocks if block.kind != "table"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    (tmp_path / "report.json").write_text('{"sections": [{"blocks": [{"name": "../x"}]}, 3]}')
    write_report(tmp_path, report)  # a file that is no report is overwritten


def test_labels_of_a_big_heat_map_do_not_lie_over_each_other() -> None:
    values = np.zeros((1000, 100))
    block = HeatMap(
        name="big", title="success", x_label="episodes", columns=[str(k) for k in range(100)],
        tasks=[f"{'a-very-long-name-of-a-task-class' * 3} {k}" for k in range(1000)],
        values=values.tolist(), counts=["1000/1000"] * 100, percent=True,
    )  # fmt: skip
    figure = draw(block)
    figure.canvas.draw()
    axes = figure.axes[0]
    for labels in (axes.texts, axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) > 9
        for one, other in pairwise(boxes):
            assert not one.overlaps(other)
    assert figure.get_figheight() <= 12
    assert axes.get_position().width > 0.5, "long names leave room for the colours"
    plt.close(figure)


def test_what_people_write_cannot_become_markup(tmp_path: Path) -> None:
    page = write_report(
        tmp_path, adaptation_report(evaluation(experiment="<script>alert(1)", tasks=4, columns=2))
    )
    assert "<script>alert(1)" not in page.read_text()


def test_goals_with_one_number_are_drawn_along_it() -> None:
    report = adaptation_report(evaluation(goals=1))
    block = next(b for s in report.sections for b in s.blocks if b.name == "goals_return")
    assert block.kind == "curves" and block.lines[0].x == sorted(block.lines[0].x)
    assert "Where the goals are" not in [
        section.title for section in adaptation_report(evaluation(goals=0)).sections
    ]


def test_seeds_of_an_experiment_are_pooled_and_agents_compared() -> None:
    ours = [evaluation(seed=seed, shift=0.1) for seed in (1, 2)]
    theirs = evaluation(seed=1, experiment="maml_push", columns=3)
    report = comparison_report([*ours, theirs])
    final = table(report, "final").body
    pooled = np.mean([run.curve.scores["success_any"][:, -1].mean() for run in ours])
    assert final[0][:4] == ["success at any step", "rl2_push", 2, 12]
    assert str(final[0][4]).startswith(f"{pooled:.0%} [")
    assert final[1][:4] == ["success at any step", "maml_push", 1, 2]
    (difference, *_) = table(report, "differences").body
    apart = pooled - theirs.curve.scores["success_any"][:, -1].mean().item()
    assert str(difference[2]).startswith(f"{apart:+.0%} [")
    said = report.protocol["intervals"]
    assert "rl2_push: over its 2 seeds too; maml_push: 1 seed: runs are not resampled" in said
    assert [row[0] for row in table(report, "runs").body] == [
        "rl2_push, seed 1", "rl2_push, seed 2", "maml_push, seed 1"
    ]  # fmt: skip


def test_runs_that_cannot_be_compared_are_named() -> None:
    ours = evaluation()
    with pytest.raises(UserError, match="is there twice"):
        comparison_report([ours, ours])
    with pytest.raises(UserError, match="compare runs on the same tasks"):
        comparison_report([ours, replace(ours, split_hash="other", experiment="b")])
    with pytest.raises(UserError, match="different numbers of episodes"):
        comparison_report([ours, evaluation(seed=2, columns=4)])
    with pytest.raises(UserError, match=r"of rl2_push has 500 steps, one of b 200; .*--tasks"):
        comparison_report([ours, replace(ours, horizon=200, experiment="b")])
    old, new = (replace(ours, reward_version=v, experiment=f"reward {v}") for v in ("v1", "v2"))
    with pytest.raises(UserError, match=r"paid by v1 rewards, reward v2 by v2; .*--tasks"):
        comparison_report([old, new])
    comparison_report([old, ours])  # whose reward version was not stored


class FromScratch:
    """A learner that reaches 60 % after 1,000 and 80 % after 3,000 env steps."""

    name, kind, rows = "PPO from scratch", "from_scratch", [0, 1, 2, 3, 4]
    env_steps = [0, 1000, 2000, 3000]  # noqa: RUF012
    success = np.array([[0.0, 0.6, 0.6, 0.8]] * 5)

    def env_steps_to(self, success: float) -> int | None:
        return next(
            (s for s, v in zip(self.env_steps, self.success[0], strict=True) if v >= success), None
        )


def test_the_price_of_learning_from_scratch_by_hand() -> None:
    """After 2 episodes of 500 steps, success is 3/5, for which the learner needs 1,000 steps."""
    flags = [[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    agent = with_success(flags, experience=[0, 1, 2])
    better = with_success([[1, 1, 1]] * 5, experience=[0, 1, 2])
    section = yardstick_section([agent, better], [], [FromScratch()])
    costs = next(b for b in section.blocks if isinstance(b, Table) and b.name == "yardstick_costs")
    assert costs.body[0][1:] == ["60%", 1000, "PPO from scratch", "1,000", "1.0 ×"]
    assert costs.body[1][1:] == [
        "100%", 1000, "PPO from scratch", "more than 3,000 (reached 80%)", "over 3.0 ×"
    ]  # fmt: skip


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(LAPTOP, False), (PHONE, True)])
def test_a_browser_shows_the_whole_report_offline(written: Path, size, dark) -> None:
    with opened(written.as_uri(), size=size, dark=dark) as page:
        assert fits_its_width(page)
        pictures = page.locator("figure svg")
        assert pictures.count() == 9
        for k in range(pictures.count()):
            box = pictures.nth(k).bounding_box()
            assert box and box["width"] > 200 and box["height"] > 150
            assert box["x"] >= 0 and box["x"] + box["width"] <= size[0]
        ink = "getComputedStyle(document.querySelector('figure svg text')).fill"
        assert page.evaluate(ink) == ("rgb(154, 164, 177)" if dark else "rgb(92, 100, 112)")
        assert "split hash" in page.inner_text("dl.protocol")


RUNS = ((1, "rl2_push"), (2, "rl2_push"), (1, "maml_push"))


@needs_browser
def test_a_comparison_fits_a_phone(tmp_path: Path) -> None:
    runs = [evaluation(columns=4, seed=seed, experiment=name) for seed, name in RUNS]
    section = yardstick_section(runs, [], [FromScratch()])
    page_file = write_report(tmp_path, comparison_report(runs, [section]))
    with opened(page_file.as_uri(), size=PHONE) as page:
        assert fits_its_width(page)
        assert page.locator("figure svg").count() == 6
