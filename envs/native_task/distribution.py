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
    """Your own Meta-World-like tasks on the native engine, from a Python module."""

    kind: Literal["native_task"] = "native_task"
    module: str
    """Python file, or importable name, with task, train_tasks, test_tasks and horizon."""
    horizon: Size | None = None
    """Steps per episode; overrides the module's."""
    num_threads: Few | None = None
    """Threads of the engine; by default one per processor."""

    @property
    def code(self) -> str:
        """Name of the code that `build` executes: a file with its full path, or a module."""
        return UserModule(self.module).code

    def build(self) -> NativeTasks:
        """The distribution.

        Raises:
            UserError: the module cannot be used; the message gives the reason.
        """
        module = UserModule(self.module)
        return NativeTasks(module, horizon=self.horizon, num_threads=self.num_threads)


class NativeTasks:
    """The task distribution that a module declares.

    Args:
        module: the module, which is executed.
        horizon: steps per episode; None for the module's.
        num_threads: threads of the engine; None for one per processor.

    Raises:
        UserError: the module cannot be used; the message gives the reason.
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
        self._starts.snapshot(self.train[0])  # reports mistakes before training starts

    def make_env(self, num_slots: int, *, render_mode: str | None = None) -> NativeTaskEnv:
        """Slots that play training tasks until `set_tasks` is called.

        Raises:
            UserError: the render mode is unknown, or a task cannot be placed.
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

    Observations, actions and `info` are those of Meta-World's native engine, so an agent trained on
    one can adapt to the other. Given the tasks, everything is deterministic.

    Args:
        tasks: the task of each slot.
        starts: their common scene and its starts.
        horizon: steps per episode.
        num_threads: None for one per processor that this process may use.
        render_mode: `rgb_array` to enable `render`.

    Raises:
        ValueError: there is no task, or a number is out of range.
        UserError: the render mode is unknown.
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
        """The scene of a task, after `place`."""
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
