"""Trials of a trained agent on a set of tasks, and their evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from metarl.config import find_config
from metarl.errors import UserError, note, printable
from metarl.evaluation.options import EvaluationOptions
from metarl.evaluation.record import (
    Evaluation,
    stored_file,
)
from metarl.evaluation.setting import Setting
from metarl.learning.belief import BeliefLog, Believer
from metarl.protocols import Agent, TaskDistribution, TaskVectorEnv
from metarl.rollout.interface import Interface
from metarl.rollout.recording import Recordings
from metarl.rollout.task_set import play
from metarl.system import ranks
from metarl.system.files import check_can_write
from metarl.system.memory import check_trial_fits
from metarl.tasks import TaskSet, goals_of
from metarl.training.checkpoint import Meta, checkpoints, read_meta
from metarl.training.experiment import (
    Experiment,
    FewShotExperiment,
    build_agent,
    distribution_named,
    file_hash,
    load_env,
    load_experiment,
    short_kind,
)
from metarl.training.provenance import environment
from metarl.training.run import CONFIG, is_published, load_agent
from metarl.types import AdaptationCurve, EvaluationProtocol, TrialShape

Options = TypeVar("Options", bound=EvaluationOptions)


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Trials of an evaluation: the agent of a checkpoint, and the tasks that it plays."""

    folder: Path
    """Folder of the run."""
    output: Path
    """Folder of the results: `folder`, unless `--output` names another."""
    experiment: str
    agent: str
    """The kind of agent, e.g. `rl2`."""
    agent_file_hash: str | None
    """SHA-256 of the file of a user's algorithm."""
    seed: int
    """Seed of the run."""
    build_agent: Callable[[TaskVectorEnv], Agent[Any]]
    """Builds an untrained agent for an environment."""
    checkpoint: Path
    distribution: TaskDistribution
    reward_version: str | None
    """Version of the rewards; None if they have no versions."""
    split: str
    tasks: TaskSet[Any]
    shape: TrialShape

    @property
    def env_steps(self) -> int:
        """Env steps that the agent has been trained for."""
        return int(self.checkpoint.name)

    @property
    def name(self) -> str:
        """Name of the run; file names use it."""
        return f"{self.experiment}-seed{self.seed}"

    @property
    def setting(self) -> Setting:
        """Properties that must be equal where runs are compared."""
        return Setting(
            experiment=self.experiment,
            seed=self.seed,
            distribution=self.distribution.name,
            split_hash=self.tasks.content_hash,
            horizon=self.distribution.horizon,
            reward_version=self.reward_version,
            total_episodes=self.shape.total_episodes,
            slots_per_task=self.shape.slots_per_task,
        )

    def trained_agent(self, env: TaskVectorEnv) -> Agent[Any]:
        """The agent of the checkpoint.

        Raises:
            UserError: the checkpoint is missing or damaged, or the agent does not fit the
                environment.
        """
        agent = self.build_agent(env)
        load_agent(agent, self.checkpoint)
        return agent

    def check(self) -> None:
        """Checks that the agent can play these tasks.

        Raises:
            UserError: it cannot; says why.
        """
        with closing(self.distribution.make_env(self.shape.slots_per_task)) as env:
            self.trained_agent(env)

    def play(self, options: Mapping[str, Any], recordings: Recordings | None = None) -> Evaluation:
        """Plays every task; `options` and `recordings` are those of `played`."""
        curve, beliefs = self.played(options, recordings)
        return Evaluation(
            experiment=self.experiment,
            agent=self.agent,
            seed=self.seed,
            env_steps=self.env_steps,
            distribution=self.distribution.name,
            split=self.split,
            split_hash=self.tasks.content_hash,
            horizon=self.distribution.horizon,
            slots_per_task=self.shape.slots_per_task,
            options=dict(options),
            parameters=[task.parameters.tolist() for task in self.tasks],
            goals=goals_of(self.tasks),
            curve=curve,
            environment=environment(),
            reward_version=self.reward_version,
            belief=beliefs.curve(self.tasks) if beliefs else None,
        )

    def played(
        self, options: Mapping[str, Any], recordings: Recordings | None
    ) -> tuple[AdaptationCurve, BeliefLog | None]:
        """Scores and beliefs on every task, which ranks share out among them.

        Args:
            options: options stored with the evaluation; `tasks_at_once`, `seed` and `greedy`
                determine how it is played.
            recordings: collects the rollouts; environments must be `Recorder`s then.
        """
        at_once = min(options["tasks_at_once"], len(self.tasks))
        check_trial_fits(self.shape, num_tasks=at_once, horizon=self.distribution.horizon)
        num_slots = at_once * self.shape.slots_per_task
        with closing(self.distribution.make_env(num_slots)) as env:
            agent = self.trained_agent(env)
            beliefs = None
            if isinstance(agent, Believer):
                beliefs = BeliefLog(agent, slots_per_task=self.shape.slots_per_task)
            curve = play(
                agent, env, self.tasks,
                shape=self.shape, seed=options["seed"], greedy=options["greedy"],
                recordings=recordings, watch=beliefs.keep if beliefs else None, together=True,
            )  # fmt: skip
        for log in (beliefs, recordings):
            if log is not None:
                log.gather()
        return curve, beliefs


