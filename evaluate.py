"""Measures how fast a trained agent adapts to tasks that it never saw.

python evaluate.py runs/maml_trpo_ml1_reach/seed1            all held-out tasks
python evaluate.py RUN --checkpoint 0                        the untrained agent
python evaluate.py RUN --split train --episodes 40           training tasks, longer trials
python evaluate.py RUN --tasks ML10                          another distribution that fits
python evaluate.py RUN --protocol metaworld                  as Meta-World documents it
python evaluate.py RUN --report                              a page with pictures and a 3-D replay
python evaluate.py RUN --video --camera corner               MP4s, before and after adaptation
python evaluate.py RUN --live                                watch it play in a browser
python evaluate.py --compare RUN RUN …                       several agents or seeds on one page
python evaluate.py RUN --shots '[1, 5]' --report             of few-shot learning
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import gymnasium
import tyro
from pydantic import BeforeValidator, Field
from rich.console import Console

from envs.gymnasium_tasks.adapted import Adapted, adapt_agent, check_spaces
from envs.metaworld import MetaWorld
from envs.worker.player import FlatSpaces
from envs.yardsticks.suite import YardsticksConfig, measure_yardsticks
from metarl.checkpoint import checkpoints
from metarl.config import Config, Size, override, split_command_line, validate
from metarl.errors import UserError, one_line_errors
from metarl.few_shot_judging import SHOTS, SHOTS_OF_FUNCTIONS, judge
from metarl.few_shot_result import FewShotEvaluation
from metarl.playing import play
from metarl.protocols import TaskDistribution, TaskVectorEnv
from metarl.recording import Recorder, Recording, Recordings, write_recordings
from metarl.replay import live_server, trial_after_trial
from metarl.report.adaptation import plot_adaptation
from metarl.report.blocks import Section
from metarl.report.comparison import comparison_report
from metarl.report.few_shot import few_shot_report, plot_few_shot, print_few_shot
from metarl.report.output import (
    NOTHING_TO_SHOW,
    recorded,
    recordings_file,
    write_adaptation,
    write_rollouts,
)
from metarl.report.page import write_report
from metarl.report.terminal import print_evaluation
from metarl.report.yardsticks import yardstick_section
from metarl.result import METAWORLD_ADAPTATION_EPISODES, Evaluation
from metarl.run import CONFIG, environment, load_agent
from metarl.tasks import TaskSet, goals_of
from metarl.types import TrialShape
from train import (
    Experiment,
    FewShotExperiment,
    build_agent,
    build_learner,
    load,
    load_experiment,
)

METAWORLD_TEST_EPISODES = 3
METAWORLD_GOALS = 40
FEW_SHOT_TASKS = 600
LONGEST_NAME = 150  # of a folder, in characters


ShotCounts = Annotated[
    tuple[Size, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, int) else value),
]
"""One number, or several."""


class EvaluationConfig(Config):
    """How to evaluate."""

    split: Literal["train", "test"] = "test"
    """Held-out tasks, or those that the agent learned on."""
    episodes: Annotated[int, Field(ge=1)] | None = None
    """Episodes of experience with each task; as in training where not given. Of few-shot learning,
    tasks to be judged on; 600 where not given."""
    shots: ShotCounts | None = None
    """Of few-shot learning: numbers of support examples; 1, 5 (of functions: 5, 10) and as many as
    in training where not given."""
    tasks: str | None = None
    """Another distribution: a Meta-World benchmark, or a config file whose `env` is taken."""
    protocol: Literal["curve", "metaworld"] = "curve"
    """`curve`: success after each number of episodes. `metaworld`: 10 episodes of adaptation, then
    3 test episodes, on 40 goals of each class; both are rounded up to what an agent plays side by
    side."""
    checkpoint: Annotated[int, Field(ge=0)] | None = None
    """Env steps (of few-shot learning: tasks) of the checkpoint; the newest where not given."""
    greedy: bool = False
    """Take the policy's mode instead of drawing from it."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Mean success that counts as adapted."""
    tasks_at_once: Annotated[int, Field(ge=1)] = 50
    """Tasks that are played side by side."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the actions, the environments and the bootstrap; of few-shot learning, the tasks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the agent lives."""
    stored: bool = False
    """Read what this command stored before instead of playing again."""
    report: bool = False
    """Write a page with all pictures, tables and an interactive replay."""
    replay: bool = False
    """Write the interactive replay alone."""
    video: bool = False
    """Render MP4s of the first and last episode side by side; they go into the report too."""
    camera: str | None = None
    """Of the videos; the scene's best where not given."""
    fine: bool = False
    """Draw videos with smooth edges and fine shadows: three times slower without a GPU."""
    record: Size = 4
    """Tasks whose rollouts are kept for replay and video; those that fail come first."""
    compare: bool = False
    """Put several runs on one page."""
    yardstick: bool = False
    """Let Stable-Baselines3 learn some held-out tasks from nothing, and others play them; kept for
    the next time. Ten minutes or more."""
    yardsticks: YardsticksConfig = YardsticksConfig()
    """How they learn, on how many tasks."""
    live: bool = False
    """Serve the replay in a browser while the agent plays; goes on until it is stopped."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8300
    """Of the live replay; 0 takes a free one."""


PLAYED = ("split", "episodes", "tasks", "protocol", "checkpoint", "greedy", "threshold",
          "tasks_at_once", "seed")  # fmt: skip
"""Options that change what is played, or said of it."""
JUDGED = ("split", "episodes", "shots", "checkpoint", "seed")
"""Those of few-shot learning."""


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What an evaluation plays: an agent as it was at a checkpoint, and tasks for it."""

    folder: Path
    """Of the run."""
    experiment: Experiment
    distribution: TaskDistribution
    tasks: TaskSet
    shape: TrialShape
    checkpoint: Path

    @staticmethod
    def of(folder: Path, config: EvaluationConfig) -> Trials:
        """What a run plays under these options."""
        experiment = load_experiment(folder / CONFIG).model_copy(update={"device": config.device})
        distribution = find_distribution(experiment, config)
        return Trials(
            folder=folder,
            experiment=experiment,
            distribution=distribution,
            tasks=find_tasks(distribution, config),
            shape=find_shape(experiment, config),
            checkpoint=find_checkpoint(folder, config),
        )

    @property
    def env_steps(self) -> int:
        """What the agent has been trained for."""
        return int(self.checkpoint.name)

    def file(self, config: EvaluationConfig) -> Path:
        """Where the evaluation is stored; the same options have the same file."""
        return stored_file(self.folder, config, PLAYED, trained_for=self.env_steps)


