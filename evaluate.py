"""Measures how fast a trained agent adapts to tasks that it never saw.

python evaluate.py runs/maml_trpo_ml1_reach/seed1            all held-out tasks
python evaluate.py RUN --checkpoint 0                        the untrained agent
python evaluate.py RUN --split train --episodes 40           training tasks, longer trials
python evaluate.py RUN --tasks ML10                          another distribution that fits
python evaluate.py RUN --protocol metaworld                  as Meta-World documents it
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import tyro
from pydantic import Field
from rich.console import Console

from envs.gymnasium_tasks.adapted import Adapted, adapt_agent, check_spaces
from envs.metaworld import MetaWorld
from envs.worker.player import FlatSpaces
from metarl.checkpoint import checkpoints
from metarl.config import Config, split_command_line, validate
from metarl.errors import UserError, one_line_errors
from metarl.evaluation import (
    Summary,
    adaptation_curve,
    first_rows,
    join,
    success_after,
    summarize,
)
from metarl.protocols import Agent, TaskDistribution, TaskVectorEnv
from metarl.report import (
    plot_curve,
    print_classes,
    print_curve,
    print_test_success,
    print_verdict,
)
from metarl.run import CONFIG, environment, load_agent
from metarl.seeding import derive_seed, torch_generator
from metarl.tasks import TaskSet
from metarl.trial import run_trial
from metarl.types import AdaptationCurve, TrialShape
from train import Experiment, build_agent, load_experiment

METAWORLD_ADAPTATION_EPISODES = 10
METAWORLD_TEST_EPISODES = 3
METAWORLD_GOALS = 40


class EvaluationConfig(Config):
    """How to evaluate."""

    split: Literal["train", "test"] = "test"
    """Held-out tasks, or those that the agent learned on."""
    episodes: Annotated[int, Field(ge=1)] | None = None
    """Episodes of experience with each task; as in training where not given."""
    tasks: str | None = None
    """Another distribution: a Meta-World benchmark, or a config file whose `env` is taken."""
    protocol: Literal["curve", "metaworld"] = "curve"
    """`curve`: success after each number of episodes. `metaworld`: 10 episodes of adaptation, then
    3 test episodes, on 40 goals of each class; both are rounded up to what an agent plays side by
    side."""
    checkpoint: Annotated[int, Field(ge=0)] | None = None
    """Env steps of the checkpoint; the newest where not given."""
    greedy: bool = False
    """Take the policy's mode instead of drawing from it."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Mean success that counts as adapted."""
    tasks_at_once: Annotated[int, Field(ge=1)] = 50
    """Tasks that are played side by side."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the actions, the environments and the bootstrap."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the agent lives."""


def evaluate(folder: Path, config: EvaluationConfig, console: Console) -> Path:
    """Plays, prints and stores the adaptation curve of a run; returns the JSON file."""
    experiment = load_experiment(folder / CONFIG).model_copy(update={"device": config.device})
    distribution = find_distribution(experiment, config)
    tasks = find_tasks(distribution, config)
    shape = find_shape(experiment, config)
    checkpoint = find_checkpoint(folder, config)
    num_slots = min(config.tasks_at_once, len(tasks)) * shape.slots_per_task
    with closing(distribution.make_env(num_slots)) as env:
        agent = build_agent(experiment, env)
        load_agent(agent, checkpoint)
        curve = play(agent, env, tasks, shape=shape, config=config)
    overall, by_class = summarize(curve, threshold=config.threshold, seed=config.seed)

    played = (
        f"{_count(shape.total_episodes, 'episode')} of {_count(distribution.horizon, 'step')} each"
    )
    if shape.slots_per_task > 1:
        played += f", {shape.slots_per_task} side by side"
    protocol = (
        f"{_count(len(tasks), 'task')} of the {config.split} split of {distribution.name} "
        f"({_count(len(tasks.classes), 'class')}, split {tasks.content_hash[:12]}), "
        f"{played}, 1 agent (seed {experiment.seed}) after {int(checkpoint.name):,} env steps, "
        f"{'greedy' if config.greedy else 'sampled'} actions; "
        "95 % bootstrap intervals over tasks, stratified by class"
    )
    result = {
        "protocol": protocol,
        "config": config.model_dump(mode="json"),
        "distribution": distribution.name,
        "split_hash": tasks.content_hash,
        "agent_seeds": [experiment.seed],
        "env_steps": int(checkpoint.name),
        "overall": asdict(overall),
        "by_class": {name: asdict(summary) for name, summary in by_class.items()},
        "per_task": {
            "env_name": curve.env_names,
            "episodes_before": curve.episodes,
            "parameters": [task.parameters.tolist() for task in tasks],
            "return": curve.returns.tolist(),
            "success_any": curve.success_any.tolist(),
            "success_last": curve.success_last.tolist(),
        },
        "environment": environment(),
    }
    print_curve(overall, console)
    print_classes(by_class, console)
    print_verdict(overall, config.threshold, console)
    if config.protocol == "metaworld":
        success, success_by_class = success_after(
            curve, adaptation_episodes=METAWORLD_ADAPTATION_EPISODES, seed=config.seed
        )
        result["metaworld"] = {
            "success": asdict(success),
            "by_class": {name: asdict(estimate) for name, estimate in success_by_class.items()},
        }
        print_test_success(success, success_by_class, console)
    console.print(f"\n{protocol}", style="dim", highlight=False)
    return store(result, overall, folder, experiment.name, config)


