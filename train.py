"""Trains a meta-learning agent: config -> task distribution, agent, run -> one loop.

python train.py                                            the default experiment
python train.py configs/rl2_bandit.yaml --seed 3           another one; any value is a flag
python train.py --resume runs/rl2_bandit/seed3             go on where a run stopped
python train.py --check my_module.py                       what is wrong with tasks of your own
python train.py --list                                     every distribution and experiment
"""

from __future__ import annotations

from metarl.system import stopping

if __name__ == "__main__":
    stopping.install("train.py")  # before the imports, which take seconds

import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

# Threads of torch that wait by spinning for long stall when another process takes their core.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import tyro

from metarl.config import Config, split_command_line
from metarl.errors import (
    EnvironmentFailedError,
    NotFiniteError,
    TrialLostError,
    UserError,
    printable,
)
from metarl.protocols import Agent, FewShotDistribution, TaskDistribution
from metarl.rollout.interface import Interface
from metarl.rollout.recording import Recorder, Recordings
from metarl.rollout.task_set import play
from metarl.system.command_line import one_line_errors, take_any_output
from metarl.system.memory import check_trial_fits
from metarl.system.seeding import derive_seed
from metarl.tasks import TaskHashes, TaskSet
from metarl.training.checkpoint import checkpoints
from metarl.training.experiment import (
    FIELDS,
    Experiment,
    FewShotExperiment,
    build_agent,
    build_learner,
    kinds,
    load,
)
from metarl.training.iteration import learn_from_tasks, play_and_learn
from metarl.training.progress import RETURN_AND_SUCCESS, Progress
from metarl.training.run import CONFIG, Run
from metarl.training.settings import Training
from metarl.training.tensorboard import LINES, check_can_film
from metarl.training.trust import check_trusted, trust
from metarl.types import TrialShape

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "maml_trpo_ml1_reach.yaml"

CHECKING = {
    "rl2": {"hidden_size": 8, "encoder_sizes": (), "epochs": 1, "num_minibatches": 1},
    "maml_trpo": {"hidden_sizes": (8,), "episodes_per_step": 2},
    "promp": {"hidden_sizes": (8,), "episodes_per_step": 2},
}
"""How small agents are that check a user's tasks."""


def train(experiment: Experiment | FewShotExperiment, folder: Path, *, new: bool) -> None:
    """Trains until the experiment's budget is spent; goes on from the folder's newest checkpoint.

    All randomness of iteration i follows from (seed, i), so a resumed run plays and learns bit for
    bit what an uninterrupted one would have.
    """
    reinforced = isinstance(experiment, Experiment)
    training = by_reinforcement(experiment) if reinforced else from_examples(experiment)
    with stopping.deferred(), closing(training), begun(experiment, folder, training, new) as run:
        progress = Progress(
            training.title,
            total_env_steps=training.total,
            done_env_steps=run.env_steps,
            unit=training.unit.replace("_", " "),
            shown=training.shown,
        )
        with how_it_ends(run), progress, saved_first(run):
            while run.env_steps < training.total:
                try:
                    with stopping.interruptible():
                        metrics = training.iterate(run.iteration)
                    run.finish_iteration(metrics, env_steps=training.per_iteration)
                except (NotFiniteError, EnvironmentFailedError) as error:
                    check_can_skip(error, run, on_nan=experiment.on_nan)
                    run.skip_iteration(env_steps=training.per_iteration)
                    progress.note(f"iteration {run.iteration} skipped: {error}")
                else:
                    show(training, run, progress)
                if run.iteration % experiment.train.checkpoint_every == 0:
                    run.save()
        if scores := {name: run.metrics[name] for name in training.final if name in run.metrics}:
            run.board.show_hyperparameters(experiment.model_dump(mode="json"), scores)


@contextmanager
def begun(
    experiment: Experiment | FewShotExperiment, folder: Path, training: Training, new: bool
) -> Iterator[Run]:
    """The run, new or as it was left, with a checkpoint of where it begins.

    Raises:
        UserError: it cannot be gone on from, or cannot be written.
    """
    if new:
        trust(experiment.env)  # first: whoever is killed in between need not be asked
        Run.create(folder, experiment)
    try:
        if training.interface is not None:
            training.interface.check(folder)
        run = Run(
            folder, training.agent, unit=training.unit, task_hashes=training.task_hashes
        )  # fmt: skip
        if training.interface is not None:  # only now: published runs stay as they are
            training.interface.keep(folder)
    except OSError as error:
        raise UserError(f"cannot write the run {folder}: {error}") from None
    with closing(run):
        yield run


@contextmanager
def saved_first(run: Run) -> Iterator[None]:
    """Whatever ends the training, its newest finished state is saved before anything is closed."""
    try:
        run.save()
        yield
    finally:
        run.save()


