"""The table of cross-validation, from stored files."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cross_validation
from benchmarks.cross_validation import BASELINE, FOLDS, RECIPES, by_class, experiment_of
from metarl.errors import UserError


def stored(recipe: str, fold: int, success: dict[str, tuple[float, float]], seed: int = 1) -> dict:
    """A file's content: success in the first and in the test episodes of each class, 10 goals."""
    episodes = list(range(13))
    classes = [name for name in success for _ in range(10)]
    scores = np.zeros((len(classes), len(episodes)))
    for row, name in enumerate(classes):
        first, test = success[name]
        scores[row, 0] = row % 10 < 10 * first
        scores[row, 10:] = row % 10 < 10 * test
    return {
        "recipe": recipe, "fold": fold, "seed": seed, "classes": classes, "experience": episodes,
        "success": scores.tolist(), "training_s": 60.0,
        "curve": [{"success/last_episode": 0.5}],
        "experiment": experiment_of(recipe, fold, seed).model_dump(mode="json"),
    }  # fmt: skip


def test_a_class_counts_once_whatever_the_folds_and_seeds() -> None:
    runs = [
        stored(BASELINE, 1, {"push": (0.2, 0.4), "reach": (0.1, 0.9)}),
        stored(BASELINE, 1, {"push": (0.4, 0.6), "reach": (0.1, 0.9)}, seed=2),
        stored(BASELINE, 2, {"sweep": (1.0, 0.0)}),
    ]
    found = by_class(runs)
    assert found.keys() == {"push", "reach", "sweep"}
    np.testing.assert_allclose(found["push"], [0.3, 0.5])
    np.testing.assert_allclose(found["reach"], [0.1, 0.9])
    np.testing.assert_allclose(found["sweep"], [1.0, 0.0])


def test_a_recipe_is_compared_on_the_classes_that_both_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in (
        stored(BASELINE, 1, {"push": (0.0, 0.2), "reach": (0.5, 0.5)}),
        stored(BASELINE, 2, {"sweep": (0.0, 0.0), "door": (0.4, 0.8)}),
        stored("entropy", 1, {"push": (0.0, 0.4), "reach": (0.4, 0.9)}),
    ):
        path = tmp_path / run["recipe"] / f"fold{run['fold']}_seed1.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(run))
    cross_validation.main(["--table", "--output", str(tmp_path)])
    first, second = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| `")
    )
    means = [[cell.split(" ")[0] for cell in cells[1:5]] for cells in (first, second)]
    # 0, .5, 0 and .4 at first; .2, .5, 0 and .8 in the end.
    assert means[0] == ["22%", "38%", "15%", "–"]
    # .2 and .4 better on push and reach.
    assert means[1] == ["20%", "65%", "45%", "30%"]
    assert first[6] == "4 classes, folds 1, 2"


def test_results_of_other_values_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / BASELINE / "fold1_seed1.json"
    path.parent.mkdir()
    run = stored(BASELINE, 1, {"push": (0.0, 0.2)})
    run["experiment"]["train"]["env_steps"] = 1000
    path.write_text(json.dumps(run))
    with pytest.raises(UserError, match="made with other values of rl2_ml10"):
        cross_validation.main(["--table", "--output", str(tmp_path)])
    path.write_text(json.dumps(run)[:100])
    with pytest.raises(UserError, match="fold1_seed1"):
        cross_validation.main(["--table", "--output", str(tmp_path)])


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_plays_a_test_class(recipe: str) -> None:
    experiment = experiment_of(recipe, fold=FOLDS, seed=1)
    distribution = experiment.env.build()
    official = type(experiment.env)(benchmark=experiment.env.benchmark).build()
    assert not set(official.test.classes) & set(distribution.train.classes)
    assert set(distribution.test.classes) < set(official.train.classes)
