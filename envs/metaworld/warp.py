"""Warp engine: Meta-World on MuJoCo Warp, with the native engine's observations and rewards.

It has the V2 rewards. Its physics is in float32 and uses another solver, so results are not
bit-equal; scenes, goals, resets and the code of rewards are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from gymnasium import spaces

from envs.metaworld.native import NUM_SUBSTEPS, act
from envs.metaworld.official import ACTION_SPACE, HORIZON, MetaWorldTask, observation_space
from envs.metaworld.snapshots import drawn_scene, official, snapshots
from envs.metaworld.tasks import TASK_CLASSES
from envs.metaworld.tasks.interface import FRAME_SIZE, Outcome, TouchForce, observe_function
from envs.warp_engine.env import Placement, WarpEnv
from envs.warp_engine.spec import SceneSpec
from envs.warp_engine.worlds import WorldCode
from metarl.rollout.scene import Scene


@cache
def scene_spec(env_name: str) -> SceneSpec:
    """Scene of a class of tasks for the engine."""
    code = TASK_CLASSES[env_name]
    touches = any(isinstance(source, TouchForce) for source in code.readings)
    return SceneSpec(
        scene=official(env_name).scene,
        code=WorldCode(env_name.replace("-", "_"), act, observe_function(code)),
        memory_size=FRAME_SIZE,
        num_substeps=NUM_SUBSTEPS,
        # Forces need a whole forward pass; without them the poses of bodies are enough.
        finish="forward" if touches else "positions",
    )


class WarpMetaWorldEnv(WarpEnv[MetaWorldTask]):
    """A vector environment with one Meta-World task in each slot, on a device.

    `info` is that of the native engine: the official one without `grasp_success`.

    Args:
        tasks: one for each slot, in any mixture. The slots of one class share a scene.
        horizon: steps per episode.
        device: None for the current GPU, or for the CPU if there is none.

    Raises:
        ValueError: there is no task, a task is unknown, or a number is out of range.
    """

    def __init__(
        self,
        tasks: Sequence[MetaWorldTask],
        *,
        horizon: int = HORIZON,
        device: torch.device | None = None,
    ) -> None:
        bounds = observation_space()
        super().__init__(
            tasks,
            outcome=("unscaled_reward", *Outcome._fields[1:]),
            horizon=horizon,
            observation_space=spaces.Box(
                bounds.low.astype(np.float32), bounds.high.astype(np.float32), dtype=np.float32
            ),
            action_space=ACTION_SPACE,
            device=device,
        )

    def scene(self, task: MetaWorldTask) -> Scene:
        """The official scene, with the task's positions of bodies and sites."""
        return drawn_scene(task)

    def _placements(self, tasks: tuple[MetaWorldTask, ...]) -> list[Placement]:
        return [
            Placement(task.env_name, scene_spec(task.env_name), snapshot)
            for task, snapshot in zip(tasks, snapshots(tasks), strict=True)
        ]
