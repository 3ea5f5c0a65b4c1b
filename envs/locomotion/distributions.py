"""Locomotion variants as task distributions, with known bounds on their returns."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from envs.locomotion.native import LocomotionEnv
from envs.locomotion.variants import VARIANTS, LocomotionTask, Term
from metarl.config import Config, Few, Seed
from metarl.errors import UserError, nearest
from metarl.rollout.slots import SlotEnv, refuse_to_draw
from metarl.system.hardware import check_installed, default_device
from metarl.system.seeding import derive_seed
from metarl.tasks import TaskSet

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class LocomotionConfig(Config):
    """Locomotion of MuJoCo robots: HalfCheetah, Ant, Humanoid, Walker2d, Hopper, Swimmer."""

    choices: ClassVar = {
        f"variant={name}": f"{variant.wanted.summary}; {variant.horizon} steps, as {variant.source}"
        for name, variant in VARIANTS.items()
    }

    kind: Literal["locomotion"] = "locomotion"
    variant: str = "HalfCheetah-vel-maml"
    """Variant, named after its robot, the parameter that differs between tasks, and its source."""
    horizon: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Steps per episode; by default the variant's."""
    num_train_tasks: Count | None = None
    """Number of training tasks; by default the variant's."""
    num_test_tasks: Count | None = None
    """Number of held-out tasks; by default the variant's."""
    seed: Seed = 0
    """Seed of the tasks."""
    engine: Literal["native", "warp"] = "native"
    """Physics engine: `native` calls MuJoCo from compiled threads; `warp` is MuJoCo Warp, for
    thousands of slots on a GPU."""
    num_threads: Few | None = None
    """Threads of the native engine; by default one per processor."""

    def build(self) -> Locomotion:
        """The distribution.

        Raises:
            UserError: the variant is unknown, or its number of tasks is fixed to another one.
        """
        return Locomotion(self)


class Locomotion:
    """A distribution over locomotion tasks."""

    def __init__(self, config: LocomotionConfig) -> None:
        if config.variant not in VARIANTS:
            raise UserError(
                f"unknown locomotion variant {config.variant!r}."
                f"{nearest(config.variant, VARIANTS)} Known: {', '.join(VARIANTS)}"
            )
        self.name = config.variant
        self.variant = VARIANTS[config.variant]
        self.horizon = config.horizon or self.variant.horizon
        self.engine = config.engine
        self.num_threads = config.num_threads
        self.train = self._draw(config.num_train_tasks or self.variant.num_train, config.seed)
        # A separate stream, so that the number of training tasks does not change the held-out ones.
        test_seed = derive_seed(config.seed, "test")
        self.test = self._draw(config.num_test_tasks or self.variant.num_test, test_seed)

    def _draw(self, count: int, seed: int) -> TaskSet[LocomotionTask]:
        drawn = self.variant.wanted.draw(count, np.random.default_rng(seed))
        if len(drawn) != count:
            raise UserError(f"{self.name} has {len(drawn)} tasks; leave the number of tasks out")
        return TaskSet(LocomotionTask(self.name, parameters) for parameters in drawn)

    def make_env(
        self, num_slots: int, *, render_mode: str | None = None
    ) -> SlotEnv[LocomotionTask]:
        """Slots that play training tasks until `set_tasks` is called.

        Args:
            render_mode: `rgb_array` to enable `render`; native engine only.

        Raises:
            UserError: the engine's packages are missing, or it cannot render.
        """
        tasks = self.train.sample(num_slots, np.random.default_rng(0))
        if self.engine == "warp":
            refuse_to_draw(render_mode)
            device = default_device()
            check_installed(device)
            # Imported here because everything else works without Warp.
            from envs.locomotion.warp import WarpLocomotionEnv

            return WarpLocomotionEnv(self.name, tasks, horizon=self.horizon, device=device)
        return LocomotionEnv(
            self.name,
            tasks,
            horizon=self.horizon,
            num_threads=self.num_threads,
            render_mode=render_mode,
        )

    def oracle(self) -> float | None:
        """Upper bound on the return of any policy on any task; None if no bound is known.

        For speeds and places it is the return of meeting the target at every step, at no cost.
        """
        if self.variant.wanted.term == Term.RUN:
            return None
        return self.horizon * self.variant.reward.alive

    def best_without_adapting(self) -> float | None:
        """Upper bound on the mean return over held-out tasks of policies that cannot tell tasks
        apart because they remember neither rewards nor earlier episodes; None if unknown."""
        tasks = np.stack([task.parameters for task in self.test])
        term = self.variant.wanted.best_blind_term(tasks)
        if term is None:
            return None
        reward = self.variant.reward
        return self.horizon * (reward.weight * term + reward.alive)