def find_trials(folder: Path, config: EvaluationOptions) -> Trials:
    """The trials of a run under these options."""
    experiment = load_experiment(folder / CONFIG).model_copy(update={"device": config.device})
    distribution = find_distribution(experiment, config)
    protocol = find_protocol(distribution, config)
    return Trials(
        folder=folder,
        output=output_folder(folder, experiment, config),
        experiment=experiment.name,
        agent=short_kind(experiment.agent.kind),
        agent_file_hash=file_hash(experiment.agent.kind),
        seed=experiment.seed,
        build_agent=partial(fitting_agent, experiment, folder, config),
        checkpoint=find_checkpoint(folder, config),
        distribution=distribution,
        reward_version=getattr(distribution, "reward_version", None),
        split=config.split,
        tasks=find_tasks(distribution, protocol, config),
        shape=find_shape(experiment, protocol, config),
    )


def fitting_agent(
    experiment: Experiment, folder: Path, config: EvaluationOptions, env: TaskVectorEnv
) -> Agent[Any]:
    """The untrained agent of a run, for an environment that fits its training.

    Raises:
        UserError: the environment does not fit.
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
    """Interface of the run's tasks as they are now, for runs that did not store it in training."""
    with closing(experiment.env.build().make_env(1)) as env:
        return Interface.of(env)


def output_folder(
    folder: Path, experiment: Experiment | FewShotExperiment, config: EvaluationOptions
) -> Path:
    """Folder of the results of a run."""
    if config.output is None:
        return folder
    return Path(config.output) / f"{experiment.name}-seed{experiment.seed}"


def as_published(folder: Path, config: Options) -> Options:
    """The options; for a published run on its own tasks, with its published number of episodes."""
    checkpoint = find_checkpoint(folder, config)
    if config.episodes is None and config.tasks is None and is_published(checkpoint):
        for path in sorted((folder / "eval").glob(f"{config.split}_{checkpoint.name}*.json")):
            options = Evaluation.read(path).options
            if options["protocol"] == config.protocol:
                return config.model_copy(update={"episodes": options.get("episodes")})
    return config


def evaluation_file(trials: Trials, config: EvaluationOptions) -> Path:
    """Path of the stored evaluation; the same options give the same file."""
    options = config.result_options(few_shot=False, exclude_defaults=True)
    return stored_file(trials.output, config.split, options, trained_for=trials.env_steps)


def check_is_of(evaluation: Evaluation, trials: Trials, path: Path) -> None:
    """Checks that a stored evaluation belongs to these trials.

    Raises:
        UserError: it belongs to another run or checkpoint, or the tasks have changed since.
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


def measure(trials: Trials, config: EvaluationOptions, recordings: Recordings | None) -> Evaluation:
    """Plays every task, and records some of them if `recordings` is given."""
    if config.tasks is None:
        train_hash = trials.distribution.train.content_hash
        note_changes(read_meta(trials.checkpoint), train_hash, trials.agent_file_hash)
    ranks.from_first((trials.folder, config, recordings))
    return trials.play(config.result_options(few_shot=False), recordings)


def play_along() -> None:
    """Plays this rank's share of all that the first rank measures, until that one is done."""
    nothing: Any = None
    while (job := ranks.from_first(nothing)) is not None:
        folder, config, recordings = job
        find_trials(folder, config).played(config.result_options(few_shot=False), recordings)