def stored_file(
    folder: Path, config: EvaluationConfig, options: Sequence[str], *, trained_for: int
) -> Path:
    """Where an evaluation of a run is stored, named after the options that change it."""
    changed = config.model_dump(exclude_defaults=True, include=set(options), mode="json")
    parts = [config.split, str(trained_for)]
    for key, value in changed.items():
        if key not in ("split", "checkpoint"):
            values = value if isinstance(value, list) else [value]
            text = "-".join(str(one).removesuffix(".yaml").replace("/", "-") for one in values)
            parts.append(f"{key}-{text}")
    return folder / "eval" / f"{'_'.join(parts)}.json"


def evaluate(trials: Trials, config: EvaluationConfig, console: Console) -> Evaluation:
    """Plays the trials, or reads what they were when played before; prints and stores them."""
    path = trials.file(config)
    if config.stored:
        evaluation = Evaluation.read(path)
        print_evaluation(evaluation, console)
        return evaluation
    evaluation, recordings = measure(trials, config)
    print_evaluation(evaluation, console)
    evaluation.write(path)
    plot_adaptation(evaluation, path.with_suffix(".png"))
    recordings_file(path).unlink(missing_ok=True)  # of an evaluation that is replaced
    if recordings:
        write_recordings(recordings_file(path), recordings)
    print(f"Stored in {path} and {path.with_suffix('.png').name}")
    return evaluation


def measure(trials: Trials, config: EvaluationConfig) -> tuple[Evaluation, list[Recording]]:
    """Plays every task; also what was recorded of a few, where that is asked for and can be."""
    experiment, distribution, tasks = trials.experiment, trials.distribution, trials.tasks
    num_slots = min(config.tasks_at_once, len(tasks)) * trials.shape.slots_per_task
    with closing(distribution.make_env(num_slots)) as env:
        recordings = Recordings(config.record) if wants_rollouts(config, env) else None
        agent = build_agent(experiment, env)
        load_agent(agent, trials.checkpoint)
        curve = play(
            agent, env, tasks,
            shape=trials.shape, seed=config.seed, greedy=config.greedy, recordings=recordings,
        )  # fmt: skip
    evaluation = Evaluation(
        experiment=experiment.name,
        agent=experiment.agent.kind,
        seed=experiment.seed,
        env_steps=trials.env_steps,
        distribution=distribution.name,
        split=config.split,
        split_hash=tasks.content_hash,
        horizon=distribution.horizon,
        slots_per_task=trials.shape.slots_per_task,
        options=config.model_dump(mode="json", include=set(PLAYED)),
        parameters=[task.parameters.tolist() for task in tasks],
        goals=goals_of(tasks),
        curve=curve,
        environment=environment(),
    )
    return evaluation, recordings.kept if recordings else []


