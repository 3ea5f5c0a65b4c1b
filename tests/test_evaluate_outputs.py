"""Reports, replays, videos and TensorBoard files from real runs."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import train
from metarl.errors import UserError
from metarl.evaluation import trials as evaluating
from metarl.rollout.recording import read_recordings
from metarl.system.command_line import one_line_errors
from metarl.visual.rendering.backends import find_backend
from tests.envs.user_modules import HOPPER, write

CHEETAH = """
env: {kind: locomotion, variant: HalfCheetah-vel-maml, horizon: 12,
      num_train_tasks: 8, num_test_tasks: 5}
agent: {kind: rl2, hidden_size: 8, encoder_sizes: [], epochs: 1, num_minibatches: 1}
train: {env_steps: 96, meta_batch_size: 4, episodes_per_trial: 2%s}
"""
BANDIT = """
env: {kind: bandit, num_train_tasks: 20, num_test_tasks: 6}
agent: {kind: rl2, hidden_size: 8, encoder_sizes: [], epochs: 1, num_minibatches: 1}
train: {env_steps: 40, meta_batch_size: 4, episodes_per_trial: 10}
"""
OWN = """
env: {kind: gymnasium, module: hopper.py, horizon: 12, num_workers: 2}
agent: {kind: rl2, hidden_size: 8, encoder_sizes: [], epochs: 1, num_minibatches: 1}
train: {env_steps: 96, meta_batch_size: 4, episodes_per_trial: 2}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: two seeds and another agent on a robot, a bandit, and a user's environment."""
    folder = tmp_path_factory.mktemp("experiments")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        Path("cheetah.yaml").write_text(CHEETAH % "")
        Path("bandit.yaml").write_text(BANDIT)
        Path("own.yaml").write_text(OWN)
        write(folder, HOPPER, name="hopper.py")
        train.main(["cheetah.yaml", "--seed", "2"])
        Path("other.yaml").write_text((CHEETAH % "").replace("hidden_size: 8", "hidden_size: 4"))
        for name in ("cheetah", "other", "bandit", "own"):
            train.main([f"{name}.yaml"])
    return folder


