"""Trains a meta-learning agent; `train` is the loop, `train_few_shot` that of few-shot learning.

python train.py                                            the default experiment
python train.py rl2_bandit --seed 3                        another experiment; any value is a flag
python train.py my_experiment.yaml                         an experiment of your own
python train.py --resume runs/rl2_bandit/seed3             continue a stopped run
python train.py --check my_module.py                       check your own tasks for mistakes
python train.py --list                                     list all distributions and experiments
"""

from __future__ import annotations

from metarl.system import stopping

if __name__ == "__main__":
    stopping.install("train.py")  # before the imports, which take seconds

import os
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

# Torch's threads wait by spinning; with a long spin they stall when another process takes a core.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import tyro

from metarl.config import CONFIGS, find_config, split_command_line
from metarl.errors import UserError
from metarl.learning.belief import Believer, belief_metrics
from metarl.protocols import Agent, TaskDistribution
from metarl.rollout.interface import Interface
from metarl.rollout.recording import Recorder, Recordings
from metarl.rollout.task_set import play
from metarl.rollout.trial import trial_in_parts
from metarl.system import ranks
from metarl.system.command_line import one_line_errors
from metarl.system.seeding import derive_seed
from metarl.system.started import typed
from metarl.tasks import TaskSet
from metarl.training.experiment import (
    FIELDS,
    Experiment,
    FewShotExperiment,
    build_agent,
    build_learner,
    kinds,
    load,
    load_run,
    told_in_a_line,
    training_shape,
)
from metarl.training.iteration import (
    episode_metrics,
    means,
    same_stream,
    to_learn_from,
    update_metrics,
    whole,
)
from metarl.training.progress import RETURN_AND_SUCCESS
from metarl.training.run import Run
from metarl.training.session import Budget, is_of_this_job, training_session
from metarl.training.tensorboard import LINES, check_can_film

DEFAULT_CONFIG = CONFIGS / "maml_trpo_ml1_reach.yaml"


def train(experiment: Experiment, folder: Path, *, new: bool) -> None:
    """Meta-reinforcement learning until the budget is spent, from the folder's newest checkpoint.

    Each iteration plays a trial on a meta-batch of training tasks and takes one meta-update, or
    several within the trial. The session logs and saves, and handles signals and failures.
    """
    plan = experiment.train
    distribution = experiment.env.build()
    shape = training_shape(experiment, distribution)
    own = ranks.share_of(plan.meta_batch_size)
    env = distribution.make_env(len(own) * shape.slots_per_task)
    agent = build_agent(experiment, env)
    if plan.video_every:
        check_can_film(env)
    budget = Budget(
        unit="env_steps",
        total=plan.env_steps,
        per_iteration=plan.meta_batch_size * shape.total_episodes * env.horizon,
    )
    by_class = len(distribution.train.classes) > 1
    with (
        stopping.deferred(),
        closing(env),
        training_session(
            experiment, folder, agent, distribution,
            budget=budget, shown=RETURN_AND_SUCCESS, interface=Interface.of(env), new=new,
        ) as session,
    ):  # fmt: skip
        while session.goes_on():
            with session.iteration() as step:
                tasks = distribution.train.sample(plan.meta_batch_size, step.task_rng)
                parts = trial_in_parts(
                    agent, env, own.of(tasks), shape=shape, seed=step.env_seed,
                    generator=step.generator, place=own,
                )  # fmt: skip
                trial, learned = [], []
                for part in step.each_timed("rollout", parts):
                    with step.timed("update"):
                        given = to_learn_from(part, experiment.agent)
                        same_stream(step.generator)
                        learned.append(agent.meta_update(given, generator=step.generator))
                    trial.append(part)
                played = whole(trial)
                step.log(episode_metrics(played, tasks, shape, by_class=by_class))
                step.log(means(learned), group="update")
                if isinstance(agent, Believer):
                    slots = shape.slots_per_task
                    step.log(belief_metrics(agent, played, tasks, slots_per_task=slots))
            due = plan.video_every and session.run.iteration % plan.video_every == 0
            if due and isinstance(session.run, Run):
                with session.failure_is_noted():
                    show_video(session.run, agent, distribution, experiment)
        session.show_hyperparameters(
            f"{name}/{line}" for name in RETURN_AND_SUCCESS for line in LINES
        )


