"""Experiments: a task distribution and a learner, each a config that is found by its kind.

A kind is the name of an entry point, so that your package can add kinds: to the groups
`metarl.envs` and `metarl.agents` for reinforcement learning, `metarl.few_shot_envs` and
`metarl.few_shot_learners` for few-shot learning. A kind can also be a class in your own file,
`FILE.py:CLASS`. Only the kinds that an experiment names are imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BeforeValidator, create_model

from metarl import renames
from metarl.config import Config, override, read_yaml, validate
from metarl.errors import UserError, nearest, printable
from metarl.protocols import Agent, FewShotLearner, TaskDistribution, TaskVectorEnv
from metarl.system import stopping
from metarl.system.memory import check_trial_fits
from metarl.system.seeding import derive_seed
from metarl.system.started import SCRIPTS, typed
from metarl.system.user_module import UserModule, describe
from metarl.training.run import CONFIG, choose_device
from metarl.training.settings import FewShotTrainConfig, RunConfig, TrainConfig
from metarl.training.trust import check_trusted, code_of
from metarl.types import FewShotShape, TrialShape

E = TypeVar("E", bound=Config)
"""Config of a task distribution."""
A = TypeVar("A", bound=Config)
"""Config of an agent or a few-shot learner."""


class Experiment(RunConfig, Generic[E, A]):
    """Everything that a run of reinforcement learning depends on."""

    env: E
    """The task distribution."""
    agent: A
    """The algorithm."""
    train: TrainConfig = TrainConfig()
    """The training loop."""


class FewShotExperiment(RunConfig, Generic[E, A]):
    """Everything that a run of few-shot learning depends on."""

    env: E
    """The task distribution."""
    agent: A
    """The algorithm."""
    train: FewShotTrainConfig = FewShotTrainConfig()
    """The training loop."""


class Field(NamedTuple):
    """One way of learning: its experiments, and the groups of entry points that hold its kinds."""

    experiment: type[Experiment] | type[FewShotExperiment]
    envs: str
    agents: str


FIELDS = (
    Field(Experiment, "metarl.envs", "metarl.agents"),
    Field(FewShotExperiment, "metarl.few_shot_envs", "metarl.few_shot_learners"),
)


FILE_KIND = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
METHODS = {
    "metarl.envs": ("build",),
    "metarl.agents": ("build", "trial_shape", "check_training"),
    "metarl.few_shot_envs": ("build", "as_judged"),
    "metarl.few_shot_learners": ("build",),
}
"""Methods that a config of each group must have; see `metarl.protocols`."""


def load(path: Path, options: Mapping[str, Any] | None = None) -> Experiment | FewShotExperiment:
    """The experiment in a YAML file; command-line options replace its values.

    Raises:
        UserError: it cannot be read, or a key or a value is wrong; names it.
    """
    stored = renames.renamed(read_yaml(path), renames.EXPERIMENT)
    given = {renames.EXPERIMENT.get(key, key): value for key, value in (options or {}).items()}
    values = override({"name": path.stem, **stored}, given)
    return experiment_of(values, source=str(path) if not options else f"{path} and flags")


def load_env(path: Path) -> Config:
    """The `env` section of a YAML file of reinforcement learning; the rest of it is not looked at.

    Raises:
        UserError: it cannot be read, a key or a value is wrong, or it is one of few-shot learning.
    """
    values = renames.renamed(read_yaml(path), renames.EXPERIMENT)
    group, env = _kind(values, "env", [field.envs for field in FIELDS], source=str(path))
    if group != FIELDS[0].envs:
        kind = values["env"]["kind"]
        raise UserError(f"{path}: {kind} is few-shot learning, nothing is played")
    return validate(env, values["env"], source=f"{path}: env")


def load_run(
    folder: Path, *, trusted: bool = False, option: str = "--trust", plays: bool = True
) -> Experiment | FewShotExperiment:
    """The experiment of a run. Code from others is executed only if the user allows it.

    Args:
        folder: folder of the run.
        trusted: whether the user allows it.
        option: how the user allows it.
        plays: whether the run's environments will be built, which executes the code of its tasks.

    Raises:
        UserError: there is no run, its config is damaged, or code would have to be trusted.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is no run: it has no {CONFIG}")
    for code in files_named(read_yaml(path)):
        if not Path(code).is_file():
            raise UserError(
                f"{folder} needs {code}, which is not there; put it back, or name its new place in "
                f"{path}"
            )
        check_trusted(code, folder, allowed=trusted, option=option)
    experiment = load(path)
    if plays:
        check_trusted(code_of(experiment.env), folder, allowed=trusted, option=option)
    return experiment


