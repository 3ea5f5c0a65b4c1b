"""Experiments: a task distribution and what learns on it, each a config that is found by its kind.

Kinds are entry points, so that a package of yours can add some: `metarl.envs` and `metarl.agents`
for reinforcement learning, `metarl.few_shot_envs` and `metarl.few_shot_learners` for few-shot
learning. Only what an experiment names is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from metarl.config import Config, override, read_yaml, validate
from metarl.errors import UserError, nearest, printable
from metarl.protocols import Agent, FewShotLearner, TaskDistribution, TaskVectorEnv
from metarl.system.seeding import derive_seed
from metarl.training.run import choose_device
from metarl.training.settings import FewShotTrainConfig, RunConfig, TrainConfig
from metarl.types import FewShotShape

E = TypeVar("E", bound=Config)
"""Configures a task distribution."""
A = TypeVar("A", bound=Config)
"""Configures an agent or a few-shot learner."""


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


def load(path: Path, options: Mapping[str, Any] | None = None) -> Experiment | FewShotExperiment:
    """The experiment in a YAML file, with command-line options in place of what it says.

    Raises:
        UserError: it cannot be read, or a key or a value is wrong; names it.
    """
    values = override({"name": path.stem, **read_yaml(path)}, options or {})
    return experiment_of(values, source=str(path) if not options else f"{path} and flags")


def load_experiment(path: Path, options: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of reinforcement learning in a YAML file.

    Raises:
        UserError: as `load`, or it is one of few-shot learning.
    """
    experiment = load(path, options)
    if isinstance(experiment, FewShotExperiment):
        raise UserError(f"{path}: {experiment.env.kind} is few-shot learning, nothing is played")
    return experiment


def experiment_of(values: Mapping[str, Any], *, source: str) -> Experiment | FewShotExperiment:
    """An experiment from plain values.

    Args:
        source: names where they come from in messages.

    Raises:
        UserError: a key or a value is wrong; names it.
    """
    env = _entry_point(values, "env", [field.envs for field in FIELDS], source=source)
    field = next(field for field in FIELDS if field.envs == env.group)
    agent = _entry_point(values, "agent", [field.agents], source=source)
    experiment: Any = field.experiment
    return validate(experiment[_loaded(env), _loaded(agent)], values, source=source)


def kinds(group: str) -> dict[str, type[Config]]:
    """The configs of a group of entry points by their kind."""
    return {entry_point.name: _loaded(entry_point) for entry_point in entry_points(group=group)}


def distribution_named(name: str) -> TaskDistribution:
    """A benchmark, by its name alone.

    Raises:
        UserError: no kind of environment has one of this name.
    """
    by_name = {each: kind for kind in kinds("metarl.envs").values() for each in kind.benchmarks}
    if name not in by_name:
        raise UserError(
            f"unknown benchmark {printable(repr(name))}.{nearest(name, by_name)} Give the name of "
            "one, or a config file FILE.yaml whose env is taken"
        )
    return by_name[name](**{"benchmark": name}).build()


def build_agent(experiment: Experiment, env: TaskVectorEnv) -> Agent[Any]:
    """The experiment's agent, untrained."""
    return experiment.agent.build(
        env.single_observation_space,
        env.single_action_space,
        seed=derive_seed(experiment.seed, "weights"),
        device=choose_device(experiment.device),
    )


def build_learner(experiment: FewShotExperiment, shape: FewShotShape) -> FewShotLearner:
    """The experiment's few-shot learner, untrained."""
    return experiment.agent.build(
        shape,
        seed=derive_seed(experiment.seed, "weights"),
        device=choose_device(experiment.device),
    )


def _entry_point(
    values: Mapping[str, Any], section: str, groups: Sequence[str], *, source: str
) -> EntryPoint:
    """What a section's `kind` names."""
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
    known = {each.name: each for group in groups for each in entry_points(group=group)}
    if not known:
        raise UserError("metarl is not installed here: run pip install -e . in its folder")
    kind = content["kind"]
    if not isinstance(kind, str) or kind not in known:
        raise UserError(
            f"{where} should be one of {', '.join(known)}, but is {printable(repr(kind))}."
            f"{nearest(str(kind), known)}"
        )
    return known[kind]


def _loaded(entry_point: EntryPoint) -> type[Config]:
    try:
        return entry_point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"cannot import {entry_point.value} for kind {entry_point.name!r}: {printable(error)}"
            f"{_hidden_by(entry_point.module.partition('.')[0])}"
        ) from error


def _hidden_by(package: str) -> str:
    """Where another package of this name lies, if that is what Python finds."""
    ours, found = Path(__file__).parents[2] / package, find_spec(package)
    places = list(found.submodule_search_locations or [found.origin]) if found else []
    if not ours.is_dir() or not places or Path(str(places[0])).resolve() == ours.resolve():
        return ""
    return f"; {places[0]} hides the package of that name in {ours.parent}: run in another folder"
