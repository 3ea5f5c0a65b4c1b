"""The command line: runs, resumes, interrupts and evaluations."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import evaluate
import train
from envs.locomotion import VARIANTS
from metarl.training.checkpoint import checkpoints, load_checkpoint
from metarl.training.experiment import load_experiment
from metarl.training.run import Run
from tests.runs import (
    AGENTS,
    ITERATION_STEPS,
    TINY,
    fails,
    final_bytes,
    metrics,
    with_agent,
)


def test_a_run_leaves_everything_that_is_needed_to_read_it(tiny: Path) -> None:
    train.main([str(tiny), "--seed", "7"])
    folder = Path("runs/tiny/seed7")
    assert [line["iteration"] for line in metrics(folder)] == [1, 2, 3, 4, 5]
    assert [line["env_steps"] for line in metrics(folder)] == [100, 200, 300, 400, 500]
    names = [path.name for path in checkpoints(folder / "checkpoints")]
    assert names == ["0", "200", "400", "500"]
    assert load_experiment(folder / "config.yaml").seed == 7
    (start,) = json.loads((folder / "env.json").read_text())
    assert start["versions"]["torch"] == torch.__version__
    assert list(folder.glob("events.out.tfevents.*"))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train.main([str(tiny), "--run-dir", name, "--seed", str(seed)])
    assert final_bytes(Path("a")) == final_bytes(Path("b")) != final_bytes(Path("c"))
    assert metrics(Path("a")) == metrics(Path("b")) != metrics(Path("c"))


@pytest.mark.parametrize("where", ["trial_in_parts", "finish_iteration"])
def test_an_interrupt_saves_and_the_run_goes_on_bit_for_bit(
    tiny: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([str(tiny), "--run-dir", "whole"])
    calls = []

    def interrupting(original):
        def call(*args, **kwargs):
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        owner = train if where == "trial_in_parts" else Run
        patch.setattr(owner, where, interrupting(getattr(owner, where)))
        train.main([str(tiny), "--run-dir", "parts"])
    assert stopped.value.code == 130
    assert "python train.py --resume parts" in capsys.readouterr().out
    # Three iterations were finished; in one case the fourth had already changed the agent.
    assert checkpoints(Path("parts/checkpoints"))[-1].name == "300"
    train.main(["--resume", "parts"])
    assert final_bytes(Path("parts")) == final_bytes(Path("whole"))
    assert metrics(Path("parts")) == metrics(Path("whole"))
    assert len(json.loads(Path("parts/env.json").read_text())) == 2


def test_a_run_is_trained_by_one_process_at_a_time(
    tiny: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Run.finish_iteration

    def trained_twice(run: Run, *args, **kwargs):
        message = fails(capsys, train, ["--resume", str(run.folder)])
        assert "a is being trained already" in message
        finish(run, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish_iteration", trained_twice)
        train.main([str(tiny), "--run-dir", "a"])
    train.main([str(tiny), "--run-dir", "b"])
    assert metrics(Path("a")) == metrics(Path("b"))
    assert final_bytes(Path("a")) == final_bytes(Path("b"))
    train.main(["--resume", "a"])  # free again


def test_resuming_a_finished_run_changes_nothing(tiny: Path) -> None:
    train.main([str(tiny), "--run-dir", "done"])
    before = final_bytes(Path("done")), metrics(Path("done"))
    train.main(["--resume", "done"])
    assert (final_bytes(Path("done")), metrics(Path("done"))) == before


@pytest.mark.parametrize("agent", ["rl2", "varibad"])
def test_a_run_survives_being_killed_at_any_moment(tmp_path: Path, agent: str) -> None:
    """8 times SIGKILL at random moments, most of them while it saves: with a replay, and without
    one."""
    config = tmp_path / "tiny.yaml"
    iterations = 300 if agent == "rl2" else 100
    config.write_text(with_agent(TINY % (iterations * ITERATION_STEPS, 1), agent))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "torch.utils.tensorboard.summary"])

    def start(folder: Path):
        # A run folder appears with its config or not at all.
        arguments = [str(config), "--run-dir", str(folder)]
        arguments = ["--resume", str(folder)] if folder.exists() else arguments
        process = context.Process(target=train.main, args=(arguments,))
        process.start()
        return process

    def newest(folder: Path) -> str | None:
        names = [path.name for path in checkpoints(folder / "checkpoints")]
        return names[-1] if names else None

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    process.join(120)
    assert process.exitcode == 0
    rng, kills, reached = random.Random(0), 0, set()
    while kills < 8:
        process = start(killed)
        begun = newest(killed)
        while process.exitcode is None and newest(killed) == begun:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        if process.exitcode == -signal.SIGKILL:
            kills += 1
        else:  # finished before the signal: start anew
            assert process.exitcode == 0
            assert final_bytes(killed) == final_bytes(whole)
            killed = tmp_path / f"killed-{kills}"
        reached.add(newest(killed))
    # The kills hit running trainings, at different points.
    assert len(reached) > 4
    process = start(killed)
    process.join(120)
    assert process.exitcode == 0
    assert final_bytes(killed) == final_bytes(whole)
    assert metrics(killed) == metrics(whole)
    for checkpoint in checkpoints(killed / "checkpoints"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_goes_on_bit_for_bit(tiny: Path, agent: str) -> None:
    text = with_agent(tiny.read_text(), agent)
    if agent == "rl2_mixed":  # also one that learns within trials
        text = text.replace("train: {", "train: {rollout_steps: 5, ")
    tiny.write_text(text)
    train.main([str(tiny), "--run-dir", "whole"])
    train.main([str(tiny), "--run-dir", "parts", "--train.env-steps", "200"])
    config = Path("parts/config.yaml")
    config.write_text(config.read_text().replace("env_steps: 200", "env_steps: 500"))
    train.main(["--resume", "parts"])
    assert final_bytes(Path("parts")) == final_bytes(Path("whole"))
    assert metrics(Path("parts")) == metrics(Path("whole"))


def test_without_its_replay_a_run_can_be_evaluated_but_not_go_on(tiny: Path, capsys) -> None:
    tiny.write_text(with_agent(tiny.read_text(), "varibad"))
    train.main([str(tiny), "--run-dir", "run"])
    shutil.rmtree("run/replay")
    evaluate.main(["run"])
    assert "belief" in capsys.readouterr().out
    message = fails(capsys, train, ["--resume", "run"])
    assert "run/replay/500 is gone" in message
    assert "train its config anew" in message


@pytest.mark.parametrize("agent", AGENTS)
def test_a_new_run_begins_with_what_another_has_learned(tiny: Path, agent: str) -> None:
    tiny.write_text(with_agent(tiny.read_text(), agent))
    train.main([str(tiny), "--run-dir", "first"])
    for source in (Path("first"), checkpoints(Path("first/checkpoints"))[-1]):
        train.main([str(tiny), "--run-dir", "second", "--start-from", str(source)])
        learned, begun = (
            load_checkpoint(path).tensors
            for path in (checkpoints(Path("first/checkpoints"))[-1], Path("second/checkpoints/0"))
        )
        assert {name for name in learned if not name.startswith(("optimizer.", "replay."))}
        for name, tensor in begun.items():
            if name == "optimizer.learning_rate":
                assert tensor >= learned[name]
            elif not name.startswith(("optimizer.", "replay.")):
                assert torch.equal(tensor, learned[name]), name
        assert not any(".exp_avg." in name for name in begun)
        assert [line["iteration"] for line in metrics(Path("second"))] == [1, 2, 3, 4, 5]
        shutil.rmtree("second")


def test_a_run_that_died_before_its_first_checkpoint_still_begins_with_another(tiny: Path) -> None:
    train.main([str(tiny), "--run-dir", "first"])
    train.main([str(tiny), "--run-dir", "second", "--start-from", "first"])
    expected = final_bytes(Path("second"))
    shutil.rmtree("second/checkpoints")
    train.main(["--resume", "second"])
    assert final_bytes(Path("second")) == expected


def test_what_a_run_cannot_begin_with_is_one_line(tiny: Path, capsys) -> None:
    train.main([str(tiny), "--run-dir", "first"])
    for options, message in (
        (["--start-from", "nowhere"], "start_from: nowhere is no run with a checkpoint"),
        (["--start-from", "first", "--agent.hidden-size", "9"], "does not fit"),
        (["--start-from", "first", "--agent.encoder-sizes", "[4]"], "is of another agent"),
    ):
        line = fails(capsys, train, [str(tiny), "--run-dir", "second", *options])
        assert message in line
        assert not Path("second").exists()


def test_the_list_has_a_line_for_everything_there_is(capsys) -> None:
    assert "--list takes nothing else" in fails(capsys, train, ["--list", "--seed", "1"])
    train.main(["--list"])
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split(maxsplit=2) for line in printed if line.startswith(" ")]
    listed = {" ".join(line[:2]) if line[0] == "--env.kind" else line[0] for line in lines}
    assert all(len(line) >= 2 for line in lines)
    kinds = ("metaworld", "locomotion", "bandit", "tabular", "point", "gymnasium", "native_task")
    for kind in kinds:
        assert f"--env.kind {kind}" in listed
    assert {f"--env.variant={name}" for name in VARIANTS} <= listed
    configs = Path(train.__file__).parent / "configs"
    assert {path.stem for path in configs.glob("*.yaml")} <= listed


def test_evaluation_says_over_what_and_keeps_the_raw_numbers(tiny: Path, capsys) -> None:
    train.main([str(tiny)])
    evaluate.main(["runs/tiny/seed1", "--episodes", "3", "--tasks-at-once", "4"])
    text = " ".join(capsys.readouterr().out.split())
    assert "10 tasks of the test split of 5-armed Bernoulli bandits" in text
    assert "3 episodes of 1 step each, 1 agent (seed 1) after 500 env steps" in text
    (path,) = Path("runs/tiny/seed1/eval").glob("*.json")
    result = json.loads(path.read_text())
    raw = torch.tensor(result["per_task"]["scores"]["return"])
    assert raw.shape == (10, 3)
    torch.testing.assert_close(
        raw.mean(0), torch.tensor(result["overall"]["mean"]["return"]["value"])
    )
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    before = path.read_text()
    evaluate.main(["runs/tiny/seed1", "--episodes", "3", "--tasks-at-once", "4"])
    again = json.loads(path.read_text())
    changing = dict.fromkeys(("environment", "sha256"))
    assert {**again, **changing} == {**json.loads(before), **changing}
