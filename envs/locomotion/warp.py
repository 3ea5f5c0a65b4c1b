"""The Warp engine: Gymnasium's robots on MuJoCo Warp, observed and rewarded as natively."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from gymnasium import spaces

from envs.engine.batch import Finish as NativeFinish
from envs.engine.batch import Snapshot
from envs.locomotion.native import (
    MEMORY_SIZE,
    OUTCOME,
    act,
    check_task,
    constants,
    observe,
    task_scene,
)
from envs.locomotion.robots import ROBOTS, body, edits, noiseless_start
from envs.locomotion.variants import VARIANTS, LocomotionTask, multipliers
from envs.warp_engine.env import Placement, WarpEnv
from envs.warp_engine.spec import Finish, Noise, SceneSpec
from envs.warp_engine.worlds import WorldCode
from metarl.rollout.scene import Scene

FINISH: dict[NativeFinish, Finish] = {"contact forces": "contact forces", "nothing": "nothing"}


@cache
def scene_spec(robot: str) -> SceneSpec:
    """A robot as the engine needs it."""
    here = body(robot)
    return SceneSpec(
        scene=here.scene,
        code=WorldCode("locomotion", act, observe, over=OUTCOME.index("fallen")),
        memory_size=MEMORY_SIZE,
        num_substeps=here.num_substeps,
        finish=FINISH[here.finish],
        noise=Noise(here.noise, ROBOTS[robot].normal_velocities),
    )


class WarpLocomotionEnv(WarpEnv[LocomotionTask]):
    """A vector environment with one task of a variant in each slot, on a device.

    The `info` of `envs.locomotion.native.LocomotionEnv`. Starts have the same noise, drawn on the
    device by Warp's generator: each slot's stream follows from the seed and the slot alone, and is
    another one than the native engine's.

    Args:
        variant: its name, a key of `VARIANTS`.
        tasks: of the variant, one for each slot. `reset` raises a ValueError for any other.
        horizon: steps in an episode.
        device: None for the current GPU, or for the processor where there is none.

    Raises:
        KeyError: no such variant.
        ValueError: no task, or a number out of range.
    """

    def __init__(
        self,
        variant: str,
        tasks: Sequence[LocomotionTask],
        *,
        horizon: int,
        device: torch.device | None = None,
    ) -> None:
        self.variant_name, self.variant = variant, VARIANTS[variant]
        here = body(self.variant.robot)
        super().__init__(
            tasks,
            outcome=OUTCOME,
            horizon=horizon,
            observation_space=spaces.Box(-np.inf, np.inf, (here.obs_size,), np.float32),
            action_space=here.action_space,
            device=device,
        )
        self._seed(np.arange(self.num_envs), 0)

    def scene(self, task: LocomotionTask) -> Scene:
        """The robot with the masses and sizes of the task, seen by the camera that follows it."""
        return task_scene(task)

    def _placements(self, tasks: tuple[LocomotionTask, ...]) -> list[Placement]:
        robot, made = self.variant.robot, {}
        for slot, task in enumerate(tasks):
            check_task(self.variant_name, slot, task)
            key = task.parameters.tobytes()
            if key not in made:  # many slots may play one task
                made[key] = Snapshot(
                    state=noiseless_start(robot),
                    edits=edits(robot, multipliers(task)),
                    constants=constants(self.variant, task),
                    memory=np.zeros(MEMORY_SIZE),
                    obs=None,
                )
        return [
            Placement(robot, scene_spec(robot), made[task.parameters.tobytes()]) for task in tasks
        ]
