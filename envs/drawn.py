"""Slots that render pictures of their current state, for Gymnasium's and other recorders."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from jaxtyping import Float64, UInt8

from envs.engine import batch
from metarl.rollout.scene import EditedScene, Scene
from metarl.rollout.slots import SlotEnv
from metarl.tasks import Task
from metarl.visual.rendering.renderer import OffscreenRenderer

T = TypeVar("T", bound=Task)


class DrawnEnv(SlotEnv[T]):
    """A vector environment that renders its slots if it is made with a `render_mode`.

    Each scene is drawn by its own worker processes, which start with its first picture. They favour
    speed over quality, because recorders ask for a picture of every slot at every step.
    """

    def __init__(
        self,
        tasks: Sequence[T],
        *,
        horizon: int,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        dt: float,
        random: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=observation_space,
            action_space=action_space,
            random=random,
            render_mode=render_mode,
            dt=dt,
        )
        self._renderers: dict[batch.SharedModel, tuple[OffscreenRenderer, EditedScene]] = {}

    @abstractmethod
    def scene(self, task: T) -> Scene:
        """The scene that a task is played in."""

    @abstractmethod
    def _shared_model(self, task: T) -> batch.SharedModel:
        """The model that a task shares with others, before the task's edits."""

    @abstractmethod
    def _drawn(self, slot: int) -> Float64[np.ndarray, " R"]:
        """The slot's current drawable state, followed by the edited arrays of its model (R,)."""

    def render(self) -> tuple[UInt8[np.ndarray, "H W 3"], ...]:
        """A picture of each slot's current state; after the end of an episode, of the next start.

        Raises:
            ValueError: the environment was made without `render_mode`.
            ResetNeeded: before the first `reset`.
            UserError: this machine has no working renderer.
        """
        if self.render_mode is None:
            return super().render()
        self._check_playing()
        slots_of: dict[batch.SharedModel, list[int]] = defaultdict(list)
        for slot, task in enumerate(self.tasks):
            slots_of[self._shared_model(task)].append(slot)
        pictures: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
        for engine_scene, slots in slots_of.items():
            if engine_scene not in self._renderers:
                own = self.scene(self.tasks[slots[0]])
                shared = EditedScene(
                    model=own.model, camera=own.camera, dt=own.dt, edited=engine_scene.edited
                )
                self._renderers[engine_scene] = OffscreenRenderer(draft=True), shared
            renderer, scene = self._renderers[engine_scene]
            states = np.stack([self._drawn(slot) for slot in slots])
            pictures |= zip(slots, renderer.frames(scene, states), strict=True)
        return tuple(pictures[slot] for slot in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the rendering processes."""
        del kwargs
        for renderer, _ in self._renderers.values():
            renderer.close()
