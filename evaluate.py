"""Measures how fast a trained agent adapts to tasks that it never saw.

python evaluate.py runs/maml_trpo_ml1_reach/seed1            all held-out tasks
python evaluate.py RUN --checkpoint 0                        the untrained agent
python evaluate.py RUN --split train --episodes 40           training tasks, longer trials
python evaluate.py RUN --tasks ML10                          another distribution that fits
python evaluate.py RUN --protocol metaworld                  as Meta-World documents it
python evaluate.py RUN --report                              a page with pictures and a 3-D replay
python evaluate.py RUN --video --camera corner               MP4s, before and after adaptation
python evaluate.py RUN --live                                watch it play in a browser
python evaluate.py --compare RUN RUN … --replay              several agents or seeds on one page
python evaluate.py RUN --output DIR                          results go there, not into the run
python evaluate.py RUN --shots '[1, 5]' --report             of few-shot learning
"""

from __future__ import annotations

from metarl.system import stopping

if __name__ == "__main__":
    stopping.install("evaluate.py")  # before the imports, which take seconds

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import tyro
from pydantic import BeforeValidator, Field
from rich.console import Console

from envs.few_shot.images import EpisodeConfig
from envs.gymnasium_tasks.adapted import Adapted, Fit, LoneEnv, adapt_agent
from envs.metaworld import MetaWorld
from envs.yardsticks.suite import YardsticksConfig, measure_yardsticks
from metarl.config import (
    Config,
    Seed,
    Size,
    flag,
    given_options,
    override,
    split_command_line,
    validate,
)
from metarl.errors import UserError, note, printable
from metarl.evaluation.few_shot import SHOTS, SHOTS_OF_FUNCTIONS, judge
from metarl.evaluation.few_shot_record import FewShotEvaluation
from metarl.evaluation.record import (
    METAWORLD_ADAPTATION_EPISODES,
    Evaluation,
    said_of_published,
    stored_file,
)
from metarl.evaluation.setting import check_alike
from metarl.evaluation.trials import Trials
from metarl.protocols import Agent, TaskDistribution, TaskVectorEnv
from metarl.report.adaptation import adaptation_report, plot_adaptation
from metarl.report.blocks import Section
from metarl.report.compared_rollouts import Beside
from metarl.report.comparison import comparison_report
from metarl.report.few_shot import few_shot_report, plot_few_shot, print_few_shot
from metarl.report.output import (
    FIRST_AND_LAST,
    can_show,
    check_shows,
    comparison_folder,
    recordings_file,
    with_scenes,
    write_rollouts,
)
from metarl.report.page import write_report
from metarl.report.terminal import print_evaluation
from metarl.report.yardsticks import yardstick_section
from metarl.rollout.interface import Interface, WhoseBounds
from metarl.rollout.recording import Recorder, Recordings, read_recordings, write_recordings
from metarl.system.command_line import one_line_errors
from metarl.system.console import plain_console
from metarl.system.files import check_can_write
from metarl.tasks import TaskSet
from metarl.training.checkpoint import Meta, checkpoints, read_meta
from metarl.training.experiment import (
    Experiment,
    FewShotExperiment,
    build_agent,
    build_learner,
    load,
    load_experiment,
)
from metarl.training.provenance import environment
from metarl.training.run import CONFIG, is_published, load_agent
from metarl.training.trust import check_trusted
from metarl.types import TrialShape
from metarl.visual.replay import live_server, trial_after_trial
from metarl.visual.video import NOTHING_TO_SHOW