def play(
    agent: Agent[Any],
    env: TaskVectorEnv,
    tasks: TaskSet,
    *,
    shape: TrialShape,
    config: EvaluationConfig,
) -> AdaptationCurve:
    """One trial on every task, as many side by side as the environment has slots for."""
    curves = []
    at_once = env.num_envs // shape.slots_per_task
    for start in range(0, len(tasks), at_once):
        batch = list(tasks[start : start + at_once])
        # The last batch is filled up with tasks whose results are left out.
        filled = batch + batch[:1] * (at_once - len(batch))
        seed = derive_seed(config.seed, "agent", start)
        generator = None if config.greedy else torch_generator(seed, agent.device)
        trial = run_trial(
            agent,
            env,
            filled,
            shape=shape,
            seed=derive_seed(config.seed, "env", start),
            generator=generator,
        )
        names = [task.env_name for task in filled]
        curve = adaptation_curve(trial, names, slots_per_task=shape.slots_per_task)
        curves.append(first_rows(curve, len(batch)))
    return join(curves)


def find_distribution(experiment: Experiment, config: EvaluationConfig) -> TaskDistribution:
    """The distribution that the agent was trained on, or the one that was asked for."""
    if config.tasks is None:
        return experiment.env.build()
    if config.tasks.endswith(".yaml"):
        return load_experiment(Path(config.tasks)).env.build()
    return MetaWorld(config.tasks)


def find_tasks(distribution: TaskDistribution, config: EvaluationConfig) -> TaskSet:
    """The tasks of the split; of Meta-World's protocol, the first 40 goals of each class."""
    tasks = distribution.test if config.split == "test" else distribution.train
    if config.protocol == "curve":
        return tasks
    if not isinstance(distribution, MetaWorld):
        raise UserError(f"--protocol metaworld is for Meta-World, not for {distribution.name}")
    return tasks.first_of_each_class(METAWORLD_GOALS)


def find_shape(experiment: Experiment, config: EvaluationConfig) -> TrialShape:
    """How the episodes of a trial are laid out."""
    trained = experiment.agent.trial_shape(experiment.train.episodes_per_trial)
    episodes = config.episodes or trained.total_episodes
    if config.protocol == "metaworld":
        if config.episodes is not None:
            raise UserError("--protocol metaworld says how many episodes; leave --episodes out")
        # Episodes that are played side by side cannot be parted.
        rounds = [
            math.ceil(count / trained.slots_per_task)
            for count in (METAWORLD_ADAPTATION_EPISODES, METAWORLD_TEST_EPISODES)
        ]
        episodes = sum(rounds) * trained.slots_per_task
    shape = experiment.agent.trial_shape(episodes)
    if config.greedy:
        check_greedy(experiment, shape)
    return shape


