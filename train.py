"""Trains a meta-learning agent: config -> task distribution, agent, run -> one loop.

python train.py                                            the default experiment
python train.py configs/rl2_bandit.yaml --seed 3           another one; any value is a flag
python train.py --resume runs/rl2_bandit/seed3             go on where a run stopped
python train.py --list                                     every distribution and experiment
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

# Threads of torch that wait by spinning for long stall when another process takes their core.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import tyro
from pydantic import Field

from agents.maml_trpo import MAMLTRPOConfig
from agents.promp import ProMPConfig
from agents.rl2 import RL2Config
from envs.bandit import BanditConfig
from envs.gymnasium_tasks import GymnasiumConfig
from envs.locomotion import LocomotionConfig
from envs.metaworld import MetaWorldConfig
from envs.navigation import PointConfig
from envs.tabular import TabularConfig
from metarl.board import check_can_film
from metarl.config import Config, override, read_yaml, split_command_line, validate
from metarl.errors import (
    EnvironmentFailedError,
    NotFiniteError,
    TrialLostError,
    UserError,
    one_line_errors,
)
from metarl.evaluation import adaptation_curve
from metarl.playing import play
from metarl.progress import Progress
from metarl.protocols import Agent, TaskDistribution, TaskVectorEnv
from metarl.recording import Recorder, Recordings
from metarl.run import CONFIG, Run, choose_device
from metarl.seeding import derive_seed, torch_generator
from metarl.tasks import TaskSet
from metarl.trial import run_trial
from metarl.types import Rollout, TrialShape

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "maml_trpo_ml1_reach.yaml"

EnvConfig = Annotated[
    MetaWorldConfig
    | LocomotionConfig
    | BanditConfig
    | TabularConfig
    | PointConfig
    | GymnasiumConfig,
    Field(discriminator="kind"),
]
AgentConfig = Annotated[
    RL2Config | MAMLTRPOConfig | ProMPConfig,
    Field(discriminator="kind"),
]
Count = Annotated[int, Field(ge=1)]


class TrainConfig(Config):
    """How long to train, and on how much at once."""

    env_steps: Count = 1_000_000
    """Environment steps to train for; rounded up to whole iterations."""
    tasks_per_trial: Count = 40
    """Tasks that are played side by side in an iteration (the meta-batch)."""
    episodes_per_trial: Count = 2
    """Episodes of experience with each task, over which the agent adapts."""
    checkpoint_every: Count = 10
    """Iterations from one checkpoint to the next. The first and the last state are always saved."""
    video_every: Annotated[int, Field(ge=0)] = 0
    """Iterations from one video in TensorBoard to the next, of a training task before and after
    adaptation; 0 for none."""


class Experiment(Config):
    """Everything that a run depends on."""

    name: str = "experiment"
    """The run goes to runs/<name>/seed<seed>."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Of the agent: initial weights, sampled tasks, actions. Goals have their own, env.seed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the agent lives; auto takes CUDA where there is one."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A NaN or an infinity ends the run, or drops the iteration: the agent stays as it was."""
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
    shape = training_shape(experiment, distribution)
    env = distribution.make_env(plan.tasks_per_trial * shape.slots_per_task)
    agent = build_agent(experiment, env)
    if new:
        Run.create(folder, experiment)
    run = Run(folder, agent)
    run.save()
    if plan.video_every:
        check_can_film(env)
    progress = Progress(
        f"{experiment.name}: {distribution.name}",
        total_env_steps=plan.env_steps,
        done_env_steps=run.env_steps,
    )
    iteration_steps = plan.tasks_per_trial * shape.total_episodes * env.horizon
    try:
        with progress:
            while run.env_steps < plan.env_steps:
                try:
                    metrics = play_and_learn(
                        agent, env, distribution, shape,
                        num_tasks=plan.tasks_per_trial,
                        seed=experiment.seed,
                        iteration=run.iteration,
                    )  # fmt: skip
                    run.finish_iteration(metrics, env_steps=iteration_steps)
                except (NotFiniteError, EnvironmentFailedError) as error:
                    skip_nan = isinstance(error, NotFiniteError) and experiment.on_nan == "skip"
                    if not (skip_nan or isinstance(error, TrialLostError)):
                        raise stop_at(error, run) from None
                    run.skip_iteration(env_steps=iteration_steps)
                    progress.note(f"iteration {run.iteration} skipped: {error}")
                else:
                    if plan.video_every and run.iteration % plan.video_every == 0:
                        show_video(run, experiment, distribution)
                    progress.show(run.metrics, iteration=run.iteration, env_steps=run.env_steps)
                if run.iteration % plan.checkpoint_every == 0:
                    run.save()
        if scores := final_scores(run.metrics):
            run.board.show_hyperparameters(experiment.model_dump(mode="json"), scores)
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


def play_and_learn(
    agent: Agent[Any],
    env: TaskVectorEnv,
    distribution: TaskDistribution,
    shape: TrialShape,
    *,
    num_tasks: int,
    seed: int,
    iteration: int,
) -> dict[str, float]:
    """One iteration: a trial on sampled training tasks, a meta-update, and what to log of them."""
    started = time.perf_counter()
    task_rng = np.random.default_rng(derive_seed(seed, "tasks", iteration))
    generator = torch_generator(derive_seed(seed, "agent", iteration), agent.device)
    trial = run_trial(
        agent,
        env,
        distribution.train.sample(num_tasks, task_rng),
        shape=shape,
        seed=derive_seed(seed, "env", iteration),
        generator=generator,
    )
    played = time.perf_counter()
    learned = agent.meta_update(trial, generator=generator)
    finished = time.perf_counter()
    return {
        **episode_metrics(trial, shape),
        **{f"update/{name}": value for name, value in learned.items()},
        "timing/rollout_s": played - started,
        "timing/update_s": finished - played,
        "timing/env_steps_per_s": sum(r.reward.numel() for r in trial) / (finished - started),
    }


def episode_metrics(trial: list[Rollout], shape: TrialShape) -> dict[str, float]:
    """Return and success, of all episodes, and of the first and the last of a trial: the gap is
    what was adapted."""
    num_tasks = len(trial[0].reward) // shape.slots_per_task
    curve = adaptation_curve(trial, [""] * num_tasks, slots_per_task=shape.slots_per_task)
    return {
        "train/return": float(curve.scores["return"].mean()),
        "train/success": float(curve.scores["success_any"].mean()),
    } | {
        f"{measure}/{when}_episode": float(scores[:, column].mean())
        for measure, scores in (
            ("return", curve.scores["return"]),
            ("success", curve.scores["success_any"]),
        )
        for when, column in (("first", 0), ("last", -1))
    }


def final_scores(metrics: dict[str, float]) -> dict[str, float]:
    """What a run has come to: how its first and last episodes went in the end."""
    return {name: value for name, value in metrics.items() if name.endswith("_episode")}


def show_video(run: Run, experiment: Experiment, distribution: TaskDistribution) -> None:
    """Plays one training task with the agent as it is, and shows that in TensorBoard."""
    seed = derive_seed(experiment.seed, "video", run.iteration)
    shape = experiment.agent.trial_shape(experiment.train.episodes_per_trial)
    task = distribution.train.sample(1, np.random.default_rng(seed))
    recordings = Recordings(1)
    with closing(distribution.make_env(shape.slots_per_task)) as env:
        assert isinstance(env, Recorder)
        play(run.agent, env, TaskSet(task), shape=shape, seed=seed, recordings=recordings)
        run.board.show_video(env.scene(task[0]), recordings.kept[0], env_steps=run.env_steps)


def training_shape(experiment: Experiment, distribution: TaskDistribution) -> TrialShape:
    """How trials are laid out in training.

    Raises:
        UserError: the agent cannot learn from such trials.
    """
    plan = experiment.train
    shape = experiment.agent.trial_shape(plan.episodes_per_trial, training=True)
    experiment.agent.check_training(
        shape,
        horizon=distribution.horizon,
        num_tasks=plan.tasks_per_trial,
        num_classes=len(distribution.train.classes),
    )
    return shape


def build_agent(experiment: Experiment, env: TaskVectorEnv) -> Agent[Any]:
    """The experiment's agent, untrained."""
    return experiment.agent.build(
        env.single_observation_space,
        env.single_action_space,
        seed=derive_seed(experiment.seed, "weights"),
        device=choose_device(experiment.device),
    )


