"""Official Meta-World benchmarks as disjoint, hashed sets of training and test tasks.

Yu et al. 2019, arXiv:1910.10897; benchmark classes of the `metaworld` package. The goals are those
of the official classes, in the official order.
"""

# pyright: reportAttributeAccessIssue=false
# Type checkers cannot see into mujoco's C code.

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, ClassVar, Literal
from unittest.mock import patch

import metaworld
import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from pydantic import Field

from envs.metaworld.native import NativeEnv
from envs.metaworld.official import CLASSES, HORIZON, MetaWorldTask, decode
from envs.metaworld.reference import ReferenceEnv
from metarl.config import Config, Few, Size
from metarl.errors import UserError, nearest
from metarl.evaluation.record import METAWORLD
from metarl.rollout.slots import SlotEnv, refuse_to_draw
from metarl.system.cache import cache_folder, read_arrays, write_arrays
from metarl.system.hardware import check_installed, default_device
from metarl.tasks import TaskSet

OFFICIAL_NUM_GOALS = 50
"""Number of goals that an official benchmark draws for each class."""
BENCHMARKS = ("ML10", "ML25", "ML45", "custom", *(f"ML1-{name}" for name in CLASSES))
Engine = Literal["native", "reference", "warp"]


class MetaWorldConfig(Config):
    """A Meta-World benchmark."""

    benchmarks: ClassVar = tuple(name for name in BENCHMARKS if name != "custom")
    choices: ClassVar = {
        "benchmark=ML1-<class>": f"50 goals of one of {len(CLASSES)} classes, 50 others held out",
        "benchmark=ML10": "10 classes, 5 others held out",
        "benchmark=ML25": "25 classes, 5 held out (one of them by its goals alone)",
        "benchmark=ML45": "45 classes, 5 others held out",
        "benchmark=custom": "the classes in train_classes and test_classes",
    }

    kind: Literal["metaworld"] = "metaworld"
    benchmark: str = "ML1-reach-v3"
    """ML1-<class>, ML10, ML25, ML45, or `custom` with `train_classes` and `test_classes`."""
    train_classes: tuple[str, ...] = ()
    """Training classes, for `custom` only."""
    test_classes: tuple[str, ...] = ()
    """Held-out classes, for `custom` only."""
    fold: Size | None = None
    """Cross-validation: number of the fold of training classes, from 1, that is held out in place
    of the test classes. Nobody plays those then."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Folds that the training classes are divided into, in turn; for `fold` only."""
    seed: Annotated[int, Field(ge=0, lt=2**32 - 1)] = 0
    """Seed of the goals, separate from the run's seed so that runs share their held-out tasks.
    ML1's held-out goals are the training goals of the next seed: to try settings, add 2."""
    reward_version: Literal["v1", "v2"] = "v2"
    """Version of the official reward functions; v1 needs the reference engine."""
    engine: Engine = "native"
    """Physics engine: `native` calls MuJoCo from compiled threads, `reference` steps the official
    objects, with bit-equal physics; `warp` is MuJoCo Warp, for thousands of slots on a GPU."""
    num_threads: Few | None = None
    """Threads of the native engine; by default one per processor."""
    num_goals: Annotated[int, Field(ge=1, le=OFFICIAL_NUM_GOALS)] = OFFICIAL_NUM_GOALS
    """Goals per class, the first of the official ones."""
    horizon: Annotated[int, Field(ge=1, le=HORIZON)] = HORIZON
    """Steps per episode; officially 500."""

    def build(self) -> MetaWorld:
        """The distribution.

        Raises:
            UserError: the benchmark or a class is unknown, the lists of classes overlap, or there
                is no such fold.
        """
        return MetaWorld(**self.model_dump(exclude={"kind"}))


class MetaWorld:
    """A Meta-World benchmark as a task distribution.

    `protocol` holds the evaluation settings of Meta-World's documentation.

    Args:
        benchmark: `ML1-<class>`, `ML10`, `ML25`, `ML45`, or `custom`.
        train_classes, test_classes: classes of a custom benchmark.
        fold: the fold of training classes that is held out in place of the test classes; 1 is the
            first. None for the benchmark as it is.
        folds: number of folds; class i of the official order is in fold 1 + i % folds.
        seed: seed of the goals, which equal those of `metaworld.ML10(seed=…)`.
        reward_version: version of the official rewards.
        num_goals: goals per class, at most 50.
        horizon: steps per episode, at most 500.
        engine: default engine of `make_env`.
        num_threads: threads of the native engine; None for one per processor.

    Raises:
        UserError: the benchmark or a class is unknown, the lists of classes overlap, there is no
            such fold, or a number is out of range.
    """

    protocol = METAWORLD

    def __init__(
        self,
        benchmark: str,
        *,
        train_classes: Sequence[str] = (),
        test_classes: Sequence[str] = (),
        fold: int | None = None,
        folds: int = 5,
        seed: int = 0,
        reward_version: Literal["v1", "v2"] = "v2",
        num_goals: int = OFFICIAL_NUM_GOALS,
        horizon: int = HORIZON,
        engine: Engine = "native",
        num_threads: int | None = None,
    ) -> None:
        if not 1 <= num_goals <= OFFICIAL_NUM_GOALS:
            raise UserError(f"num_goals must be 1 to {OFFICIAL_NUM_GOALS}, not {num_goals}")
        if not 1 <= horizon <= HORIZON:
            raise UserError(f"horizon must be 1 to {HORIZON}, not {horizon}")
        _check_benchmark(benchmark, tuple(train_classes), tuple(test_classes))
        train, test = _official_goals(benchmark, tuple(train_classes), tuple(test_classes), seed)
        self.name = f"Meta-World {benchmark}"
        if fold is not None:
            train, test = _fold(train, fold, folds, benchmark)
            self.name += f", fold {fold} of {folds}"
        self.horizon = horizon
        self.reward_version = reward_version
        self.engine: Engine = engine
        self.num_threads = num_threads
        self.train = TaskSet(_first_goals(train, num_goals))
        self.test = TaskSet(_first_goals(test, num_goals))

    def make_env(
        self,
        num_slots: int,
        *,
        engine: Engine | None = None,
        num_threads: int | None = None,
        render_mode: str | None = None,
    ) -> SlotEnv[MetaWorldTask]:
        """Slots that play training tasks until `set_tasks` is called.

        Args:
            engine: `native`, `reference` or `warp`; None for the benchmark's.
            num_threads: threads of the native engine; None for the benchmark's.
            render_mode: `rgb_array` to enable `render`, which the warp engine lacks.

        Raises:
            UserError: the engine or the render mode is unknown, the engine lacks these rewards or
                cannot render, or its packages are missing.
        """
        tasks = self.train.sample(num_slots, np.random.default_rng(0))
        engine = engine or self.engine
        if engine == "reference":
            return ReferenceEnv(
                tasks,
                reward_version=self.reward_version,
                horizon=self.horizon,
                render_mode=render_mode,
            )
        if engine not in ("native", "warp"):
            raise UserError(f"unknown engine {engine!r}; use 'native', 'reference' or 'warp'")
        if self.reward_version != "v2":
            raise UserError(
                f"the {engine} engine has the v2 rewards only; for {self.reward_version} use "
                "engine 'reference'"
            )
        if engine == "warp":
            refuse_to_draw(render_mode)
            return _make_warp_env(tasks, horizon=self.horizon)
        return NativeEnv(
            tasks,
            horizon=self.horizon,
            num_threads=num_threads or self.num_threads,
            render_mode=render_mode,
        )


