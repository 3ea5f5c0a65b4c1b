"""Declared tasks as a task distribution, and the environment that plays them in slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from envs.engine.batch import Batch, SharedModel
from envs.engine.env import EngineEnv
from envs.metaworld.native import ACTION_SIZE, OUTCOME_NAMES, compiled_act
from envs.metaworld.official import ACTION_SPACE, observation_space
from envs.metaworld.tasks.interface import OBS_SIZE, OUTCOME_SIZE
from envs.native_task.declaration import read_declaration
from envs.native_task.starts import Starts
from envs.worker.tasks import GymnasiumTask
from metarl.config import Config, Few, Size
from metarl.rollout.scene import Scene
from metarl.system.user_module import UserModule


class NativeTaskConfig(Config):
    """A Meta-World-like task of your own on the native engine, from a Python module."""

    kind: Literal["native_task"] = "native_task"
    module: str
    """A .py file, or a name that can be imported: task, train_tasks, test_tasks, horizon."""
    horizon: Size | None = None
    """Steps of an episode, in place of what the module says."""
    num_threads: Few | None = None
    """Threads of the engine; one per processor where not given."""

    @property
    def code(self) -> str:
        """The code that `build` executes: a file with its whole path, or the name of a module."""
        return UserModule(self.module).code

    def build(self) -> NativeTasks:
        """The distribution.

        Raises:
            UserError: the module cannot be used; says why.
        """
        module = UserModule(self.module)
        return NativeTasks(module, horizon=self.horizon, num_threads=self.num_threads)


class NativeTasks:
    """The task distribution that a module declares.

    Args:
        module: the module, which is executed.
        horizon: steps of an episode; None for what the module says.
        num_threads: threads of the engine; None for one per processor.

    Raises:
        UserError: the module cannot be used; says why.
    """

    def __init__(
        self, module: UserModule, *, horizon: int | None = None, num_threads: int | None = None
    ) -> None:
        declared = read_declaration(module, horizon)
        self.name = declared.name
        self.horizon = declared.horizon
        self.train = declared.train_tasks
        self.test = declared.test_tasks
        self.module_hash = module.content_hash
        """SHA-256 of the module's file."""
        self._num_threads = num_threads
        self._starts = Starts(declared.task, module)
        self._starts.snapshot(self.train[0])  # so that mistakes show before training starts

    def make_env(self, num_slots: int, *, render_mode: str | None = None) -> NativeTaskEnv:
        """Slots that play training tasks until `set_tasks` says otherwise.

        Raises:
            UserError: an unknown render mode, or a task that cannot be placed.
        """
        return NativeTaskEnv(
            self.train.sample(num_slots, np.random.default_rng(0)),
            starts=self._starts,
            horizon=self.horizon,
            num_threads=self._num_threads,
            render_mode=render_mode,
        )


class NativeTaskEnv(EngineEnv[GymnasiumTask]):
    """A vector environment with one declared task in each slot.

    Observations, actions and `info` are those of Meta-World's native engine, so that an agent of
    one can be adapted to the other. Nothing is random once tasks are chosen.

    Args:
        tasks: the task of each slot.
        starts: the scene that they share.
        horizon: steps in an episode.
        num_threads: None for one per processor that this process may use.
        render_mode: `rgb_array` for `render`.

    Raises:
        ValueError: no task, or a number out of range.
        UserError: an unknown render mode.
    """

    def __init__(
        self,
        tasks: Sequence[GymnasiumTask],
        *,
        starts: Starts,
        horizon: int,
        num_threads: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        batch = Batch(
            num_slots=len(tasks),
            action_size=ACTION_SIZE,
            obs_size=OBS_SIZE,
            outcome_size=OUTCOME_SIZE,
            readings_size=starts.scene.num_readings,
            num_substeps=starts.declared.frame_skip,
            finish="forward",
            horizon=horizon,
            num_threads=num_threads,
        )
        super().__init__(
            tasks,
            batch=batch,
            outcome=OUTCOME_NAMES,
            horizon=horizon,
            observation_space=observation_space(),
            action_space=ACTION_SPACE,
            dt=starts.dt,
            render_mode=render_mode,
        )
        self._starts = starts

    def scene(self, task: GymnasiumTask) -> Scene:
        """The scene of a task, with what `place` moves where the task has it."""
        edits = self._starts.snapshot(task).edits
        return Scene(
            model=self._starts.scene.edited_model(edits),
            camera=self._starts.declared.camera,
            dt=self._starts.dt,
        )

    def _shared_model(self, task: GymnasiumTask) -> SharedModel:
        del task
        return self._starts.scene

    def _place(self, slots: Sequence[int], tasks: Sequence[GymnasiumTask]) -> None:
        for slot, task in zip(slots, tasks, strict=True):
            snapshot = self._starts.snapshot(task)
            self._batch.place(
                slot, self._starts.scene, snapshot, compiled_act(), self._starts.observe
            )