@pytest.fixture(autouse=True)
def _here(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped, one_line_errors("evaluate.py"):
        evaluate.main(list(arguments))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def printed(capsys: pytest.CaptureFixture[str], what: str) -> Path:
    """The file that the last command reported; it and its folder exist."""
    found = re.findall(rf"^{what}: (.*)$", capsys.readouterr().out, flags=re.M)
    assert found, f"no {what} was named"
    assert Path(found[0]).is_file()
    return Path(found[0])


def test_a_report_has_its_replay_and_can_be_made_of_what_is_stored(capsys) -> None:
    evaluate.main(["runs/cheetah/seed1", "--report", "--record", "3"])
    page = printed(capsys, "Report")
    assert page == Path("runs/cheetah/seed1/report/test_96/report.html")
    first = json.loads((page.parent / "report.json").read_text())
    assert (page.parent / "replay.html").is_file() and 'data-page="' in page.read_text()
    recordings = read_recordings(Path("runs/cheetah/seed1/eval/test_96.recordings.npz"))
    assert len(recordings) == 3
    assert [len(recording.episodes) for recording in recordings] == [2, 2, 2]
    stored = json.loads(Path("runs/cheetah/seed1/eval/test_96.json").read_text())
    for recording in recordings:
        returns = stored["per_task"]["scores"]["return"][recording.task]
        played = [float(episode.reward.sum()) for episode in recording.episodes]
        np.testing.assert_allclose(played, returns, rtol=1e-5)
    page.unlink()
    evaluate.main(["runs/cheetah/seed1", "--report", "--stored"])
    again = json.loads((printed(capsys, "Report").parent / "report.json").read_text())
    assert again == first, "the same numbers, without playing"


def test_a_video_of_first_and_last_episodes(capsys) -> None:
    try:
        find_backend()
    except UserError as error:
        pytest.skip(str(error))
    evaluate.main(["runs/cheetah/seed1", "--video", "--record", "1", "--report"])
    output = capsys.readouterr().out
    (video,) = re.findall(r"^Video: (.*)$", output, flags=re.M)
    assert Path(video).read_bytes()[4:8] == b"ftyp"
    page = Path("runs/cheetah/seed1/report/test_96/report.html").read_text()
    assert "data:video/mp4;base64," in page
    # Videos of an earlier command are removed, others stay.
    folder = Path(video).parent
    listed = json.loads((folder / "films.json").read_text())
    assert list(listed) == [Path(video).name] and "in the end" in listed[Path(video).name]
    for name in ("earlier.mp4", "foreign.mp4"):
        (folder / name).write_bytes(b"")
    (folder / "films.json").write_text('{"earlier.mp4": ""}')
    evaluate.main(["runs/cheetah/seed1", "--video", "--stored"])
    assert {path.name for path in folder.glob("*.mp4")} == {"foreign.mp4", Path(video).name}
    assert "has no camera nose" in fails(
        capsys, "runs/cheetah/seed1", "--video", "--stored", "--camera", "nose"
    )


def test_an_environment_of_a_user_is_shown_out_of_its_workers(capsys) -> None:
    evaluate.main(["runs/own/seed1", "--replay"])
    page = printed(capsys, "Replay").read_text()
    assert "own, seed 1: rollouts" in page
    (recording,) = read_recordings(Path("runs/own/seed1/eval/test_96.recordings.npz"))
    assert recording.env_name == "hopper"
    assert [episode.states.shape for episode in recording.episodes] == [(13, 6)] * 2
    assert all((np.diff(episode.states[:3], axis=0) != 0).any() for episode in recording.episodes)


def test_without_physics_there_is_a_report_and_nothing_to_show(capsys) -> None:
    evaluate.main(["runs/bandit/seed1", "--report"])
    page = printed(capsys, "Report").read_text()
    assert "success at any step" in page and "Rollouts" not in page
    for option in ("--replay", "--video", "--live"):
        assert "--report shows the rest" in fails(capsys, "runs/bandit/seed1", option)


def test_seeds_are_compared_with_yardsticks_that_are_kept(capsys) -> None:
    runs = ["runs/cheetah/seed1", "runs/cheetah/seed2"]
    options = [
        "--compare", "--yardstick", "--yardsticks.tasks", "2", "--yardsticks.ppo.env-steps", "64",
        "--yardsticks.ppo.rollout-steps", "8", "--yardsticks.ppo.evaluations", "1",
        "--yardsticks.sac.env-steps", "24", "--yardsticks.sac.evaluations", "1",
        "--yardsticks.sac.random-steps", "8", "--yardsticks.sac.batch-size", "8",
        "--yardsticks.multi-task.env-steps", "64", "--yardsticks.multi-task.rollout-steps", "8",
        "--yardsticks.multi-task.evaluations", "1", "--yardsticks.multi-task.num-minibatches", "4",
    ]  # fmt: skip
    evaluate.main([*runs, *options])
    output = capsys.readouterr().out
    (page,) = re.findall(r"^Report: (.*)$", output, flags=re.M)
    assert page.startswith("runs/comparisons/cheetah-seed1_cheetah-seed2")
    text = Path(page).read_text()
    for row in ("PPO from scratch", "SAC from scratch", "multi-task PPO", "random actions"):
        assert row in text
    assert "untrained, adapted" in text
    kept = {path: path.stat().st_mtime_ns for path in Path(runs[0], "yardsticks").iterdir()}
    assert len(kept) == 4
    evaluate.main([*runs, *options, "--stored"])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "PPO from scratch, task" not in capsys.readouterr().out


def test_agents_are_seen_on_the_same_tasks(capsys) -> None:
    """The shown rollouts are the played ones, and --stored reads them again."""
    runs = ["runs/cheetah/seed1", "runs/other/seed1", "runs/cheetah/seed2"]
    evaluate.main(["--compare", *runs, "--replay", "--record", "2"])
    output = capsys.readouterr().out
    (page,) = re.findall(r"^Report: (.*)$", output, flags=re.M)
    (replay,) = re.findall(r"^Replay: (.*)$", output, flags=re.M)
    assert Path(replay).parent == Path(page).parent
    text = Path(page).read_text()
    assert "One run of each agent: cheetah (seed 1), other (seed 1); on 2 of 5 tasks" in text
    assert base64.b64encode(Path(replay).read_bytes()).decode() in text
    recorded = {
        name: read_recordings(next(Path(page).parent.glob(f"{name}-seed1_*.npz")))
        for name in ("cheetah", "other")
    }
    assert [r.task for r in recorded["cheetah"]] == [r.task for r in recorded["other"]]
    for name, recordings in recorded.items():
        stored = json.loads(Path(f"runs/{name}/seed1/eval/test_96.json").read_text())
        for recording in recordings:
            returns = stored["per_task"]["scores"]["return"][recording.task]
            shown = [float(episode.reward.sum()) for episode in recording.episodes]
            np.testing.assert_allclose(shown, [returns[0], returns[-1]], rtol=1e-5)
    first = Path(replay).read_bytes()
    evaluate.main(["--compare", *runs, "--replay", "--stored"])
    assert Path(replay).read_bytes() == first
    capsys.readouterr()
    missing = fails(capsys, "--compare", *runs[:2], "--replay", "--stored")
    assert "no recordings in" in missing and "leave --stored out" in missing


def test_runs_are_checked_before_anything_is_played(
    capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluating, "play", lambda *_, **__: pytest.fail("played"))
    few_shot = tmp_path / "few" / "seed1"
    few_shot.mkdir(parents=True)
    (few_shot / "config.yaml").write_text("{name: few, env: {kind: sinusoid}, agent: {kind: maml}}")
    damaged = tmp_path / "runs" / "damaged" / "seed1"
    shutil.copytree("runs/other/seed1", damaged)
    next(damaged.glob("checkpoints/96/*.safetensors")).write_bytes(b"no tensors")
    config = damaged / "config.yaml"
    config.write_text(config.read_text().replace("name: other", "name: damaged"))
    run, other = "runs/cheetah/seed1", "runs/other/seed1"
    for message, arguments in (
        ("on the same tasks", [run, "runs/bandit/seed1"]),
        ("is there twice", [run, other, run]),
        ("not for few-shot learning", [run, str(few_shot)]),
        ("no checkpoint", [run, "runs/cheetah/seed2", other, "--checkpoint", "5"]),
        ("damaged", [run, str(damaged)]),
        ("is no run", [run, "runs"]),
        ("nothing to show", ["runs/bandit/seed1", "--replay"]),
        ("has no camera nose", [run, other, "--video", "--camera", "nose"]),
    ):
        assert message in fails(capsys, "--compare", *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--fine", "--fine has no meaning by itself; add --video"),
        ("--camera track --replay", "--camera has no meaning by itself; add --video"),
        ("--port 8000", "--port has no meaning by itself; add --live"),
        ("--record 2", "--record has no meaning by itself; add --report or --replay or --video"),
        ("--compare --record 2 --report", "--record has no meaning by itself; add --replay or"),
        ("--report --yardsticks.tasks 2", "--yardsticks has no meaning by itself; add --yardstick"),
        ("--shots 1", "--shots is for few-shot learning"),
        ("--live --report", "--report has no meaning with --live; leave one of them out"),
        ("--live --video --camera track", "--video has no meaning with --live"),
        ("--live --compare", "--compare has no meaning with --live"),
        ("--live --threshold 0.5", "--threshold has no meaning with --live"),
        ("--stored --replay --record 2", "--record is for playing, and --stored reads"),
        ("--stored --device cpu", "--device is for playing, and --stored reads"),
    ],
)
def test_options_that_would_be_ignored_are_named(capsys, options: str, message: str) -> None:
    assert message in fails(capsys, "runs/cheetah/seed1", *options.split())


