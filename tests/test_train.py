"""The command line: runs, resumes, interrupts, and every mistake a user can make."""

import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

import evaluate
import train
from agents.rl2 import RL2
from envs.bandit import BanditEnv
from envs.locomotion import VARIANTS
from metarl import playing
from metarl.checkpoint import TENSORS, checkpoints, load_checkpoint
from metarl.errors import one_line_errors
from metarl.run import Run

TINY = """
env: {kind: bandit, num_train_tasks: 50, num_test_tasks: 10}
agent: {kind: rl2, hidden_size: 8, encoder_sizes: [], epochs: 2, num_minibatches: 2}
train: {env_steps: %d, tasks_per_trial: 10, episodes_per_trial: 10, checkpoint_every: %d}
"""
ITERATION_STEPS = 100


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of five iterations; runs go to a temporary folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY % (5 * ITERATION_STEPS, 2))
    return path


def metrics(folder: Path) -> list[dict]:
    """Logged lines without what a clock measured."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("timing/")} for line in lines]


def final_bytes(folder: Path) -> bytes:
    return (checkpoints(folder / "checkpoints")[-1] / TENSORS).read_bytes()


def test_a_run_leaves_everything_that_is_needed_to_read_it(tiny: Path) -> None:
    train.main([str(tiny), "--seed", "7"])
    folder = Path("runs/tiny/seed7")
    assert [line["iteration"] for line in metrics(folder)] == [1, 2, 3, 4, 5]
    assert [line["env_steps"] for line in metrics(folder)] == [100, 200, 300, 400, 500]
    names = [path.name for path in checkpoints(folder / "checkpoints")]
    assert names == ["0", "200", "400", "500"]
    assert train.load_experiment(folder / "config.yaml").seed == 7
    (start,) = json.loads((folder / "env.json").read_text())
    assert start["versions"]["torch"] == torch.__version__
    assert list(folder.glob("events.out.tfevents.*"))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train.main([str(tiny), "--run-dir", name, "--seed", str(seed)])
    assert final_bytes(Path("a")) == final_bytes(Path("b")) != final_bytes(Path("c"))
    assert metrics(Path("a")) == metrics(Path("b")) != metrics(Path("c"))


@pytest.mark.parametrize("where", ["run_trial", "finish_iteration"])
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
        owner = playing if where == "run_trial" else Run
        patch.setattr(owner, where, interrupting(getattr(owner, where)))
        train.main([str(tiny), "--run-dir", "parts"])
    assert stopped.value.code == 130
    assert "python train.py --resume parts" in capsys.readouterr().out
    # Three iterations were finished; the fourth had even changed the agent in one of the cases.
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


def test_a_run_survives_being_killed_at_any_moment(tmp_path: Path) -> None:
    """20 times SIGKILL, at random moments and so also while it saves, which it mostly does."""
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY % (300 * ITERATION_STEPS, 1))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "torch.utils.tensorboard.writer"])

    def start(folder: Path):
        # A run folder appears with its config in it or not at all.
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
    while kills < 20:
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
        else:  # It was done before the signal came: start anew.
            assert process.exitcode == 0
            assert final_bytes(killed) == final_bytes(whole)
            killed = tmp_path / f"killed-{kills}"
        reached.add(newest(killed))
    # The kills fell into a run that was under way, and at different places.
    assert len(reached) > 10
    process = start(killed)
    process.join(120)
    assert process.exitcode == 0
    assert final_bytes(killed) == final_bytes(whole)
    assert metrics(killed) == metrics(whole)
    for checkpoint in checkpoints(killed / "checkpoints"):
        load_checkpoint(checkpoint)


# -- mistakes --------------------------------------------------------------------------------------


def fails(capsys: pytest.CaptureFixture[str], program, arguments: list[str]) -> str:
    """The one line on stderr of a command that exits with code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped, one_line_errors("program"):
        program.main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "no config file nowhere.yaml"),
        (["tiny.yaml", "other.yaml"], "one config at a time"),
        (["tiny.yaml", "--agent.hiden_size", "3"], "Did you mean hidden_size"),
        (["tiny.yaml", "--agent.clip", "-1"], "'agent.clip' should be greater than 0"),
        (["tiny.yaml", "--agent.chunk_length", "3"], "chunk_length 3 does not divide"),
        (["tiny.yaml", "--env", "{kind: metaworld, benchmark: ML1-reech-v3}"], "ML1-reach-v3"),
        (
            ["tiny.yaml", "--env",
             "{kind: metaworld, benchmark: custom, train_classes: [push-v3], "
             "test_classes: [push-v3]}"],
            "keep it in one of them",
        ),
        (["--resume", "nowhere"], "nowhere is no run"),
        (["--resume", "a", "--seed", "3"], "give it alone"),
        (["tiny.yaml", "--seed"], "--seed needs a value"),
    ],
)  # fmt: skip
def test_mistakes_in_training(tiny: Path, capsys, arguments: list[str], message: str) -> None:
    assert message in fails(capsys, train, arguments)
    assert not Path("runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(tiny: Path, capsys) -> None:
    assert "no CUDA device here" in fails(capsys, train, [str(tiny), "--device", "cuda"])


def test_an_existing_run_is_not_overwritten(tiny: Path, capsys) -> None:
    train.main([str(tiny)])
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert "exists already" in fails(capsys, train, [str(tiny)])
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


AGENTS = {
    "rl2": "{kind: rl2, hidden_size: 8, encoder_sizes: [], epochs: 2, num_minibatches: 2}",
    "maml_trpo": "{kind: maml_trpo, hidden_sizes: [8], episodes_per_step: 5}",
    "promp": "{kind: promp, hidden_sizes: [8], episodes_per_step: 5}",
}


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
def test_every_agent_goes_on_bit_for_bit(tiny: Path, agent: str) -> None:
    lines = tiny.read_text().splitlines()
    lines[2] = f"agent: {agent}"
    tiny.write_text("\n".join(lines))
    train.main([str(tiny), "--run-dir", "whole"])
    train.main([str(tiny), "--run-dir", "parts", "--train.env-steps", "200"])
    config = Path("parts/config.yaml")
    config.write_text(config.read_text().replace("env_steps: 200", "env_steps: 500"))
    train.main(["--resume", "parts"])
    assert final_bytes(Path("parts")) == final_bytes(Path("whole"))
    assert metrics(Path("parts")) == metrics(Path("whole"))


@pytest.fixture(params=AGENTS)
def broken_fourth_reward(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A config of five iterations, of which the fourth plays with a NaN as a reward."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    lines = (TINY % (5 * ITERATION_STEPS, 2)).splitlines()
    lines[2] = f"agent: {AGENTS[request.param]}"
    path.write_text("\n".join(lines))
    step, steps = BanditEnv.step, []

    def broken_step(env, actions):
        obs, reward, *rest = step(env, actions)
        steps.append(len(reward))
        if sum(steps) == 4 * ITERATION_STEPS:
            reward[7] = float("nan")
        return obs, reward, *rest

    monkeypatch.setattr(BanditEnv, "step", broken_step)
    return path


def test_a_reward_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    broken_fourth_reward: Path, capsys
) -> None:
    message = fails(capsys, train, [str(broken_fourth_reward)])
    assert re.search(
        r"iteration 4: reward in step \d+ of slot 7 is not finite \(task \d, \S+\);", message
    )
    assert "--on-nan skip" in message
    assert checkpoints(Path("runs/tiny/seed1/checkpoints"))[-1].name == "300"


def test_an_iteration_that_is_not_finite_can_be_skipped(broken_fourth_reward: Path, capsys) -> None:
    train.main([str(broken_fourth_reward), "--on-nan", "skip"])
    folder = Path("runs/tiny/seed1")
    assert "iteration 4 skipped: reward in step" in capsys.readouterr().out
    *_, fourth, fifth = metrics(folder)
    assert fourth == {"iteration": 4, "env_steps": 400, "skipped": 1}
    assert fifth["iteration"] == 5 and "return/last_episode" in fifth
    _, meta = load_checkpoint(folder / "checkpoints" / "500")
    assert meta["skipped"] == 1


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_an_update_that_is_not_finite_is_undone(
    tiny: Path, capsys, monkeypatch: pytest.MonkeyPatch, on_nan: str
) -> None:
    """Even if it has changed the agent before it was noticed."""
    update, calls = RL2.meta_update, []

    def broken_update(agent, trial, *, generator):
        learned = update(agent, trial, generator=generator)
        calls.append(1)
        return learned | ({"kl": float("nan")} if len(calls) == 4 else {})

    monkeypatch.setattr(RL2, "meta_update", broken_update)
    arguments = [str(tiny), "--on-nan", on_nan, "--train.checkpoint-every", "1"]
    if on_nan == "stop":
        assert "iteration 4: update/kl is not finite; " in fails(capsys, train, arguments)
    else:
        train.main(arguments)
        folder = Path("runs/tiny/seed1/checkpoints")
        third, fourth = ((folder / name / TENSORS).read_bytes() for name in ("300", "400"))
        assert third == fourth
    assert Path("runs/tiny/seed1/checkpoints/300").is_dir()


def test_an_agent_that_learns_from_random_actions_is_not_judged_by_its_mode(
    tiny: Path, capsys
) -> None:
    """On Meta-World's protocol and otherwise; episodes side by side are rounded up."""
    lines = tiny.read_text().splitlines()
    lines[2] = f"agent: {AGENTS['maml_trpo'].replace('5}', '4}')}"
    lines[3] = lines[3].replace("episodes_per_trial: 10", "episodes_per_trial: 8")
    tiny.write_text("\n".join(lines))
    train.main([str(tiny)])
    message = fails(capsys, evaluate, ["runs/tiny/seed1", "--greedy"])
    assert "maml_trpo adapts by what its own random actions lead to" in message
    experiment = train.load_experiment(Path("runs/tiny/seed1/config.yaml"))
    shape = evaluate.find_shape(experiment, evaluate.EvaluationConfig(protocol="metaworld"))
    assert (shape.slots_per_task, shape.rollouts) == (4, 4)  # 12 episodes to adapt, 4 to test


def test_mistakes_in_evaluation(tiny: Path, capsys) -> None:
    train.main([str(tiny)])
    run = "runs/tiny/seed1"
    for arguments, message in (
        ([], "name one run"),
        (["nowhere"], "nowhere is no run"),
        ([run, "--split", "val"], "'split' should be 'train' or 'test'"),
        ([run, "--episodes", "0"], "'episodes' should be greater than or equal to 1"),
        ([run, "--episods", "3"], "Did you mean episodes"),
        ([run, "--checkpoint", "123"], "there are 0, 200, 400, 500"),
        ([run, "--protocol", "metaworld"], "is for Meta-World"),
        ([run, "--tasks", "ML1-reach-v3"], "does not fit: network.log_std is 5 there and 4 here"),
        ([run, "--tasks", "ML1-reech-v3"], "Did you mean ML1-reach-v3"),
    ):
        assert message in fails(capsys, evaluate, arguments)
    newest = checkpoints(Path(run, "checkpoints"))[-1] / TENSORS
    newest.write_bytes(newest.read_bytes()[:-10])
    assert "500 is damaged" in fails(capsys, evaluate, [run])
    assert "remove it and use another; there are 0, 200, 400" in fails(
        capsys, train, ["--resume", run]
    )
    assert not Path(run, "eval").exists()


def test_a_checkpoint_of_another_agent_is_refused(tiny: Path, capsys) -> None:
    train.main([str(tiny)])
    config = Path("runs/tiny/seed1/config.yaml")
    config.write_text(config.read_text().replace("memory: gru", "memory: lstm"))
    assert "does not fit" in fails(capsys, train, ["--resume", "runs/tiny/seed1"])


def test_the_list_has_a_line_for_everything_there_is(capsys) -> None:
    assert "--list takes nothing else" in fails(capsys, train, ["--list", "--seed", "1"])
    train.main(["--list"])
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split(maxsplit=2) for line in printed if line.startswith(" ")]
    listed = {" ".join(line[:2]) if line[0] == "--env.kind" else line[0] for line in lines}
    assert all(len(line) >= 2 for line in lines)
    for kind in ("metaworld", "locomotion", "bandit", "tabular", "point", "gymnasium"):
        assert f"--env.kind {kind}" in listed
    assert {f"--env.variant={name}" for name in VARIANTS} <= listed
    configs = Path(train.__file__).parent / "configs"
    assert {f"configs/{path.name}" for path in configs.glob("*.yaml")} <= listed


def test_a_reader_who_has_seen_enough_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody, output = os.pipe()
    os.close(nobody)
    with open(output, "w") as piped, monkeypatch.context() as head:
        head.setattr(sys, "stdout", piped)
        with pytest.raises(SystemExit) as stopped, one_line_errors("program"):
            train.main(["--list"])
    assert stopped.value.code == 141


# -- evaluation ------------------------------------------------------------------------------------


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
    assert {**again, "environment": None} == {**json.loads(before), "environment": None}
