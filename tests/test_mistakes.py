"""The command line: user mistakes, numbers that are not finite, and full disks."""

import errno
import io
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.tensorboard.summary
from safetensors import SafetensorError

import evaluate
import train
from agents.rl2 import RL2
from envs.bandit import BanditEnv
from envs.navigation import PointEnv
from envs.tabular import TabularEnv
from metarl.errors import UserError
from metarl.evaluation.record import METAWORLD
from metarl.evaluation.trials import find_shape
from metarl.system.command_line import one_line_errors
from metarl.training import checkpoint, progress
from metarl.training.checkpoint import TENSORS, checkpoints, load_checkpoint
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

RUN = Path("runs/tiny/seed1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "no config file nowhere.yaml"),
        (["tiny.yaml", "other.yaml"], "one config at a time"),
        (["tiny.yaml", "--agent.hiden_size", "3"], "Did you mean hidden_size"),
        (["tiny.yaml", "--agent.clip", "-1"], "'agent.clip' should be greater than 0"),
        (["tiny.yaml", "--agent.chunk_length", "3"], "chunk_length 3 does not divide"),
        (["tiny.yaml", "--train.rollout_steps", "4"], "rollout_steps 4 does not divide a trial"),
        (
            ["tiny.yaml", "--agent", "{kind: promp}", "--train.rollout_steps", "5"],
            "agent.kind promp learns from whole trials; leave out train.rollout_steps",
        ),
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
    """A config of five iterations, of which the fourth gets NaN as a reward."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(with_agent(TINY % (5 * ITERATION_STEPS, 2), request.param))
    owner = PointEnv if request.param == "pearl" else BanditEnv
    step, steps = owner.step, []

    def broken_step(env, actions):
        obs, reward, *rest = step(env, actions)
        steps.append(len(reward))
        if sum(steps) == 4 * ITERATION_STEPS:
            reward[7] = float("nan")
        return obs, reward, *rest

    monkeypatch.setattr(owner, "step", broken_step)
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
    assert meta.skipped == 1


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_an_update_that_is_not_finite_is_undone(
    tiny: Path, capsys, monkeypatch: pytest.MonkeyPatch, on_nan: str
) -> None:
    """Even if it has changed the agent before that is noticed."""
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
    """With Meta-World's protocol and without; numbers of episodes side by side are rounded up."""
    lines = tiny.read_text().splitlines()
    lines[2] = f"agent: {AGENTS['maml_trpo'].replace('5}', '4}')}"
    lines[3] = lines[3].replace("episodes_per_trial: 10", "episodes_per_trial: 8")
    tiny.write_text("\n".join(lines))
    train.main([str(tiny)])
    message = fails(capsys, evaluate, ["runs/tiny/seed1", "--greedy"])
    assert "maml_trpo adapts by what its own random actions lead to" in message
    experiment = load_experiment(Path("runs/tiny/seed1/config.yaml"))
    shape = find_shape(experiment, METAWORLD, evaluate.EvaluationConfig(protocol="metaworld"))
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
        ([run, "--protocol", "metaworld"], "is not documented for 5-armed Bernoulli bandits"),
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
    assert f"remove {newest.parent} to go on from the next older one, 400" in fails(
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


def test_what_the_system_refuses_is_one_line(capsys) -> None:
    with pytest.raises(SystemExit) as stopped, one_line_errors("program"):
        Path("x" * 5000).stat()
    assert stopped.value.code == 2
    assert "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_what_the_output_cannot_hold_is_replaced(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(
            sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        )
    with pytest.raises(SystemExit), one_line_errors("program"):
        print("RL² → \ud800")
        raise UserError("kein Ω")
    shown = "RL² → ?\n" if encoding == "utf-8" else "RL² ? ?\n"
    assert sys.stdout.buffer.getvalue().decode(encoding) == (
        shown.replace("²", "?") if encoding == "ascii" else shown
    )
    assert sys.stderr.buffer.getvalue().startswith(b"program: kein ")


def test_output_that_is_closed_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with one_line_errors("program"):
        print("nobody reads this")
    assert sys.stdout is not None


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_output_that_cannot_be_written_costs_no_training(
    tiny: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FULL.open("w") as full, monkeypatch.context() as output:
        output.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stopped, one_line_errors("program"):
            train.main([str(tiny)])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    first, last = message.splitlines()
    assert first.startswith("note: no progress can be shown, training goes on")
    assert last.startswith("program: cannot write the output: ")
    assert checkpoints(Path("runs/tiny/seed1/checkpoints"))[-1].name == "500"


@pytest.mark.parametrize(
    "allocate", [lambda: np.zeros(2**58), lambda: torch.zeros(2**60), lambda: bytearray(2**62)]
)
def test_what_cannot_be_allocated_is_one_line(capsys, allocate) -> None:
    with pytest.raises(SystemExit) as stopped, one_line_errors("program"):
        allocate()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("program: not enough memory; choose smaller sizes")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.meta-batch-size", "1e6", "--train.episodes-per-trial", "1e6"],
         "a trial of 1,000,000 tasks, 1,000,000 episodes each of 1 steps, would take 100,000 GB"),
        (["--env.num-train-tasks", "1e7", "--env.num-arms", "10_000"], "of 10,000 arms would take"),
        (["--env", "{kind: tabular, num_states: 10_000}"], "of 10,000 states and 5 actions would"),
    ],
)  # fmt: skip
def test_sizes_that_no_machine_has_room_for(tiny: Path, capsys, arguments, message: str) -> None:
    assert message in fails(capsys, train, [str(tiny), *arguments])
    assert not Path("runs").exists()


