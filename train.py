"""Trains a meta-learning agent: config -> task distribution, agent, run -> one loop.

python train.py                                            the default experiment
python train.py configs/rl2_bandit.yaml --seed 3           another one; any value is a flag
python train.py --resume runs/rl2_bandit/seed3             go on where a run stopped
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

# Threads of torch that wait by spinning for long stall when another process takes their core.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import tyro
from pydantic import Field

from agents.rl2 import RL2, RL2Config
from envs.bandit import BanditConfig
from envs.metaworld import MetaWorldConfig
from envs.navigation import PointConfig
from metarl.config import Config, override, read_yaml, split_command_line, validate
from metarl.errors import UserError, one_line_errors
from metarl.evaluation import adaptation_curve
from metarl.progress import Progress
from metarl.protocols import TaskVectorEnv
from metarl.run import CONFIG, Run, choose_device
from metarl.seeding import derive_seed, torch_generator
from metarl.trial import run_trial
from metarl.types import Rollout

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "rl2_ml1_reach.yaml"

EnvConfig = Annotated[
    MetaWorldConfig | BanditConfig | PointConfig,
    Field(discriminator="kind"),
]
AgentConfig = RL2Config
Count = Annotated[int, Field(ge=1)]


class TrainConfig(Config):
    """How long to train, and on how much at once."""

    env_steps: Count = 1_000_000
    """Environment steps to train for; rounded up to whole iterations."""
    tasks_per_trial: Count = 40
    """Tasks, and so slots, that are played side by side in an iteration (the meta-batch)."""
    episodes_per_trial: Count = 2
    """Consecutive episodes on each task, over which the agent adapts."""
    checkpoint_every: Count = 10
    """Iterations from one checkpoint to the next. The first and the last state are always saved."""


class Experiment(Config):
    """Everything that a run depends on."""

    name: str = "experiment"
    """The run goes to runs/<name>/seed<seed>."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Of the agent: initial weights, sampled tasks, actions. Goals have their own, env.seed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the agent lives; auto takes CUDA where there is one."""
    env: EnvConfig
    """The task distribution."""
    agent: AgentConfig
    """The algorithm."""
    train: TrainConfig = TrainConfig()
    """The training loop."""


def train(experiment: Experiment, folder: Path, *, new: bool) -> None:
    """Trains until the experiment's budget is spent; goes on from the folder's newest checkpoint.

    All randomness of iteration i follows from (seed, i), so a resumed run plays and learns bit for
    bit what an uninterrupted one would have.
    """
    plan = experiment.train
    distribution = experiment.env.build()
    env = distribution.make_env(plan.tasks_per_trial)
    agent = build_agent(experiment, env)
    experiment.agent.check_trial(plan.episodes_per_trial * env.horizon)
    if new:
        Run.create(folder, experiment)
    run = Run(folder, agent)
    run.save()
    progress = Progress(
        f"{experiment.name}: {distribution.name}",
        total_env_steps=plan.env_steps,
        done_env_steps=run.env_steps,
    )
    try:
        with progress:
            while run.env_steps < plan.env_steps:
                started = time.perf_counter()
                task_rng = np.random.default_rng(iteration_seed(experiment, run, "tasks"))
                generator = torch_generator(iteration_seed(experiment, run, "agent"), agent.device)
                trial = run_trial(
                    agent,
                    env,
                    distribution.train.sample(plan.tasks_per_trial, task_rng),
                    episodes=plan.episodes_per_trial,
                    seed=iteration_seed(experiment, run, "env"),
                    generator=generator,
                )
                played = time.perf_counter()
                learned = agent.meta_update(trial, generator=generator)
                finished = time.perf_counter()
                run.finish_iteration(
                    {
                        **episode_metrics(trial),
                        **{f"agent/{name}": value for name, value in learned.items()},
                        "time/rollout_s": played - started,
                        "time/update_s": finished - played,
                    },
                    env_steps=sum(rollout.reward.numel() for rollout in trial),
                )
                if run.iteration % plan.checkpoint_every == 0:
                    run.save()
                progress.show(run.metrics, iteration=run.iteration, env_steps=run.env_steps)
    except KeyboardInterrupt:
        run.save()
        print(f"\nStopped, saved at {run.env_steps:,} env steps. Go on with:\n"
              f"  python train.py --resume {folder}")  # fmt: skip
        raise SystemExit(130) from None
    finally:
        run.close()
        env.close()
    print(f"Trained for {run.env_steps:,} env steps; saved in {run.save()}. Evaluate with:\n"
          f"  python evaluate.py {folder}")  # fmt: skip


def build_agent(experiment: Experiment, env: TaskVectorEnv) -> RL2:
    """The experiment's agent, untrained."""
    return experiment.agent.build(
        env.single_observation_space,
        env.single_action_space,
        seed=derive_seed(experiment.seed, "weights"),
        device=choose_device(experiment.device),
    )


def iteration_seed(experiment: Experiment, run: Run, purpose: str) -> int:
    """The seed of one random stream of the iteration that comes next."""
    return derive_seed(experiment.seed, purpose, run.iteration)


def episode_metrics(trial: list[Rollout]) -> dict[str, float]:
    """Return and success of the first and last episodes of a trial: the gap is what was adapted."""
    curve = adaptation_curve(trial, env_names=[""] * len(trial[0].reward))
    return {
        f"{measure}/{when}_episode": float(scores[:, column].double().mean())
        for measure, scores in (("return", curve.returns), ("success", curve.success_any))
        for when, column in (("first", 0), ("last", -1))
    }


def load_experiment(path: Path, options: dict[str, Any] | None = None) -> Experiment:
    """The experiment in a YAML file, with command-line options in place of what it says."""
    values = override({"name": path.stem, **read_yaml(path)}, options or {})
    return validate(Experiment, values, source=str(path) if not options else f"{path} and flags")


def main(arguments: list[str]) -> None:
    """The command line."""
    positional, options = split_command_line(arguments, switches=("help",))
    if len(positional) > 1:
        raise UserError(f"one config at a time; {positional[1]!r} is one too many")
    help_wanted = options.pop("help", False)
    resume, run_dir = options.pop("resume", None), options.pop("run_dir", None)
    if resume is not None:
        folder = Path(str(resume))
        if positional or options or run_dir is not None:
            raise UserError("--resume goes on with the run as it was; give it alone")
        if not (folder / CONFIG).is_file():
            raise UserError(f"{folder} is no run: it has no {CONFIG}")
        train(load_experiment(folder / CONFIG), folder, new=False)
        return
    experiment = load_experiment(Path(positional[0] if positional else DEFAULT_CONFIG), options)
    if help_wanted:
        print(
            __doc__,
            "\nEvery value is a flag; a list is '[a, b]'. --run-dir DIR: where the run goes.\n",
        )
        tyro.cli(tyro.conf.AvoidSubcommands[Experiment], default=experiment, args=["--help"],
                 prog="python train.py [CONFIG]")  # fmt: skip
    default = Path("runs") / experiment.name / f"seed{experiment.seed}"
    train(experiment, Path(str(run_dir)) if run_dir is not None else default, new=True)


def _interrupt(signal_number: int, frame: object) -> None:
    """A polite kill saves the run as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    with one_line_errors("train.py"):
        main(sys.argv[1:])
