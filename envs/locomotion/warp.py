"""Gymnasium's robots on MuJoCo Warp, with the native engine's observations and rewards."""

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
    """Scene of a robot for the engine."""
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

    `info` is that of `envs.locomotion.native.LocomotionEnv`. Starts have the same noise
    distribution, drawn on the device by Warp's generator. A slot's random stream depends only on
    the seed and the slot, and differs from the native engine's.

    Args:
        variant: name of the variant, a key of `VARIANTS`.
        tasks: one task of the variant for each slot. `reset` raises a ValueError for any other.
        horizon: steps per episode.
        device: None for the current GPU, or for the CPU if there is none.

    Raises:
        KeyError: the variant is unknown.
        ValueError: there is no task, or a number is out of range.
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
        """Scene of the robot with the task's body parameters, seen by the tracking camera."""
        return task_scene(task)

    def _placements(self, tasks: tuple[LocomotionTask, ...]) -> list[Placement]:
        robot, made = self.variant.robot, {}
        for slot, task in enumerate(tasks):
            check_task(self.variant_name, slot, task)
            key = task.parameters.tobytes()
            if key not in made:  # several slots may play the same task
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
