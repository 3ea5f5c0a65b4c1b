"""The official Meta-World benchmarks as disjoint, hashed sets of training and test tasks.

Yu et al. 2019, arXiv:1910.10897; benchmark classes of the `metaworld` package. Goals are those that
the official classes draw, in the official order.
"""

# pyright: reportAttributeAccessIssue=false
# Type checkers see nothing of mujoco's C code.

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
from metarl.config import Config, Few
from metarl.errors import UserError, nearest
from metarl.evaluation.record import METAWORLD
from metarl.rollout.slots import SlotEnv, refuse_to_draw
from metarl.system.cache import cache_folder, read_arrays, write_arrays
from metarl.system.hardware import check_installed, default_device
from metarl.tasks import TaskSet

OFFICIAL_NUM_GOALS = 50
"""Goals that an official benchmark draws for each class."""
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
    """Classes to learn on, for `custom` only."""
    test_classes: tuple[str, ...] = ()
    """Classes held out, for `custom` only."""
    seed: Annotated[int, Field(ge=0, lt=2**32 - 1)] = 0
    """Draws the goals. Apart from the run's seed, so that runs share their held-out tasks. ML1's
    held-out goals are the training goals of the next seed: to try settings, add 2."""
    reward_version: Literal["v1", "v2"] = "v2"
    """Version of the official reward functions; v1 is for the reference engine only."""
    engine: Engine = "native"
    """`native` calls MuJoCo from compiled threads, `reference` steps the official objects; the
    physics has the same bits. `warp` is MuJoCo Warp, for thousands of slots on a GPU."""
    num_threads: Few | None = None
    """Threads of the native engine; one per processor where not given."""
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

    `protocol` is how agents are evaluated on it by its own documentation.

    Args:
        benchmark: `ML1-<class>`, `ML10`, `ML25`, `ML45`, or `custom`.
        train_classes, test_classes: the classes of a custom benchmark.
        seed: draws the goals; `metaworld.ML10(seed=…)` draws the same.
        reward_version: of the official reward functions.
        num_goals: per class, at most 50.
        horizon: steps of an episode, at most 500.
        engine: what steps the environments; `make_env` can be given another one.
        num_threads: of the native engine; None for one per processor.

    Raises:
        UserError: unknown benchmark or class, lists that overlap, a number out of range.
    """

    protocol = METAWORLD

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
        """Slots that play training tasks until `set_tasks` says otherwise.

        Args:
            engine: `native`, `reference` or `warp`; as the benchmark was made where not given.
            num_threads: of the native engine; as the benchmark was made where not given.
            render_mode: `rgb_array` for `render`, which the warp engine does not have.

        Raises:
            UserError: an unknown engine, one that does not have these rewards or draws nothing, or
                one that lacks packages; an unknown render mode.
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
    """Imported here, as all else does without Warp."""
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
    """All training and test tasks of the official benchmark object, in its order.

    They are kept on disk, as the official object resets every environment for every goal.
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
    """`SawyerXYZEnv.do_simulation` where no time passes: goals do not depend on the physics.

    Four times faster; a test draws the goals of all classes with the physics too.
    """
    del ctrl, n_frames
    mujoco.mj_kinematics(env.model, env.data)


def _read_goals(kept: dict[str, np.ndarray], split: str) -> Goals:
    ends = np.cumsum(kept[f"{split}_sizes"])[:-1]
    vectors = np.split(kept[f"{split}_numbers"], ends)
    names = kept[f"{split}_names"].tolist()
    return tuple(MetaWorldTask(name, vec) for name, vec in zip(names, vectors, strict=True))


def _first_goals(tasks: Goals, num_goals: int) -> list[MetaWorldTask]:
    """The first goals of each class; the official order has the goals of a class side by side."""
    return [task for i, task in enumerate(tasks) if i % OFFICIAL_NUM_GOALS < num_goals]