@contextmanager
def how_it_ends(run: Run) -> Iterator[None]:
    """Says what is saved and how to go on, whatever ends the training: its budget, a signal, or a
    system that lets nothing be written.

    Raises:
        UserError: something cannot be written.
    """
    unit = run.unit.replace("_", " ")
    try:
        yield
        take_any_output()  # An environment may have closed it.
        print(f"Trained for {run.env_steps:,} {unit}; saved in {run.save()}. Evaluate with:\n"
              f"  python evaluate.py {run.folder}")  # fmt: skip
    except KeyboardInterrupt:
        with suppress(OSError):  # The terminal may be what has gone.
            print(f"\nStopped, saved at {run.env_steps:,} {unit}. Go on with:\n"
                  f"  python train.py --resume {run.folder}", flush=True)  # fmt: skip
        raise SystemExit(stopping.EXIT_CODE) from None
    except BrokenPipeError:  # for whoever runs the command: `train.py | head`
        raise
    except OSError as error:
        raise UserError(f"cannot write: {error}; {what_is_saved(run)}") from None


def what_is_saved(run: Run) -> str:
    """What is left of a run that cannot be written to, and how to go on with it."""
    if not run.folder.is_dir():
        return f"{run.folder} is gone, and what was learned with it"
    whole = checkpoints(run.folder / "checkpoints")
    return (
        f"{f'saved is {whole[-1]}' if whole else 'nothing is saved yet'}. Make room or let it be "
        f"written to, then go on with: python train.py --resume {run.folder}"
    )


def show(training: Training, run: Run, progress: Progress) -> None:
    """Shows a finished iteration; no picture is worth a training."""
    try:
        with stopping.interruptible():
            training.show(run)
    except Exception as error:
        progress.note(f"nothing shown of iteration {run.iteration}: {printable(error)}")
    progress.show(run.metrics, iteration=run.iteration, env_steps=run.env_steps)


def by_reinforcement(experiment: Experiment) -> Training:
    """An agent that acts in environments."""
    plan = experiment.train
    distribution = experiment.env.build()
    shape = training_shape(experiment, distribution)
    env = distribution.make_env(plan.tasks_per_trial * shape.slots_per_task)
    agent = build_agent(experiment, env)
    if plan.video_every:
        check_can_film(env)

    def iterate(iteration: int) -> dict[str, float]:
        return play_and_learn(
            agent, env, distribution, shape,
            num_tasks=plan.tasks_per_trial, seed=experiment.seed, iteration=iteration,
        )  # fmt: skip

    def show(run: Run) -> None:
        if plan.video_every and run.iteration % plan.video_every == 0:
            show_video(
                run, agent, distribution, experiment.agent.trial_shape(plan.episodes_per_trial),
                seed=derive_seed(experiment.seed, "video", run.iteration),
            )  # fmt: skip

    return Training(
        title=f"{experiment.name}: {distribution.name}",
        agent=agent,
        task_hashes=hashes_of(distribution),
        iterate=iterate,
        show=show,
        unit="env_steps",
        total=plan.env_steps,
        per_iteration=plan.tasks_per_trial * shape.total_episodes * env.horizon,
        shown=RETURN_AND_SUCCESS,
        final=[f"{measure}/{line}" for measure in RETURN_AND_SUCCESS for line in LINES],
        close=env.close,
        interface=Interface.of(env),
    )


def from_examples(experiment: FewShotExperiment) -> Training:
    """A learner that is shown labelled examples."""
    plan = experiment.train
    distribution = experiment.env.build()
    learner = build_learner(experiment, distribution.shape)
    shown = {"loss": ".3f"} | ({"accuracy": ".1%"} if distribution.shape.classification else {})

    def iterate(iteration: int) -> dict[str, float]:
        return learn_from_tasks(
            learner, distribution.train,
            num_tasks=plan.tasks_per_update, updates=plan.updates_per_iteration,
            seed=experiment.seed, iteration=iteration,
        )  # fmt: skip

    return Training(
        title=f"{experiment.name}: {distribution.name}",
        agent=learner,
        task_hashes=hashes_of(distribution),
        iterate=iterate,
        show=lambda run: None,
        unit="tasks",
        total=plan.tasks,
        per_iteration=plan.tasks_per_update * plan.updates_per_iteration,
        shown=shown,
        final=[f"train/{measure}" for measure in shown],
        close=lambda: None,
    )


def show_video(
    run: Run, agent: Agent[Any], distribution: TaskDistribution, shape: TrialShape, *, seed: int
) -> None:
    """Plays one training task with the agent as it is, and shows that in TensorBoard."""
    task = distribution.train.sample(1, np.random.default_rng(seed))
    recordings = Recordings(1)
    with closing(distribution.make_env(shape.slots_per_task)) as env:
        assert isinstance(env, Recorder)
        play(agent, env, TaskSet(task), shape=shape, seed=seed, recordings=recordings)
        run.board.show_video(env.scene(task[0]), recordings.kept[0], env_steps=run.env_steps)