METAWORLD_TEST_EPISODES = 3
METAWORLD_GOALS = 40
FEW_SHOT_TASKS = 600

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
    episodes: Size | None = None
    """Episodes of experience with each task; where not given as in training, and of a published run
    as it is published. Of few-shot learning, tasks to be judged on; 600 where not given."""
    shots: ShotCounts | None = None
    """Of few-shot learning: numbers of support examples; 1, 5 (of functions: 5, 10) and as many as
    in training where not given."""
    tasks: str | None = None
    """Another distribution: a Meta-World benchmark, or a config file whose `env` is taken."""
    bounds: Literal["environment"] | None = None
    """Bounds of actions that rule where those tasks have others than the agent was trained with;
    where not given, they have to be the same."""
    protocol: Literal["curve", "metaworld"] = "curve"
    """`curve`: success after each number of episodes. `metaworld`: 10 episodes of adaptation, then
    3 test episodes, on 40 goals of each class; both are rounded up to what an agent plays side by
    side."""
    checkpoint: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Env steps (of few-shot learning: tasks) of the checkpoint; the newest where not given."""
    greedy: bool = False
    """Take the policy's mode instead of drawing from it."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Mean success that counts as adapted."""
    tasks_at_once: Size = 50
    """Tasks that are played side by side."""
    seed: Seed = 0
    """Of the actions, the environments and the bootstrap; of few-shot learning, the tasks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the agent lives."""
    output: str | None = None
    """Folder that results go to, each run's in one of its own; those of a run go into the run where
    not given."""
    stored: bool = False
    """Read what this command stored before instead of playing again."""
    report: bool = False
    """Write a page with all pictures, tables and an interactive replay."""
    replay: bool = False
    """Write the interactive replay alone; with --compare, put it on the page."""
    video: bool = False
    """Render MP4s of the first and last episode side by side; they go into the report too."""
    camera: str | None = None
    """Of the videos; the scene's best where not given."""
    fine: bool = False
    """Draw videos with smooth edges and fine shadows: three times slower without a GPU."""
    record: Size = 4
    """Tasks whose rollouts are kept for replay and video; those that fail come first, and with
    --compare those on which agents differ."""
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
    trust: bool = False
    """Execute the module of tasks that the run names although it was not trained with here."""


PLAYED = ("split", "episodes", "tasks", "protocol", "checkpoint", "greedy", "threshold",
          "tasks_at_once", "seed")  # fmt: skip
"""Options that change what is played, or said of it."""
JUDGED = ("split", "episodes", "shots", "checkpoint", "seed")
"""Those of few-shot learning."""
FEW_SHOT = ("split", "episodes", "shots", "checkpoint", "seed", "device", "output", "stored",
            "report")  # fmt: skip
"""All that mean something in few-shot learning."""
LIVE = ("split", "episodes", "tasks", "bounds", "protocol", "checkpoint", "greedy", "seed",
        "device", "live", "port", "trust")  # fmt: skip
"""All that mean something while an agent is watched."""
NEEDS = {
    "camera": ("video",),
    "fine": ("video",),
    "record": ("report", "replay", "video"),
    "port": ("live",),
    "yardstick": ("report", "compare"),
    "yardsticks": ("yardstick",),
}
"""Options that mean something only where one of others is given."""


def find_trials(folder: Path, config: EvaluationConfig) -> Trials:
    """What a run plays under these options."""
    experiment = load_experiment(folder / CONFIG).model_copy(update={"device": config.device})
    distribution = find_distribution(experiment, config)
    versioned = isinstance(distribution, MetaWorld)
    return Trials(
        folder=folder,
        output=output_folder(folder, experiment, config),
        experiment=experiment.name,
        agent=experiment.agent.kind,
        seed=experiment.seed,
        build_agent=partial(fitting_agent, experiment, folder, config),
        checkpoint=find_checkpoint(folder, config),
        distribution=distribution,
        reward_version=distribution.reward_version if versioned else None,
        split=config.split,
        tasks=find_tasks(distribution, config),
        shape=find_shape(experiment, config),
    )


def fitting_agent(
    experiment: Experiment, folder: Path, config: EvaluationConfig, env: TaskVectorEnv
) -> Agent[Any]:
    """The agent of a run, untrained, for an environment that fits what it was trained with.

    Raises:
        UserError: it does not.
    """
    trained = Interface.read(folder)
    if trained is None and config.tasks is not None:
        trained = present_interface(experiment)
    if trained is not None:
        trained.allowed(
            env.single_observation_space,
            env.single_action_space,
            bounds=config.bounds,
            advice="--bounds environment takes all that the environment does",
        )
    return build_agent(experiment, env)


def present_interface(experiment: Experiment) -> Interface:
    """What the run's own tasks are like by now, for runs that do not say what they were like."""
    with closing(experiment.env.build().make_env(1)) as env:
        return Interface.of(env)


def output_folder(
    folder: Path, experiment: Experiment | FewShotExperiment, config: EvaluationConfig
) -> Path:
    """Where what is made of a run goes."""
    if config.output is None:
        return folder
    return Path(config.output) / f"{experiment.name}-seed{experiment.seed}"