def test_a_broken_pipe_inside_is_not_hidden() -> None:
    with pytest.raises(BrokenPipeError), one_line_errors("program"):
        raise BrokenPipeError


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(("env", "value"), [("tabular", float("nan")), ("point", float("-inf"))])
def test_nothing_of_an_iteration_that_is_not_finite_is_learned(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, env: str, value: float, agent: str
) -> None:
    """Neither discrete nor other policies see it: normalizers, weights and optimizer stay."""
    if (env, agent) == ("tabular", "pearl"):
        pytest.skip("it needs continuous actions")
    tiny.write_text(
        f"env: {{kind: {env}, horizon: 2}}\nagent: {AGENTS[agent]}\n"
        "train: {env_steps: 400, meta_batch_size: 10, episodes_per_trial: 10, checkpoint_every: 1}"
    )
    owner = {"tabular": TabularEnv, "point": PointEnv}[env]
    step, steps = owner.step, []

    def broken_step(env, actions):
        obs, reward, *rest = step(env, actions)
        steps.append(len(reward))
        if sum(steps) > 200:  # throughout the second iteration
            obs = obs.copy()
            obs[3] = value
        return obs, reward, *rest

    monkeypatch.setattr(owner, "step", broken_step)
    train.main([str(tiny), "--on-nan", "skip"])
    first, second = (load_checkpoint(p)[0] for p in checkpoints(RUN / "checkpoints")[1:])
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_that_are_not_finite_are_not_kept(
    tiny: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if all metrics of the update that broke them were finite."""
    update, calls = RL2.meta_update, []

    def broken_update(agent, trial, *, generator):
        calls.append(1)
        learned = update(agent, trial, generator=generator)
        if len(calls) == 4:
            next(agent.network.parameters()).data[0] = float("nan")
        return learned

    monkeypatch.setattr(RL2, "meta_update", broken_update)
    assert "among the agent's weights is not finite" in fails(capsys, train, [str(tiny)])
    assert checkpoints(RUN / "checkpoints")[-1].name == "300"


# -- where nothing can be written ------------------------------------------------------------------


@pytest.mark.parametrize("full", ["checkpoint", "metrics"])
def test_a_full_disk_costs_what_was_not_saved_yet(
    tiny: Path, capsys, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    train.main([str(tiny), "--run-dir", "whole"])
    finish = Run.finish_iteration

    def on_a_full_disk(run: Run, *args, **kwargs):
        if run.iteration == 3:
            if full == "metrics":
                run._metrics_file = Path("/dev/full").open("w")  # noqa: SIM115
            else:
                patch.setattr(checkpoint, "save_file", no_space)
        finish(run, *args, **kwargs)

    def no_space(*args: object, **kwargs: object) -> None:
        raise SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish_iteration", on_a_full_disk)
        message = fails(capsys, train, [str(tiny)])
    saved = "300" if full == "metrics" else "200"
    assert f"No space left on device: {RUN}" in message or full == "metrics"
    assert f"saved is {RUN / 'checkpoints' / saved}. " in message
    assert f"python train.py --resume {RUN}" in message
    assert {path.name for path in (RUN / "checkpoints").iterdir()} <= {"0", "200", "300"}
    train.main(["--resume", str(RUN)])
    assert final_bytes(RUN) == final_bytes(Path("whole"))
    assert metrics(RUN) == metrics(Path("whole"))


def test_a_run_folder_that_is_gone_is_not_made_again(
    tiny: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Run.finish_iteration

    def removed(run: Run, *args, **kwargs):
        if run.iteration == 2:
            shutil.rmtree(run.folder)
        finish(run, *args, **kwargs)

    monkeypatch.setattr(Run, "finish_iteration", removed)
    assert f"{RUN} is gone, and what was learned with it" in fails(capsys, train, [str(tiny)])
    assert not RUN.exists()


def test_neither_picture_nor_progress_costs_the_final_checkpoint(
    tiny: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_table(*args: object) -> None:
        raise ValueError("no table")

    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.utils.tensorboard.summary, "hparams", no_table)
    monkeypatch.setattr(progress, "print", no_space, raising=False)
    train.main([str(tiny)])
    said = capsys.readouterr().err
    assert "no progress can be shown" in said and "no table" in said
    assert said.count("\n") == 2
    assert checkpoints(RUN / "checkpoints")[-1].name == "500"


def test_results_go_elsewhere_where_that_is_asked_for(tiny: Path, capsys) -> None:
    train.main([str(tiny)])
    before = {path: path.stat().st_mtime_ns for path in RUN.rglob("*")}
    elsewhere = ["--output", "elsewhere", "--episodes", "3"]
    evaluate.main([str(RUN), *elsewhere])
    evaluate.main([str(RUN), *elsewhere, "--report", "--stored"])
    name = "test_500_episodes-3"
    written = {path.name for path in Path("elsewhere/tiny-seed1/eval").iterdir()}
    assert written == {f"{name}.json", f"{name}.png"}
    assert Path(f"elsewhere/tiny-seed1/report/{name}/report.html").is_file()
    message = fails(capsys, evaluate, [str(RUN), "--output", "/dev/full/there"])
    assert "cannot write to /dev/full/there/tiny-seed1: Not a directory; put results" in message
    assert not capsys.readouterr().out  # nothing was played before
    assert {path: path.stat().st_mtime_ns for path in RUN.rglob("*")} == before


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_output_that_cannot_be_written_costs_no_evaluation(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main([str(tiny)])
    with FULL.open("w") as full, monkeypatch.context() as output:
        output.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stopped, one_line_errors("program"):
            evaluate.main([str(RUN), "--episodes", "2"])
    assert stopped.value.code == 2
    evaluate.main([str(RUN), "--episodes", "2", "--stored"])