def training_shape(experiment: Experiment, distribution: TaskDistribution) -> TrialShape:
    """How trials are laid out in training.

    Raises:
        UserError: the agent cannot learn from such trials.
    """
    plan = experiment.train
    shape = experiment.agent.trial_shape(plan.episodes_per_trial, training=True)
    check_trial_fits(shape, num_tasks=plan.tasks_per_trial, horizon=distribution.horizon)
    experiment.agent.check_training(
        shape,
        horizon=distribution.horizon,
        num_tasks=plan.tasks_per_trial,
        num_classes=len(distribution.train.classes),
    )
    return shape


def check_can_skip(
    error: NotFiniteError | EnvironmentFailedError, run: Run, *, on_nan: str
) -> None:
    """Checks that training can go on without the iteration that failed.

    Raises:
        UserError: it cannot; says what to do.
    """
    skip_nan = isinstance(error, NotFiniteError) and on_nan == "skip"
    if skip_nan or isinstance(error, TrialLostError):
        return
    advice = (
        "; lower the learning rate or look at the rewards, or go on without such iterations: "
        "--on-nan skip in a new run"
        if isinstance(error, NotFiniteError)
        else f"; once it is mended go on with --resume {run.folder}"
    )
    raise UserError(
        f"iteration {run.iteration + 1}: {error}{advice}. The last good state is in {run.save()}"
    ) from None


def hashes_of(distribution: TaskDistribution | FewShotDistribution) -> TaskHashes:
    """What tells whether the tasks of a run are those of before."""
    return TaskHashes(
        train=distribution.train.content_hash,
        test=distribution.test.content_hash,
        module=getattr(distribution, "module_hash", None),  # where they come from a user's module
    )


def checking_agents() -> list[Config]:
    """Small agents that learn from a user's tasks for a moment, to see whether they can."""
    known = kinds("metarl.agents")
    return [known[kind](**values) for kind, values in CHECKING.items()]


def print_what_there_is() -> None:
    """Every task distribution and every experiment, a line each."""
    print("Task distributions")
    for kind, config in [item for field in FIELDS for item in kinds(field.envs).items()]:
        print(f"  {f'--env.kind {kind}':42}  {(config.__doc__ or '').splitlines()[0]}")
        for choice, meaning in config.choices.items():
            print(f"    {f'--env.{choice}':42}{meaning}")
    print("\nExperiments")
    for path in sorted(DEFAULT_CONFIG.parent.glob("*.yaml")):
        comment = " ".join(
            line.lstrip("# ")
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("#")
        )
        sentence = re.match(r".*?[.](?=\s|$)", comment)
        print(f"  {f'configs/{path.name}':42}  {sentence[0] if sentence else comment}")


def main(arguments: list[str]) -> None:
    """The command line."""
    positional, options = split_command_line(
        arguments, switches=("help", "list", "trust"), texts=("resume", "run_dir", "check")
    )
    if len(positional) > 1:
        raise UserError(f"one config at a time; {positional[1]!r} is one too many")
    if options.pop("list", False):
        if positional or options:
            raise UserError("--list takes nothing else; give it alone")
        print_what_there_is()
        return
    help_wanted = options.pop("help", False)
    if (module := options.pop("check", None)) is not None:
        if positional or options:
            raise UserError("--check MODULE takes nothing else; give it alone")
        from envs.gymnasium_tasks import checker  # nothing else here needs it

        checker.tell(module, checker.check_apart(module, checking_agents()))
        return
    resume, run_dir = options.pop("resume", None), options.pop("run_dir", None)
    trusted = bool(options.pop("trust", False))
    if resume is not None:
        folder = Path(resume)
        if positional or options or run_dir is not None:
            raise UserError("--resume goes on with the run as it was; give it alone")
        if not (folder / CONFIG).is_file():
            raise UserError(f"{folder} is no run: it has no {CONFIG}")
        experiment = load(folder / CONFIG)
        check_trusted(experiment.env, folder, allowed=trusted)
        train(experiment, folder, new=False)
        return
    if trusted:
        raise UserError("--trust is for --resume: who trains with a config has chosen its module")
    experiment = load(Path(positional[0] if positional else DEFAULT_CONFIG), options)
    if help_wanted:
        print(
            __doc__,
            "\nEvery value is a flag; a list is '[a, b]'. --run-dir DIR: where the run goes.\n",
        )
        tyro.cli(tyro.conf.AvoidSubcommands[tyro.conf.FlagConversionOff[type(experiment)]],
                 default=experiment, args=["--help"],
                 prog="python train.py [CONFIG]")  # fmt: skip
    default = Path("runs") / experiment.name / f"seed{experiment.seed}"
    train(experiment, Path(run_dir) if run_dir is not None else default, new=True)


if __name__ == "__main__":
    with one_line_errors("train.py"):
        main(sys.argv[1:])
