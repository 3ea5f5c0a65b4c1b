"""Locomotion variants as task distributions, with what is known of their best returns."""

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
    """MuJoCo robots that run: HalfCheetah, Ant, Humanoid, Walker2d, Hopper, Swimmer."""

    choices: ClassVar = {
        f"variant={name}": f"{variant.wanted.summary}; {variant.horizon} steps, as {variant.source}"
        for name, variant in VARIANTS.items()
    }

    kind: Literal["locomotion"] = "locomotion"
    variant: str = "HalfCheetah-vel-maml"
    """Robot, what its tasks differ in, and where the definition comes from."""
    horizon: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Steps of an episode; the variant's own where not given."""
    num_train_tasks: Count | None = None
    """Tasks to learn on; as many as the variant says where not given."""
    num_test_tasks: Count | None = None
    """Tasks held out; as many as the variant says where not given."""
    seed: Seed = 0
    """Draws the tasks."""
    engine: Literal["native", "warp"] = "native"
    """`native` calls MuJoCo from compiled threads; `warp` is MuJoCo Warp, for thousands of slots on
    a GPU."""
    num_threads: Few | None = None
    """Threads of the native engine; one per processor where not given."""

    def build(self) -> Locomotion:
        """The distribution.

        Raises:
            UserError: no such variant, or a number of tasks that it cannot have.
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
        # a stream of its own: how many tasks are learned on does not change what is held out
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
        """Slots that play training tasks until `set_tasks` says otherwise.

        Args:
            render_mode: `rgb_array` for `render`, which the native engine has.

        Raises:
            UserError: the engine lacks packages, or draws nothing.
        """
        tasks = self.train.sample(num_slots, np.random.default_rng(0))
        if self.engine == "warp":
            refuse_to_draw(render_mode)
            device = default_device()
            check_installed(device)
            # here, as all else does without Warp
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
        """A return that no policy exceeds on any task; None where no bound is known.

        Speeds and places can at best be as wanted, all the time and at no cost.
        """
        if self.variant.wanted.term == Term.RUN:
            return None
        return self.horizon * self.variant.reward.alive

    def best_without_adapting(self) -> float | None:
        """A mean return over the held-out tasks that no policy exceeds which cannot tell tasks
        apart, as it remembers neither rewards nor earlier episodes; None where none is known."""
        tasks = np.stack([task.parameters for task in self.test])
        term = self.variant.wanted.best_blind_term(tasks)
        if term is None:
            return None
        reward = self.variant.reward
        return self.horizon * (reward.weight * term + reward.alive)