def check_greedy(experiment: Experiment, shape: TrialShape) -> None:
    """Checks that an agent can take its policy's mode throughout such a trial.

    Raises:
        UserError: it adapts between rollouts, by what random actions lead to.
    """
    if shape.rollouts > 1:
        raise UserError(
            f"--greedy: {experiment.agent.kind} adapts by what its own random actions lead to; "
            "leave it out"
        )


def find_checkpoint(folder: Path, config: EvaluationConfig) -> Path:
    """The folder of the checkpoint that was asked for, or of the newest."""
    if config.checkpoint is not None:
        return folder / "checkpoints" / str(config.checkpoint)
    whole = checkpoints(folder / "checkpoints")
    if not whole:
        raise UserError(f"{folder} has no checkpoint yet; train it with --resume {folder}")
    return whole[-1]


def store(
    result: dict[str, Any],
    overall: Summary,
    folder: Path,
    name: str,
    config: EvaluationConfig,
) -> Path:
    """Writes the JSON and the picture; the same evaluation has the same file name."""
    changed = {
        key: value
        for key, value in config.model_dump(exclude_defaults=True, exclude={"device"}).items()
        if key not in ("split", "checkpoint")
    }
    parts = [config.split, str(result["env_steps"])]
    parts += [f"{key}-{Path(str(value)).stem}" for key, value in changed.items()]
    path = folder / "eval" / f"{'_'.join(parts)}.json"
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(json.dumps(result, indent=1))
    partial.replace(path)
    plot_curve(
        overall, title=f"{name}: adaptation", footnote=result["protocol"],
        path=path.with_suffix(".png"),
    )  # fmt: skip
    return path


def adapt(
    run: Path | str,
    env: gymnasium.Env,
    *,
    episodes: int,
    checkpoint: int | None = None,
    greedy: bool = False,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Adapted:
    """The agent of a run, adapted to the task of one environment, which may be a real robot.

    All episodes are played one after the other, also those that the agent plays side by side in
    training, and all of them are adapted to. They are as long as in training; where the environment
    ends one earlier, no action is taken until then.

    Args:
        run: the folder of the run.
        env: plays the user's task; reset once for each episode, and left open.
        episodes: of experience.
        checkpoint: env steps of the checkpoint; the newest where not given.
        greedy: take the policy's mode instead of drawing from it.
        seed: of the actions and of the environment.
        device: where the agent lives.

    Raises:
        UserError: the environment does not fit the run, or the agent cannot adapt like this.
        NotFiniteError: the environment observed or paid something that is not finite.
    """
    folder = Path(run)
    values = {"episodes": episodes, "checkpoint": checkpoint, "greedy": greedy, "seed": seed}
    config = validate(EvaluationConfig, {**values, "device": device}, source="adapt")
    experiment = load_experiment(folder / CONFIG).model_copy(update={"device": device})
    shape = experiment.agent.trial_shape(episodes)
    if greedy:
        # As evaluation would, to show what comes after the last of these episodes.
        check_greedy(experiment, experiment.agent.trial_shape(2 * episodes))
    distribution = find_distribution(experiment, config)
    with closing(distribution.make_env(1)) as trained:
        check_spaces(
            trained.single_observation_space, trained.single_action_space, FlatSpaces.of(env)
        )
        agent = build_agent(experiment, trained)
    load_agent(agent, find_checkpoint(folder, config))
    return adapt_agent(
        agent, env, shape=shape, horizon=distribution.horizon, greedy=greedy, seed=seed
    )


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def main(arguments: list[str]) -> None:
    """The command line."""
    positional, options = split_command_line(arguments, switches=("help", "greedy"))
    if options.pop("help", False):
        print(__doc__)
        tyro.cli(EvaluationConfig, args=["--help"], prog="python evaluate.py RUN")
    if len(positional) != 1:
        raise UserError("name one run: python evaluate.py runs/EXPERIMENT/SEED")
    folder = Path(positional[0])
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no run: it has no {CONFIG}")
    config = validate(EvaluationConfig, options, source="evaluate.py")
    console = Console(width=None if sys.stdout.isatty() else 120)
    path = evaluate(folder, config, console)
    print(f"Stored in {path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    with one_line_errors("evaluate.py"):
        main(sys.argv[1:])
