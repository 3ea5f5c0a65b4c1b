"""Registration of the benchmarks with Gymnasium.

    gymnasium.make_vec("envs:metarl/ML10-train-v0", num_envs=20)
    gymnasium.make_vec("envs:metarl/ML1-test-v0", num_envs=8, env_name="reach-v3", horizon=150)
    gymnasium.make("envs:metarl/ML1-train-v0", env_name="reach-v3", render_mode="rgb_array")

"envs:" makes Gymnasium import this package, which registers the names; after `import envs` they are
known without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from gymnasium.envs.registration import register

if TYPE_CHECKING:  # these modules load torch; `import envs` should not
    from envs.single import SingleEnv
    from metarl.rollout.slots import SlotEnv

BENCHMARKS = ("ML1", "ML10", "ML25", "ML45")
SPLITS = ("train", "test")


def make_meta_world(
    *,
    num_envs: int,
    benchmark: str,
    split: Literal["train", "test"],
    env_name: str | None = None,
    seed: int = 0,
    engine: Literal["native", "reference", "warp"] = "native",
    num_threads: int | None = None,
    horizon: int = 500,
    num_goals: int = 50,
    reward_version: Literal["v1", "v2"] = "v2",
    render_mode: str | None = None,
) -> SlotEnv:
    """A vector environment whose slots play tasks of one split of a Meta-World benchmark.

    Tasks are drawn once; the numbers of tasks of two classes differ by one at most. Each slot keeps
    its task from episode to episode. To play others, sample them from
    `envs.metaworld.MetaWorld(...).train` or `.test` and pass them to `set_tasks` of the unwrapped
    environment; they take effect at the next `reset`.

    Args:
        num_envs: number of slots, at least 1.
        benchmark, split: the benchmark and split in the registered name.
        env_name: the class, such as `reach-v3`; required for ML1, refused for other benchmarks.
        seed: seed of the benchmark's goals, as in the official package, and of the slots' tasks.
        engine: `native` is the fast one, `reference` steps the official objects, `warp` takes and
            returns torch tensors on a GPU.
        num_threads: threads of the native engine; None for one per processor.
        horizon: steps per episode, at most 500.
        num_goals: goals per class, at most 50.
        reward_version: version of the official rewards; `v1` needs the reference engine.
        render_mode: `rgb_array` for pictures; the warp engine has none.

    Raises:
        UserError: unknown class, engine or render mode, or a number out of range.
        ValueError: no slot, or no thread.
    """
    # Imported here so that `import envs` loads neither Meta-World nor MuJoCo.
    from envs.metaworld import MetaWorld
    from metarl.errors import UserError

    if (benchmark == "ML1") != (env_name is not None):
        raise UserError(
            "ML1 needs the name of its class: env_name='reach-v3'"
            if env_name is None
            else f"{benchmark} has its own classes; env_name goes with ML1"
        )
    built = MetaWorld(
        benchmark if env_name is None else f"ML1-{env_name}",
        seed=seed,
        engine=engine,
        num_threads=num_threads,
        horizon=horizon,
        num_goals=num_goals,
        reward_version=reward_version,
    )
    tasks = built.train if split == "train" else built.test
    env = built.make_env(num_envs, render_mode=render_mode)
    env.set_tasks(tasks.sample(num_envs, np.random.default_rng(seed)))
    return env


def make_single(
    *,
    benchmark: str,
    split: Literal["train", "test"],
    env_name: str | None = None,
    seed: int = 0,
    engine: Literal["native", "reference", "warp"] = "native",
    horizon: int = 500,
    num_goals: int = 50,
    reward_version: Literal["v1", "v2"] = "v2",
    render_mode: str | None = None,
) -> SingleEnv:
    """A `gymnasium.Env` that plays one task of a split, drawn with the seed.

    It is the slot of `make_meta_world` with `num_envs=1`. To step several environments,
    `gymnasium.make_vec` is many times faster.

    Raises:
        UserError: as in `make_meta_world`; or the warp engine, which is for many slots.
    """
    from envs.single import SingleEnv
    from metarl.errors import UserError

    if engine == "warp":
        raise UserError("the warp engine is for many slots: use gymnasium.make_vec")
    slots = make_meta_world(
        num_envs=1,
        benchmark=benchmark,
        split=split,
        env_name=env_name,
        seed=seed,
        engine=engine,
        horizon=horizon,
        num_goals=num_goals,
        reward_version=reward_version,
        render_mode=render_mode,
    )
    return SingleEnv(slots)


for _benchmark in BENCHMARKS:
    for _split in SPLITS:
        # Benchmark and split are stored as values. A closure made in this loop would look them up
        # when called, and every name would get the last benchmark and split.
        register(
            id=f"metarl/{_benchmark}-{_split}-v0",
            entry_point="envs.registration:make_single",
            vector_entry_point="envs.registration:make_meta_world",
            kwargs={"benchmark": _benchmark, "split": _split},
        )
