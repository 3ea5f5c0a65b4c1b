"""The command line: every mistake that a user can make, and trainings that are not finite."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch

import evaluate
import train
from agents.rl2 import RL2
from envs.bandit import BanditEnv
from metarl.checkpoint import TENSORS, checkpoints, load_checkpoint
from metarl.errors import one_line_errors
from tests.runs import AGENTS, ITERATION_STEPS, TINY, fails, metrics


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
        (
            [run, "--tasks", "ML1-reach-v3"],
            "does not fit the run: its observations are of shape (39,)",
        ),
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


def test_a_reader_who_has_seen_enough_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody, output = os.pipe()
    os.close(nobody)
    with open(output, "w") as piped, monkeypatch.context() as head:
        head.setattr(sys, "stdout", piped)
        with pytest.raises(SystemExit) as stopped, one_line_errors("program"):
            train.main(["--list"])
    assert stopped.value.code == 141


def test_a_broken_pipe_inside_is_not_hidden() -> None:
    with pytest.raises(BrokenPipeError), one_line_errors("program"):
        raise BrokenPipeError