def train_few_shot(experiment: FewShotExperiment, folder: Path, *, new: bool) -> None:
    """Few-shot learning until the budget is spent, from the folder's newest checkpoint.

    Each iteration takes several meta-updates, each on a meta-batch of few-shot tasks.
    """
    plan = experiment.train
    distribution = experiment.env.build()
    learner = build_learner(experiment, distribution.shape)
    shown = {"loss": ".3f"} | ({"accuracy": ".1%"} if distribution.shape.classification else {})
    budget = Budget(
        unit="tasks",
        total=plan.tasks,
        per_iteration=plan.meta_batch_size * plan.updates_per_iteration,
    )
    with (
        stopping.deferred(),
        training_session(
            experiment, folder, learner, distribution, budget=budget, shown=shown, new=new
        ) as session,
    ):
        while session.goes_on():
            with session.iteration() as step:
                learned = []
                for _ in range(plan.updates_per_iteration):
                    with step.timed("draw"):
                        tasks = distribution.train.sample(plan.meta_batch_size, step.task_rng)
                    with step.timed("update"):
                        learned.append(
                            learner.meta_update(tasks.to(learner.device), generator=step.generator)
                        )
                step.log(update_metrics(learned))
        session.show_hyperparameters([f"train/{measure}" for measure in shown])


def start(experiment: Experiment | FewShotExperiment, folder: Path, *, new: bool) -> None:
    """Begins or resumes a training, of whichever kind of learning the experiment is.

    Ranks that torchrun starts again resume the run that they had begun.
    """
    new = new and not is_of_this_job(folder)
    ranks.check_enough(experiment.train.meta_batch_size, "train.meta_batch_size")
    with told_in_a_line(experiment.model_dump()):
        if isinstance(experiment, FewShotExperiment):
            train_few_shot(experiment, folder, new=new)
        else:
            train(experiment, folder, new=new)


def show_video(
    run: Run, agent: Agent[Any], distribution: TaskDistribution, experiment: Experiment
) -> None:
    """Plays one training task with the current agent, and shows a video of it in TensorBoard."""
    shape = experiment.agent.trial_shape(experiment.train.episodes_per_trial)
    seed = derive_seed(experiment.seed, "video", run.iteration)
    task = distribution.train.sample(1, np.random.default_rng(seed))
    recordings = Recordings(1)
    with closing(distribution.make_env(shape.slots_per_task)) as env:
        assert isinstance(env, Recorder)
        play(agent, env, TaskSet(task), shape=shape, seed=seed, recordings=recordings)
        run.board.show_video(env.scene(task[0]), recordings.kept[0], env_steps=run.env_steps)


def checking_agents() -> list[Any]:
    """Configs of small agents that try to learn from a user's tasks, whatever their actions."""
    configs: list[Any] = list(kinds("metarl.agents").values())
    return [
        config.small()
        for config in configs
        if hasattr(config, "small") and getattr(config, "discrete_actions", True)
    ]


def print_list() -> None:
    """Prints every task distribution and every experiment, one line each."""
    print("Task distributions")
    for kind, config in [item for field in FIELDS for item in kinds(field.envs).items()]:
        print(f"  {f'--env.kind {kind}':42}  {(config.__doc__ or '').splitlines()[0]}")
        for choice, meaning in config.choices.items():
            print(f"    {f'--env.{choice}':42}{meaning}")
    print("\nExperiments")
    for path in sorted(CONFIGS.glob("*.yaml")):
        comment = " ".join(
            line.lstrip("# ")
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("#")
        )
        sentence = re.match(r".*?[.](?=\s|$)", comment)
        print(f"  {path.stem:42}  {sentence[0] if sentence else comment}")


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    positional, options = split_command_line(
        arguments, switches=("help", "list", "trust"), texts=("resume", "run_dir", "check")
    )
    if len(positional) > 1:
        raise UserError(f"one config at a time; {positional[1]!r} is one too many")
    if options.pop("list", False):
        if positional or options:
            raise UserError("--list takes nothing else; give it alone")
        print_list()
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
            raise UserError("--resume continues the run unchanged; give it alone")
        start(load_run(folder, trusted=trusted), folder, new=False)
        return
    if trusted:
        raise UserError("--trust is for --resume; a config that you train with is trusted anyway")
    experiment = load(find_config(positional[0]) if positional else DEFAULT_CONFIG, options)
    if help_wanted:
        print(
            typed(__doc__ or ""),
            "\nEvery value is a flag; a list is '[a, b]'. --run-dir DIR: the run's folder.\n",
        )
        tyro.cli(tyro.conf.AvoidSubcommands[tyro.conf.FlagConversionOff[type(experiment)]],
                 default=experiment, args=["--help"],
                 prog=typed("python train.py [CONFIG]"))  # fmt: skip
    default = Path("runs") / experiment.name / f"seed{experiment.seed}"
    start(experiment, Path(run_dir) if run_dir is not None else default, new=True)


if __name__ == "__main__":
    with one_line_errors("train.py"), ranks.joined("train.py"):
        main(sys.argv[1:])