def load_experiment(path: Path, options: Mapping[str, Any] | None = None) -> Experiment:
    """The reinforcement-learning experiment in a YAML file.

    Raises:
        UserError: as `load`, or it is a few-shot experiment.
    """
    experiment = load(path, options)
    if isinstance(experiment, FewShotExperiment):
        raise UserError(f"{path}: {experiment.env.kind} is few-shot learning, nothing is played")
    return experiment


def codes_of(experiment: Experiment | FewShotExperiment) -> list[str]:
    """Full paths of the files and names of the modules that an experiment executes."""
    code = code_of(experiment.env)
    return [*files_named(experiment.model_dump()), *([code] if code else [])]


def short_kind(kind: str) -> str:
    """A kind as tables show it: a file without its folder."""
    match = FILE_KIND.fullmatch(kind)
    return f"{Path(match['file']).name}:{match['name']}" if match else kind


def file_hash(kind: str) -> str | None:
    """SHA-256 of the file that a kind names; None if it names no file."""
    match = FILE_KIND.fullmatch(kind)
    return UserModule(match["file"]).content_hash if match else None


def experiment_of(values: Mapping[str, Any], *, source: str) -> Experiment | FewShotExperiment:
    """An experiment from plain values.

    Args:
        source: where the values come from, for messages.

    Raises:
        UserError: a key or a value is wrong; names it.
    """
    group, env = _kind(values, "env", [field.envs for field in FIELDS], source=source)
    field = next(field for field in FIELDS if field.envs == group)
    _, agent = _kind(values, "agent", [field.agents], source=source)
    experiment: Any = field.experiment
    with told_in_a_line(values):
        return validate(experiment[env, agent], values, source=source)


@contextmanager
def told_in_a_line(values: Mapping[str, Any]) -> Iterator[None]:
    """Turns failures of a user's algorithm or environments into one line with their place. Failures
    of ours are mistakes of ours, and keep their traceback.

    Args:
        values: the experiment, whose kinds may name files.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except (Exception, SystemExit) as error:
        stopped = isinstance(error, SystemExit) and error.code == stopping.EXIT_CODE
        if stopped or not (of_user := _file_kinds(values)):
            raise
        kind = of_user[0]
        raise UserError(
            f"{kind} failed: {describe(error)}; "
            + typed(f"python -m metarl.check_agent {kind} may say more")
        ) from error


def files_named(values: Mapping[str, Any]) -> list[str]:
    """Full paths of the files that the kinds of an experiment name."""
    return [str(UserModule(kind.rpartition(":")[0]).path) for kind in _file_kinds(values)]


def _file_kinds(values: Mapping[str, Any]) -> list[str]:
    """The kinds of an experiment that name a class in a file."""
    sections = [values.get(section) for section in ("agent", "env")]
    named = [section.get("kind") for section in sections if isinstance(section, Mapping)]
    return [kind for kind in named if isinstance(kind, str) and FILE_KIND.fullmatch(kind)]


def config_of(kind: str, group: str) -> type[Any]:
    """The config that a kind names.

    Raises:
        UserError: it names none of this group.
    """
    _, config = _kind({"agent": {"kind": kind}}, "agent", [group], source=kind)
    return config


def kinds(group: str) -> dict[str, type[Config]]:
    """The configs of a group of entry points, by kind."""
    return {entry_point.name: _loaded(entry_point) for entry_point in entry_points(group=group)}


def distribution_named(name: str) -> TaskDistribution:
    """The task distribution of a benchmark, found by the benchmark's name alone.

    Raises:
        UserError: no kind of environment has a benchmark of this name.
    """
    by_name: dict[str, Any] = {
        each: kind for kind in kinds("metarl.envs").values() for each in kind.benchmarks
    }
    if name not in by_name:
        raise UserError(
            f"unknown benchmark {printable(repr(name))}.{nearest(name, by_name)} Give the name of "
            "one, or a config file FILE.yaml whose env is taken"
        )
    return by_name[name](**{"benchmark": name}).build()


def build_agent(experiment: Experiment, env: TaskVectorEnv) -> Agent[Any]:
    """The untrained agent of an experiment."""
    return experiment.agent.build(
        env.single_observation_space,
        env.single_action_space,
        seed=derive_seed(experiment.seed, "weights"),
        device=choose_device(experiment.device),
    )


def build_learner(experiment: FewShotExperiment, shape: FewShotShape) -> FewShotLearner:
    """The untrained few-shot learner of an experiment."""
    return experiment.agent.build(
        shape,
        seed=derive_seed(experiment.seed, "weights"),
        device=choose_device(experiment.device),
    )


def training_shape(experiment: Experiment, distribution: TaskDistribution) -> TrialShape:
    """The layout of trials in training.

    Raises:
        UserError: the agent cannot learn from such trials, or they do not fit into memory.
    """
    plan = experiment.train
    shape = experiment.agent.trial_shape(plan.episodes_per_trial, training=True)
    if plan.rollout_steps is not None:
        if not getattr(experiment.agent, "learns_within_trials", False):
            raise UserError(
                f"agent.kind {experiment.agent.kind} learns from whole trials; leave out "
                "train.rollout_steps"
            )
        shape = replace(shape, rollout_steps=plan.rollout_steps)
    check_trial_fits(shape, num_tasks=plan.meta_batch_size, horizon=distribution.horizon)
    experiment.agent.check_training(
        shape,
        horizon=distribution.horizon,
        num_tasks=plan.meta_batch_size,
        num_classes=len(distribution.train.classes),
    )
    return shape


def _kind(
    values: Mapping[str, Any], section: str, groups: Sequence[str], *, source: str
) -> tuple[str, type[Config]]:
    """The group and the config that a section's `kind` names."""
    where = f"{source}: '{section}.kind'"
    content = values.get(section)
    if section not in values:
        raise UserError(f"{source}: {section!r} is missing; add it")
    if not isinstance(content, Mapping):
        raise UserError(
            f"{source}: {section!r} should be 'key: value' lines, but is {printable(content)}"
        )
    if "kind" not in content:
        raise UserError(f"{where} is missing; add it")
    kind = content["kind"]
    if isinstance(kind, str) and (match := FILE_KIND.fullmatch(kind)):
        return _from_file(kind, UserModule(match["file"]), match["name"], groups)
    known = {each.name: each for group in groups for each in entry_points(group=group)}
    if not known:
        raise UserError("metarl is not installed here: run pip install -e . in its folder")
    if not isinstance(kind, str) or kind not in known:
        raise UserError(
            f"{where} should be one of {', '.join(known)}, or FILE.py:CLASS, but is "
            f"{printable(repr(kind))}.{nearest(str(kind), known)}"
        )
    return known[kind].group, _loaded(known[kind])