def test_mistakes_are_one_line(capsys) -> None:
    run = "runs/cheetah/seed1"
    for message, arguments in (
        ("name one run", [run, "runs/cheetah/seed2"]),
        ("no stored evaluation", [run, "--stored", "--episodes", "7"]),
        ("on the same tasks", [run, "runs/bandit/seed1", "--compare"]),
        ("is there twice", [run, run, "--compare"]),
        ("for all held-out tasks", [run, "--yardstick", "--report", "--split", "train"]),
        ("add --report", [run, "--yardstick"]),
        ("unknown key 'yardsticks.tsks'", [run, "--yardsticks.tsks", "3"]),
    ):
        assert message in fails(capsys, *arguments)
    damaged = Path(run, "eval", "test_96_seed-5.recordings.npz")
    evaluate.main([run, "--seed", "5", "--replay", "--record", "1"])
    damaged.write_bytes(b"PK")
    assert "cannot be read" in fails(capsys, run, "--seed", "5", "--replay", "--stored")


def test_tensorboard_has_readable_groups_first_and_last_episodes_and_videos(capsys) -> None:
    Path("film.yaml").write_text(CHEETAH % ", video_every: 1")
    try:
        find_backend()
    except UserError as error:
        assert str(error) in fails_in_training(capsys)
        return
    train.main(["film.yaml"])
    run = Path("runs/film/seed1")
    board = EventAccumulator(str(run)).Reload()
    scalars = set(board.Tags()["scalars"])
    groups = {tag.split("/")[0] for tag in scalars}
    assert groups == {"train", "update", "timing", "final"}
    for line in ("first_episode", "last_episode"):
        one = EventAccumulator(str(run / line)).Reload()
        assert set(one.Tags()["scalars"]) == {"adaptation/return", "adaptation/success"}
        logged = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
        shown = [event.value for event in one.Scalars("adaptation/return")]
        np.testing.assert_allclose(shown, [each[f"return/{line}"] for each in logged], rtol=1e-6)
    (film,) = board.Images("adaptation/video")
    assert film.encoded_image_string.startswith(b"GIF89a") and film.step == 96
    (final,) = board.Scalars("final/return/last_episode")
    assert final.value == pytest.approx(logged[-1]["return/last_episode"], rel=1e-6)
    assert "_hparams_/session_start_info" in board.summary_metadata


def fails_in_training(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit), one_line_errors("train.py"):
        train.main(["film.yaml"])
    return capsys.readouterr().err