def _make_warp_env(tasks: Sequence[MetaWorldTask], *, horizon: int) -> SlotEnv[MetaWorldTask]:
    """A Warp environment; imported here because everything else works without Warp."""
    device = default_device()
    check_installed(device)
    from envs.metaworld.warp import WarpMetaWorldEnv

    return WarpMetaWorldEnv(tasks, horizon=horizon, device=device)


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
    """Training and test tasks of the official benchmark object, in its order.

    They are cached on disk, because the official object resets an environment for every goal.
    """
    request = (version("metaworld"), version("numpy"), benchmark, train, test, seed)
    path = cache_folder() / "goals" / f"{hashlib.sha256(repr(request).encode()).hexdigest()}.npz"
    kept = read_arrays(path)
    if kept is None:
        splits = _draw_goals(benchmark, train, test, seed)
        kept = {}
        for split, tasks in zip(("train", "test"), splits, strict=True):
            kept[f"{split}_names"] = np.array([task.env_name for task in tasks])
            kept[f"{split}_sizes"] = np.array([len(task.rand_vec) for task in tasks])
            kept[f"{split}_numbers"] = np.concatenate([task.rand_vec for task in tasks])
        write_arrays(path, kept)
    return _read_goals(kept, "train"), _read_goals(kept, "test")


def _draw_goals(
    benchmark: str, train: tuple[str, ...], test: tuple[str, ...], seed: int
) -> tuple[Goals, Goals]:
    with patch.object(SawyerXYZEnv, "do_simulation", _pose):
        if benchmark == "custom":
            official = metaworld.CustomML(list(train), list(test), seed=seed)
        elif benchmark.startswith("ML1-"):
            official = metaworld.ML1(benchmark.removeprefix("ML1-"), seed=seed)
        else:
            official = getattr(metaworld, benchmark)(seed=seed)
    return tuple(map(decode, official.train_tasks)), tuple(map(decode, official.test_tasks))


def _pose(env: SawyerXYZEnv, ctrl: object, n_frames: int | None = None) -> None:
    """Replacement of `SawyerXYZEnv.do_simulation` without physics, on which goals do not depend.

    It is four times faster; a test also draws the goals of all classes with physics.
    """
    del ctrl, n_frames
    mujoco.mj_kinematics(env.model, env.data)


def _read_goals(kept: dict[str, np.ndarray], split: str) -> Goals:
    ends = np.cumsum(kept[f"{split}_sizes"])[:-1]
    vectors = np.split(kept[f"{split}_numbers"], ends)
    names = kept[f"{split}_names"].tolist()
    return tuple(MetaWorldTask(name, vec) for name, vec in zip(names, vectors, strict=True))


def _fold(goals: Goals, fold: int, folds: int, benchmark: str) -> tuple[Goals, Goals]:
    """Training goals of the classes outside a fold, and those of the classes inside."""
    classes = list(dict.fromkeys(task.env_name for task in goals))
    if not 2 <= folds <= len(classes):
        raise UserError(
            f"{benchmark} has {len(classes)} training classes; folds cannot be {folds}"
            if len(classes) > 1
            else f"{benchmark} has one training class, which cannot be divided into folds"
        )
    if not 1 <= fold <= folds:
        raise UserError(f"fold must be 1 to {folds}, not {fold}")
    inside = set(classes[fold - 1 :: folds])
    return (
        tuple(task for task in goals if task.env_name not in inside),
        tuple(task for task in goals if task.env_name in inside),
    )


def _first_goals(tasks: Goals, num_goals: int) -> list[MetaWorldTask]:
    """The first goals of each class; in the official order a class's goals are consecutive."""
    return [task for i, task in enumerate(tasks) if i % OFFICIAL_NUM_GOALS < num_goals]