def stop_at(error: NotFiniteError | EnvironmentFailedError, run: Run) -> UserError:
    """What the user is told of an iteration that cannot be learned from."""
    advice = (
        "; lower the learning rate or look at the rewards, or go on without such iterations: "
        "--on-nan skip in a new run"
        if isinstance(error, NotFiniteError)
        else f"; once it is mended go on with --resume {run.folder}"
    )
    return UserError(
        f"iteration {run.iteration + 1}: {error}{advice}. The last good state is in {run.save()}"
    )


def load_experiment(path: Path, options: dict[str, Any] | None = None) -> Experiment:
    """The experiment in a YAML file, with command-line options in place of what it says."""
    values = override({"name": path.stem, **read_yaml(path)}, options or {})
    return validate(Experiment, values, source=str(path) if not options else f"{path} and flags")


def print_what_there_is() -> None:
    """Every task distribution and every experiment, a line each."""
    distributions, _ = get_args(EnvConfig)
    print("Task distributions")
    for config in get_args(distributions):
        kind = config.model_fields["kind"].default
        print(f"  {f'--env.kind {kind}':42}  {config.__doc__.splitlines()[0]}")
        for choice, meaning in config.choices.items():
            print(f"    {f'--env.{choice}':42}{meaning}")
    print("\nExperiments")
    for path in sorted(DEFAULT_CONFIG.parent.glob("*.yaml")):
        comment = " ".join(
            line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")
        )
        sentence = re.match(r".*?[.](?=\s|$)", comment)
        print(f"  {f'configs/{path.name}':42}  {sentence[0] if sentence else comment}")


def main(arguments: list[str]) -> None:
    """The command line."""
    positional, options = split_command_line(arguments, switches=("help", "list"))
    if len(positional) > 1:
        raise UserError(f"one config at a time; {positional[1]!r} is one too many")
    if options.pop("list", False):
        if positional or options:
            raise UserError("--list takes nothing else; give it alone")
        print_what_there_is()
        return
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
        tyro.cli(tyro.conf.AvoidSubcommands[tyro.conf.FlagConversionOff[Experiment]],
                 default=experiment, args=["--help"],
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
