"""Slots that can be drawn: pictures of what they show now, for Gymnasium's and other recorders."""

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
    """A vector environment of slots that can be drawn, where it is made with a `render_mode`.

    Each scene has worker processes of its own to draw it, which start with its first picture. They
    draw fast rather than finely: a picture of every slot is asked for in every step.
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
        self._renderers: dict[batch.Scene, tuple[OffscreenRenderer, EditedScene]] = {}

    @abstractmethod
    def scene(self, task: T) -> Scene:
        """What a task is played in."""

    @abstractmethod
    def _engine_scene(self, task: T) -> batch.Scene:
        """The scene that a task shares with others, but for what is edited of it."""

    @abstractmethod
    def _drawn(self, slot: int) -> Float64[np.ndarray, " R"]:
        """What can be drawn of a slot's present, then what is edited of its scene."""

    def render(self) -> tuple[UInt8[np.ndarray, "H W 3"], ...]:
        """A picture of each slot as it is now: of a new episode where one has just ended.

        Raises:
            ValueError: the environment was made without `render_mode`.
            ResetNeeded: before the first `reset`.
            UserError: nothing on this machine can draw.
        """
        if self.render_mode is None:
            return super().render()
        self._check_playing()
        slots_of: dict[batch.Scene, list[int]] = defaultdict(list)
        for slot, task in enumerate(self.tasks):
            slots_of[self._engine_scene(task)].append(slot)
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
        """Ends the processes that draw."""
        del kwargs
        for renderer, _ in self._renderers.values():
            renderer.close()
