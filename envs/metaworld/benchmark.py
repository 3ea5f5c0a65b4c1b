"""The official Meta-World benchmarks as disjoint, hashed sets of training and test tasks.

Yu et al. 2019, arXiv:1910.10897; benchmark classes of the `metaworld` package. Goals are those that
the official classes draw, in the official order.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import metaworld
import numpy as np
from jaxtyping import Float
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task as OfficialTask
from pydantic import Field

from envs.metaworld.reference import ReferenceEnv
from envs.slots import SlotEnv
from metarl.config import Config
from metarl.errors import UserError, nearest
from metarl.tasks import TaskSet

CLASSES = tuple(ALL_V3_ENVIRONMENTS)
"""The names of the 50 task classes."""
OFFICIAL_NUM_GOALS = 50
"""Goals that an official benchmark draws for each class."""
HORIZON = 500
"""Steps of an official episode."""
BENCHMARKS = ("ML10", "ML25", "ML45", "custom", *(f"ML1-{name}" for name in CLASSES))


@dataclass(frozen=True, eq=False)
class MetaWorldTask:
    """A Meta-World environment with one goal."""

    env_name: str
    """The class, e.g. `reach-v3`."""
    rand_vec: Float[np.ndarray, "P"]
    """The official goal vector: initial object position and target, as the class defines them."""

    @property
    def parameters(self) -> Float[np.ndarray, "P"]:
        """The goal vector."""
        return self.rand_vec


class MetaWorldConfig(Config):
    """A Meta-World benchmark."""

    kind: Literal["metaworld"] = "metaworld"
    benchmark: str = "ML1-reach-v3"
    """ML1-<class>, ML10, ML25, ML45, or `custom` with `train_classes` and `test_classes`."""
    train_classes: tuple[str, ...] = ()
    """Classes to learn on, for `custom` only."""
    test_classes: tuple[str, ...] = ()
    """Classes held out, for `custom` only."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the goals. Apart from the run's seed, so that runs share their held-out tasks."""
    reward_version: Literal["v1", "v2"] = "v2"
    """Version of the official reward functions."""
    num_goals: Annotated[int, Field(ge=1, le=OFFICIAL_NUM_GOALS)] = OFFICIAL_NUM_GOALS
    """Goals per class: the first of the official ones."""
    horizon: Annotated[int, Field(ge=1, le=HORIZON)] = HORIZON
    """Steps of an episode; officially 500."""

    def build(self) -> MetaWorld:
        """The distribution.

        Raises:
            UserError: unknown benchmark or class, or lists that overlap.
        """
        return MetaWorld(**self.model_dump(exclude={"kind"}))


class MetaWorld:
    """A Meta-World benchmark as a task distribution.

    Args:
        benchmark: `ML1-<class>`, `ML10`, `ML25`, `ML45`, or `custom`.
        train_classes, test_classes: the classes of a custom benchmark.
        seed: draws the goals; `metaworld.ML10(seed=…)` draws the same.
        reward_version: of the official reward functions.
        num_goals: per class, at most 50.
        horizon: steps of an episode, at most 500.

    Raises:
        UserError: unknown benchmark or class, lists that overlap, a number out of range.
    """

    def __init__(
        self,
        benchmark: str,
        *,
        train_classes: Sequence[str] = (),
        test_classes: Sequence[str] = (),
        seed: int = 0,
        reward_version: Literal["v1", "v2"] = "v2",
        num_goals: int = OFFICIAL_NUM_GOALS,
        horizon: int = HORIZON,
    ) -> None:
        if not 1 <= num_goals <= OFFICIAL_NUM_GOALS:
            raise UserError(f"num_goals must be 1 to {OFFICIAL_NUM_GOALS}, not {num_goals}")
        if not 1 <= horizon <= HORIZON:
            raise UserError(f"horizon must be 1 to {HORIZON}, not {horizon}")
        _check_benchmark(benchmark, tuple(train_classes), tuple(test_classes))
        train, test = _official_goals(benchmark, tuple(train_classes), tuple(test_classes), seed)
        self.name = f"Meta-World {benchmark}"
        self.horizon = horizon
        self.reward_version = reward_version
        self.train = TaskSet(_first_goals(train, num_goals))
        self.test = TaskSet(_first_goals(test, num_goals))

    def make_env(
        self, num_slots: int, *, engine: Literal["reference"] = "reference"
    ) -> SlotEnv[MetaWorldTask]:
        """Slots that play training tasks until `set_tasks` says otherwise.

        Args:
            engine: `reference` steps the official environment objects one after the other.
        """
        if engine != "reference":
            raise UserError(f"unknown engine {engine!r}; use 'reference'")
        tasks = self.train.sample(num_slots, np.random.default_rng(0))
        return ReferenceEnv(tasks, reward_version=self.reward_version, horizon=self.horizon)


def _check_benchmark(benchmark: str, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    if benchmark not in BENCHMARKS:
        raise UserError(
            f"unknown benchmark {benchmark!r}.{nearest(benchmark, BENCHMARKS)} "
            "Known: ML1-<class>, ML10, ML25, ML45, custom"
        )
    if benchmark != "custom":
        if train or test:
            raise UserError(f"{benchmark} has its own classes; lists of classes go with 'custom'")
        return
    for name in (*train, *test):
        if name not in CLASSES:
            raise UserError(f"unknown Meta-World class {name!r}.{nearest(name, CLASSES)}")
    for split, names in (("train", train), ("test", test)):
        if not names:
            raise UserError(f"a custom benchmark needs {split}_classes; name at least one")
        if len(set(names)) < len(names):
            raise UserError(f"{split}_classes names a class twice; name each once")
    if both := sorted(set(train) & set(test)):
        raise UserError(
            f"{', '.join(both)} is in train_classes and in test_classes; keep it in one of them"
        )


Goals = tuple[MetaWorldTask, ...]


@functools.lru_cache
def _official_goals(
    benchmark: str, train: tuple[str, ...], test: tuple[str, ...], seed: int
) -> tuple[Goals, Goals]:
    """All training and test tasks of the official benchmark object, in its order."""
    if benchmark == "custom":
        official = metaworld.CustomML(list(train), list(test), seed=seed)
    elif benchmark.startswith("ML1-"):
        official = metaworld.ML1(benchmark.removeprefix("ML1-"), seed=seed)
    else:
        official = getattr(metaworld, benchmark)(seed=seed)
    return _decode(official.train_tasks), _decode(official.test_tasks)


def _decode(tasks: list[OfficialTask]) -> Goals:
    """Official tasks carry their goal pickled; it was pickled a moment ago in this process."""
    return tuple(MetaWorldTask(t.env_name, pickle.loads(t.data)["rand_vec"]) for t in tasks)


def _first_goals(tasks: Goals, num_goals: int) -> list[MetaWorldTask]:
    """The first goals of each class; the official order has the goals of a class side by side."""
    return [task for i, task in enumerate(tasks) if i % OFFICIAL_NUM_GOALS < num_goals]