@contextmanager
def or_what_is_safe(safe: str) -> Iterator[None]:
    """Turns an error of the system into a line that says what is safe and how to go on."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write: {error}; {safe}. Make room, or put results elsewhere: --output DIR"
        ) from None


@contextmanager
def or_without_picture() -> Iterator[None]:
    """A picture that fails has its line, and nothing else fails with it."""
    try:
        yield
    except Exception as error:
        note(f"no picture: {error}")


def as_published(folder: Path, config: EvaluationConfig) -> EvaluationConfig:
    """The options; on the tasks of a published run, with as many episodes as it is published
    with."""
    checkpoint = find_checkpoint(folder, config)
    if config.episodes is None and config.tasks is None and is_published(checkpoint):
        for path in sorted((folder / "eval").glob(f"{config.split}_{checkpoint.name}*.json")):
            options = Evaluation.read(path).options
            if options["protocol"] == config.protocol:
                return config.model_copy(update={"episodes": options.get("episodes")})
    return config


def evaluation_file(trials: Trials, config: EvaluationConfig) -> Path:
    """Where the evaluation is stored; the same options have the same file."""
    options = config.model_dump(exclude_defaults=True, include=set(PLAYED), mode="json")
    return stored_file(trials.output, config.split, options, trained_for=trials.env_steps)


def evaluate(
    trials: Trials, config: EvaluationConfig, console: Console, recordings: Recordings | None
) -> Evaluation:
    """Plays the trials, or reads what they were when played before; prints and stores them. What
    was published is compared, and not replaced."""
    path = evaluation_file(trials, config)
    if config.stored:
        evaluation = Evaluation.read(path)
        check_is_of(evaluation, trials, path)
        print_evaluation(evaluation, console)
        return evaluation
    evaluation = measure(trials, config, recordings)
    published = is_published(trials.checkpoint)
    stores = not published or config.output is not None
    try:
        print_evaluation(evaluation, console)
    finally:  # also where the output cannot be written
        if stores:
            with or_what_is_safe("of this evaluation there is what was printed"):
                evaluation.write(path)
                recordings_file(path).unlink(missing_ok=True)  # of an evaluation that is replaced
    if published:
        print(said_of_published(evaluation, trials.folder / path.relative_to(trials.output)))
    if stores:
        with or_without_picture():
            plot_adaptation(evaluation, path.with_suffix(".png"))
        print(f"Stored in {path} and {path.with_suffix('.png').name}")
    return evaluation


def check_is_of(evaluation: Evaluation, trials: Trials, path: Path) -> None:
    """Checks that a stored evaluation is of these trials.

    Raises:
        UserError: it is of another run or checkpoint, or of tasks that have changed since.
    """
    stored, now = asdict(evaluation.setting), asdict(trials.setting)
    stored |= {"env_steps": evaluation.env_steps, "split": evaluation.split}
    now |= {"env_steps": trials.env_steps, "split": trials.split}
    for name, value in stored.items():
        if value not in (now[name], None if name == "reward_version" else now[name]):
            raise UserError(
                f"{path} is of {name} {printable(value)}, but the run has {now[name]} now; leave "
                "--stored out to play it anew"
            )


def measure(trials: Trials, config: EvaluationConfig, recordings: Recordings | None) -> Evaluation:
    """Plays every task; a few of them are recorded where that is wanted."""
    if config.tasks is None:
        note_changed_tasks(read_meta(trials.checkpoint), trials.distribution.train.content_hash)
    return trials.play(config.model_dump(mode="json", include=set(PLAYED)), recordings)


def note_changed_tasks(meta: Meta, train_hash: str) -> None:
    """Says where an agent was not trained on the training tasks of today."""
    if meta.task_hashes and meta.task_hashes.train != train_hash:
        note("the training tasks changed since the agent learned on them; held-out tasks and "
             "results may be others too")  # fmt: skip


def evaluate_one(trials: Trials, config: EvaluationConfig, console: Console) -> None:
    """Evaluates a run; writes its report, or its rollouts alone, where that is asked for."""
    path = evaluation_file(trials, config)
    file = recordings_file(path)
    wanted = config.report or config.replay or config.video
    recordings = Recordings(config.record) if wanted and can_show(trials.distribution) else None
    evaluation = evaluate(trials, config, console, recordings)
    if not wanted:
        return
    with or_what_is_safe(f"the evaluation is in {path}, and --stored reads it"):
        if recordings and not config.stored:
            write_recordings(file, recordings.kept)
        report(trials, config, evaluation, recordings=file)


def report(
    trials: Trials, config: EvaluationConfig, evaluation: Evaluation, *, recordings: Path
) -> None:
    """Writes the report on an evaluation, or its rollouts alone."""
    folder = trials.output / "report" / evaluation_file(trials, config).stem
    rollouts = None
    if recordings.exists() or config.replay or config.video:
        rollouts = write_rollouts(
            folder,
            with_scenes(trials.distribution, trials.tasks, read_recordings(recordings)),
            title=f"{evaluation.experiment}, seed {evaluation.seed}: rollouts",
            text=FIRST_AND_LAST,
            video=config.video, fine=config.fine, camera=config.camera,
        )  # fmt: skip
    if config.report:
        page = adaptation_report(evaluation, yardstick_sections([evaluation], [trials], config))
        print(f"Report: {write_report(folder, page, rollouts)}")


def compare(trials: Sequence[Trials], config: EvaluationConfig, console: Console) -> None:
    """Evaluates several runs and puts them on one page, with rollouts where they are asked for."""
    check_alike([each.setting for each in trials])
    if not config.stored:
        for each in trials:
            each.check()
    files = {each.name: evaluation_file(each, config) for each in trials}
    above = Path(config.output) if config.output else trials[0].folder.parent.parent
    folder = comparison_folder(above, list(files), files[trials[0].name].stem)
    beside = Beside(trials) if config.replay or config.video else None
    evaluations = [
        evaluate(each, config, console, beside.recordings.get(each.name) if beside else None)
        for each in trials
    ]
    rollouts = None
    with or_what_is_safe("the evaluations are stored, and --stored reads them"):
        if beside:
            stored = {
                name: folder / f"{name}_{recordings_file(f).name}" for name, f in files.items()
            }
            if not config.stored:
                beside.store(stored, evaluations, limit=config.record)
            shown = beside.shown(stored)
            rollouts = write_rollouts(
                folder,
                with_scenes(trials[0].distribution, trials[0].tasks, shown),
                title=f"{' and '.join(beside.labels.values())}: rollouts",
                text=beside.description(shown),
                video=config.video, fine=config.fine, camera=config.camera,
            )  # fmt: skip
        page = comparison_report(evaluations, yardstick_sections(evaluations, trials, config))
        print(f"Report: {write_report(folder, page, rollouts)}")


def yardstick_sections(
    evaluations: Sequence[Evaluation], trials: Sequence[Trials], config: EvaluationConfig
) -> list[Section]:
    """What else plays the same tasks; nothing where it was not asked for."""
    if not config.yardstick:
        return []
    new = config.model_copy(
        update={"checkpoint": 0, "report": False, "replay": False, "video": False}
    )
    # First, as a checkpoint may be missing, and the others take minutes.
    untrained = [measure(find_trials(t.folder, new), new, None) for t in trials]
    yardsticks = measure_yardsticks(
        trials[0].distribution, config.yardsticks, trials[0].output / "yardsticks", print
    )
    return [yardstick_section(evaluations, untrained, yardsticks)]


def watch(folder: Path, config: EvaluationConfig) -> None:
    """Serves the replay while the agent plays task after task; each trial takes the newest
    checkpoint, so that a training can be watched."""
    trials = find_trials(folder, config)
    env = trials.distribution.make_env(trials.shape.slots_per_task)
    if not isinstance(env, Recorder):
        raise UserError(NOTHING_TO_SHOW)
    agent = trials.build_agent(env)
    next_trial = trial_after_trial(
        agent, env, trials.tasks, shape=trials.shape, seed=config.seed, greedy=config.greedy,
        prepare=lambda: load_agent(agent, find_checkpoint(folder, config)),
    )  # fmt: skip
    title = f"{trials.experiment}, seed {trials.seed}: live"
    with live_server(next_trial, title=title, port=config.port) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        print(f"Watch it on {address} until you press Ctrl-C", flush=True)
        server.serve()


def evaluate_few_shot(
    folder: Path, experiment: FewShotExperiment, config: EvaluationConfig, console: Console
) -> None:
    """Judges a few-shot learner, or reads how it was judged before; prints, stores and reports."""
    checkpoint = find_checkpoint(folder, config)
    options = config.model_dump(exclude_defaults=True, include=set(JUDGED), mode="json")
    output = output_folder(folder, experiment, config)
    path = stored_file(output, config.split, options, trained_for=int(checkpoint.name))
    if config.stored:
        evaluation = FewShotEvaluation.read(path)
        of = evaluation.experiment, evaluation.seed, evaluation.tasks, evaluation.split
        if of != (experiment.name, experiment.seed, int(checkpoint.name), config.split):
            raise UserError(f"{path} is of another run, checkpoint or split; leave --stored out")
        print_few_shot(evaluation, console)
    else:
        check_can_write(output)
        evaluation = measure_few_shot(experiment, checkpoint, config)
        try:
            print_few_shot(evaluation, console)
        finally:  # also where the output cannot be written
            with or_what_is_safe("of this evaluation there is what was printed"):
                evaluation.write(path)
        with or_without_picture():
            plot_few_shot(evaluation, path.with_suffix(".png"))
        print(f"Stored in {path} and {path.with_suffix('.png').name}")
    if config.report:
        with or_what_is_safe(f"the evaluation is in {path}, and --stored reads it"):
            page = write_report(output / "report" / path.stem, few_shot_report(evaluation))
        print(f"Report: {page}")


def measure_few_shot(
    experiment: FewShotExperiment, checkpoint: Path, config: EvaluationConfig
) -> FewShotEvaluation:
    """Judges the learner of a checkpoint on the tasks of a split."""
    experiment = experiment.model_copy(update={"device": config.device})
    env: Any = experiment.env
    if isinstance(env, EpisodeConfig):  # training classes are judged with as many ways as others
        env = env.model_copy(update={"train_ways": None})
    distribution = env.build()
    shape = distribution.shape
    learner = build_learner(experiment, shape)
    note_changed_tasks(load_agent(learner, checkpoint), distribution.train.content_hash)
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
    """Checks that the options that were given are for such a run, and mean something together.

    Raises:
        UserError: naming the first that does not.
    """
    given = given_options(config)
    if few_shot and (others := [name for name in given if name not in FEW_SHOT]):
        known = ", ".join(map(flag, FEW_SHOT))
        raise UserError(
            f"{flag(others[0])} is not for few-shot learning, where nothing is played; {known} are"
        )
    if not few_shot and "shots" in given:
        raise UserError("--shots is for few-shot learning; episodes of a trial are --episodes")
    if config.live and (others := [name for name in given if name not in LIVE]):
        raise UserError(f"{flag(others[0])} has no meaning with --live; leave one of them out")
    needs = {**NEEDS, "record": ("replay", "video")} if config.compare else NEEDS
    for name, needed in needs.items():
        if name in given and not set(needed) & set(given):
            known = " or ".join(map(flag, needed))
            raise UserError(f"{flag(name)} has no meaning by itself; add {known}")
    for name in ("record", "device"):
        if name in given and config.stored and not config.yardstick:
            raise UserError(
                f"{flag(name)} is for playing, and --stored reads; leave one of them out"
            )
    if config.yardstick and (config.split == "train" or config.protocol == "metaworld"):
        raise UserError("--yardstick is for all held-out tasks; leave --split and --protocol out")


def check_can_store(trials: Sequence[Trials], config: EvaluationConfig) -> None:
    """Checks, before anything is played, that what comes of it can be written.

    Raises:
        UserError: saying why not.
    """
    shown = config.report or config.replay or config.video or config.compare
    for each in trials:
        here = config.output is None
        if here and is_published(each.checkpoint):
            if shown:
                raise UserError(
                    f"{each.folder} is published and stays as it is: nothing but its table can be "
                    "played again; reports go elsewhere, with --output DIR"
                )
        elif shown or not config.stored:
            try:
                check_can_write(each.output)
            except UserError as error:
                raise UserError(f"{error}; put results elsewhere with --output DIR") from None


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
    bounds: WhoseBounds | None = None,
    trust: bool = False,
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
        bounds: whose bounds of actions rule where the environment has others than the agent was
            trained with: "trained", those that both allow, or "environment", its own. Where not
            given, they have to be the same. Actions never leave the environment's.
        trust: execute the module of tasks that the run names although it was not trained with here;
            only runs that do not say what they were trained with need it.

    Raises:
        UserError: the environment does not fit the run, the agent cannot adapt like this, or the
            run's module would have to be trusted.
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
    trained = Interface.read(folder)
    if trained is None:
        check_trusted(experiment.env, folder, allowed=trust, option="trust=True")
        trained = present_interface(experiment)
    fit = Fit(trained=trained, bounds=bounds)
    agent = build_agent(experiment, LoneEnv(env, fit=fit, episodes=episodes))
    load_agent(agent, find_checkpoint(folder, config))
    return adapt_agent(agent, env, shape=shape, fit=fit, greedy=greedy, seed=seed)


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
    for folder, experiment in zip(folders, experiments, strict=True):
        check_trusted(experiment.env, folder, allowed=config.trust)
    console = plain_console(None if sys.stdout.isatty() else 120)
    if few_shot:
        evaluate_few_shot(folders[0], few_shot[0], config, console)
        return
    if not config.compare:
        config = as_published(folders[0], config)
    if config.live:
        watch(folders[0], config)
        return
    trials = [find_trials(folder, config) for folder in folders]
    check_can_store(trials, config)
    if config.replay or config.video:
        check_shows(trials[0].distribution, trials[0].tasks, camera=config.camera)
    if config.compare:
        compare(trials, config, console)
    else:
        evaluate_one(trials[0], config, console)


if __name__ == "__main__":
    with one_line_errors("evaluate.py"):
        main(sys.argv[1:])