def wants_rollouts(config: EvaluationConfig, env: TaskVectorEnv) -> bool:
    """Whether rollouts are asked for and can be recorded.

    Raises:
        UserError: nothing but rollouts is asked for, and this environment has no physics.
    """
    if isinstance(env, Recorder):
        return config.report or config.replay or config.video
    if config.replay or config.video:
        raise UserError(NOTHING_TO_SHOW)
    return False


def write_outputs(trials: Trials, evaluation: Evaluation, config: EvaluationConfig) -> None:
    """Writes the report of one run, or its rollouts alone."""
    path = trials.file(config)
    folder = trials.folder / "report" / path.stem
    file = recordings_file(path)
    replay, films, shown = None, [], []
    if file.exists() or not config.report:
        shown = recorded(trials.distribution, trials.tasks, file)
    if shown or not config.report:
        title = f"{evaluation.experiment}, seed {evaluation.seed}: rollouts"
        replay, films = write_rollouts(
            folder, shown, title=title, video=config.video, fine=config.fine, camera=config.camera
        )
    if config.report:
        more = yardstick_sections([evaluation], [trials], config)
        write_adaptation(folder, evaluation, more, films=films, replay=replay)


def write_comparison(
    trials: Sequence[Trials], evaluations: Sequence[Evaluation], config: EvaluationConfig
) -> None:
    """Writes the report on several runs."""
    report = comparison_report(evaluations, yardstick_sections(evaluations, trials, config))
    names = [f"{t.experiment.name}-seed{t.experiment.seed}" for t in trials]
    name = "_".join([*names, trials[0].file(config).stem])
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    folder = trials[0].folder.parent.parent / "comparisons" / name
    print(f"Report: {write_report(folder, report)}")


def yardstick_sections(
    evaluations: Sequence[Evaluation], trials: Sequence[Trials], config: EvaluationConfig
) -> list[Section]:
    """What else plays the same tasks; nothing where it was not asked for."""
    if not config.yardstick:
        return []
    yardsticks = measure_yardsticks(
        trials[0].distribution, config.yardsticks, trials[0].folder / "yardsticks", print
    )
    new = config.model_copy(
        update={"checkpoint": 0, "report": False, "replay": False, "video": False}
    )
    untrained = [measure(Trials.of(t.folder, new), new)[0] for t in trials]
    return [yardstick_section(evaluations, untrained, yardsticks)]


def watch(folder: Path, config: EvaluationConfig) -> None:
    """Serves the replay while the agent plays task after task; each trial takes the newest
    checkpoint, so that a training can be watched."""
    trials = Trials.of(folder, config)
    env = trials.distribution.make_env(trials.shape.slots_per_task)
    if not isinstance(env, Recorder):
        raise UserError(NOTHING_TO_SHOW)
    agent = build_agent(trials.experiment, env)
    next_trial = trial_after_trial(
        agent, env, trials.tasks, shape=trials.shape, seed=config.seed, greedy=config.greedy,
        prepare=lambda: load_agent(agent, find_checkpoint(folder, config)),
    )  # fmt: skip
    title = f"{trials.experiment.name}, seed {trials.experiment.seed}: live"
    with live_server(next_trial, title=title, port=config.port) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        print(f"Watch it on {address} until you press Ctrl-C", flush=True)
        server.serve_forever()


def evaluate_few_shot(
    folder: Path, experiment: FewShotExperiment, config: EvaluationConfig, console: Console
) -> None:
    """Judges a few-shot learner, or reads how it was judged before; prints, stores and reports."""
    checkpoint = find_checkpoint(folder, config)
    path = stored_file(folder, config, JUDGED, trained_for=int(checkpoint.name))
    if config.stored:
        evaluation = FewShotEvaluation.read(path)
        print_few_shot(evaluation, console)
    else:
        evaluation = measure_few_shot(experiment, checkpoint, config)
        print_few_shot(evaluation, console)
        evaluation.write(path)
        plot_few_shot(evaluation, path.with_suffix(".png"))
        print(f"Stored in {path} and {path.with_suffix('.png').name}")
    if config.report:
        page = write_report(folder / "report" / path.stem, few_shot_report(evaluation))
        print(f"Report: {page}")