def _from_file(
    kind: str, module: UserModule, name: str, groups: Sequence[str]
) -> tuple[str, type[Config]]:
    """The group and the config of a class in a user's file.

    Raises:
        UserError: the file has no config class of this name, or the class lacks a method.
    """
    executed = _executed(module.source, module.content_hash)
    found = getattr(executed, name, None)
    if not isinstance(found, type) or not issubclass(found, Config):
        configs = [
            each.__name__
            for each in vars(executed).values()
            if isinstance(each, type) and issubclass(each, Config) and each is not Config
        ]
        raise UserError(
            f"{module.source} has no metarl.config.Config of the name {name}."
            f"{nearest(name, configs)}"
        )
    missing = {group: [m for m in METHODS[group] if not hasattr(found, m)] for group in groups}
    group = min(groups, key=lambda group: len(missing[group]))
    if missing[group]:
        raise UserError(f"{kind} has no method {missing[group][0]}; add it")
    try:
        return group, _named(found, kind, f"{module.path}:{name}")
    except Exception as error:
        raise UserError(f"{kind} cannot be used as a config: {describe(error)}") from error


@cache
def _executed(source: str, content_hash: str | None) -> ModuleType:
    """The module of a file; executed once, and again only when its content has changed."""
    del content_hash
    return UserModule(source).loaded


@cache
def _named(config: type[Config], kind: str, anywhere: str) -> type[Config]:
    """The config with `anywhere` as its kind: the file's whole path, so that a run can be played
    from any folder. `kind`, as it was written, stands for the same."""
    validator = BeforeValidator(lambda value: anywhere if value == kind else value)
    fields: dict[str, Any] = {"kind": (Annotated[Literal[anywhere], validator], anywhere)}
    return create_model(config.__name__, __base__=config, __doc__=config.__doc__, **fields)


def _loaded(entry_point: EntryPoint) -> type[Config]:
    try:
        return entry_point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"cannot import {entry_point.value} for kind {entry_point.name!r}: {printable(error)}"
            f"{_hidden_by(entry_point.module.partition('.')[0])}"
        ) from error


def _hidden_by(package: str) -> str:
    """Message part that names another package of this name, if Python finds that one first."""
    ours, found = SCRIPTS / package, find_spec(package)
    places = list(found.submodule_search_locations or [found.origin]) if found else []
    if not ours.is_dir() or not places or Path(str(places[0])).resolve() == ours.resolve():
        return ""
    return f"; {places[0]} hides the package of that name in {ours.parent}: run in another folder"