def note_changes(meta: Meta, train_hash: str, agent_file_hash: str | None) -> None:
    """Tells the user if the training tasks, or the file of the user's algorithm, changed since the
    agent was trained."""
    trained = meta.task_hashes
    if trained and trained.train != train_hash:
        note("the training tasks changed since the agent learned on them; held-out tasks and "
             "results may be others too")  # fmt: skip
    if trained and trained.agent != agent_file_hash:
        note("the file of the algorithm changed since the agent learned with it; the results are "
             "those of the new one")  # fmt: skip


def check_can_store(trials: Sequence[Trials], config: EvaluationOptions) -> None:
    """Checks, before anything is played, that the results can be written.

    Raises:
        UserError: they cannot; says why.
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


def find_distribution(experiment: Experiment, config: EvaluationOptions) -> TaskDistribution:
    """The distribution that the agent was trained on, or the requested one."""
    if config.tasks is None:
        return experiment.env.build()
    if (path := find_config(config.tasks)).suffix == ".yaml":
        env: Any = load_env(path)
        return env.build()
    return distribution_named(config.tasks)


def find_protocol(
    distribution: TaskDistribution, config: EvaluationOptions
) -> EvaluationProtocol | None:
    """The documented protocol of the distribution, if it was requested.

    Raises:
        UserError: the distribution has no protocol of this name.
    """
    if config.protocol == "curve":
        return None
    protocol = getattr(distribution, "protocol", None)
    if protocol is None or protocol.name != config.protocol:
        raise UserError(
            f"--protocol {config.protocol} is not documented for {distribution.name}; leave it out"
        )
    return protocol


def find_tasks(
    distribution: TaskDistribution, protocol: EvaluationProtocol | None, config: EvaluationOptions
) -> TaskSet:
    """The tasks of the split; with a protocol, the first goals of each class."""
    tasks = distribution.test if config.split == "test" else distribution.train
    return tasks if protocol is None else tasks.first_of_each_class(protocol.goals)


def find_shape(
    experiment: Experiment, protocol: EvaluationProtocol | None, config: EvaluationOptions
) -> TrialShape:
    """The layout of the episodes of a trial."""
    trained = experiment.agent.trial_shape(experiment.train.episodes_per_trial)
    episodes = config.episodes or trained.total_episodes
    if protocol is not None:
        if config.episodes is not None:
            raise UserError(
                f"--protocol {protocol.name} says how many episodes; leave --episodes out"
            )
        # Episodes played side by side cannot be split.
        rounds = [
            math.ceil(count / trained.slots_per_task)
            for count in (protocol.adaptation_episodes, protocol.test_episodes)
        ]
        episodes = sum(rounds) * trained.slots_per_task
    shape = experiment.agent.trial_shape(episodes)
    if config.greedy:
        check_greedy(experiment, shape)
    return shape


def check_greedy(experiment: Experiment, shape: TrialShape) -> None:
    """Checks that an agent can take its policy's mode throughout a trial of this shape.

    Raises:
        UserError: it adapts between rollouts, which needs random actions.
    """
    if shape.rollouts > 1:
        raise UserError(
            f"--greedy: {experiment.agent.kind} adapts by what its own random actions lead to; "
            "leave it out"
        )


def find_checkpoint(folder: Path, config: EvaluationOptions) -> Path:
    """The folder of the requested checkpoint, or of the newest."""
    if config.checkpoint is not None:
        return folder / "checkpoints" / str(config.checkpoint)
    whole = checkpoints(folder / "checkpoints")
    if not whole:
        raise UserError(f"{folder} has no checkpoint yet; train it with --resume {folder}")
    return whole[-1]