def measure_few_shot(
    experiment: FewShotExperiment, checkpoint: Path, config: EvaluationConfig
) -> FewShotEvaluation:
    """Judges the learner of a checkpoint on the tasks of a split."""
    experiment = experiment.model_copy(update={"device": config.device})
    distribution = experiment.env.build()
    shape = distribution.shape
    learner = build_learner(experiment, shape)
    load_agent(learner, checkpoint)
    sampler = distribution.test if config.split == "test" else distribution.train
    usual = SHOTS if shape.classification else SHOTS_OF_FUNCTIONS
    judged = judge(
        learner,
        sampler,
        shape,
        shots=config.shots or (*usual, distribution.shots),
        episodes=config.episodes or FEW_SHOT_TASKS,
        seed=config.seed,
    )
    return FewShotEvaluation(
        experiment=experiment.name,
        agent=experiment.agent.kind,
        seed=experiment.seed,
        tasks=int(checkpoint.name),
        distribution=distribution.name,
        split=config.split,
        split_hash=sampler.content_hash,
        num_ways=shape.num_outputs if shape.classification else None,
        batch_norm=experiment.agent.encoder.batch_norm,
        options=config.model_dump(mode="json", include=set(JUDGED)),
        environment=environment(),
        **judged._asdict(),
    )


def check_options(config: EvaluationConfig, *, few_shot: bool) -> None:
    """Checks that the options that were given are for such a run.

    Raises:
        UserError: naming the first that is not.
    """
    taken = {*JUDGED, "device", "stored", "report"}
    for name in EvaluationConfig.model_fields:
        flag = f"--{name.replace('_', '-')}"
        if name not in config.model_fields_set:
            continue
        if few_shot and name not in taken:
            known = ", ".join(
                f"--{each}" for each in EvaluationConfig.model_fields if each in taken
            )
            raise UserError(
                f"{flag} is not for few-shot learning, where nothing is played; {known} are"
            )
        if not few_shot and name == "shots":
            raise UserError(f"{flag} is for few-shot learning; episodes of a trial are --episodes")


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


def main(arguments: list[str]) -> None:
    """The command line."""
    switches = [
        name for name, field in EvaluationConfig.model_fields.items() if field.annotation is bool
    ]
    positional, options = split_command_line(arguments, switches=("help", *switches))
    if options.pop("help", False):
        print(__doc__)
        tyro.cli(EvaluationConfig, args=["--help"], prog="python evaluate.py RUN")
    config = validate(EvaluationConfig, override({}, options), source="evaluate.py")
    folders = [Path(name) for name in positional]
    if not folders or (len(folders) > 1 and not config.compare):
        raise UserError(
            "name one run: python evaluate.py runs/EXPERIMENT/SEED, or several with --compare"
        )
    for folder in folders:
        if not (folder / CONFIG).is_file():
            raise UserError(f"{folder} is no run: it has no {CONFIG}")
    experiments = [load(folder / CONFIG) for folder in folders]
    few_shot = [each for each in experiments if isinstance(each, FewShotExperiment)]
    check_options(config, few_shot=bool(few_shot))
    if config.yardstick and (config.split == "train" or config.protocol == "metaworld"):
        raise UserError("--yardstick is for all held-out tasks; leave --split and --protocol out")
    if config.yardstick and not (config.report or config.compare):
        raise UserError("--yardstick is a part of reports; add --report")
    console = Console(width=None if sys.stdout.isatty() else 120)
    if few_shot:
        evaluate_few_shot(folders[0], few_shot[0], config, console)
        return
    if config.live:
        watch(folders[0], config)
        return
    trials = [Trials.of(folder, config) for folder in folders]
    evaluations = [evaluate(t, config, console) for t in trials]
    if config.compare:
        write_comparison(trials, evaluations, config)
    elif config.report or config.replay or config.video:
        write_outputs(trials[0], evaluations[0], config)


if __name__ == "__main__":
    with one_line_errors("evaluate.py"):
        main(sys.argv[1:])
