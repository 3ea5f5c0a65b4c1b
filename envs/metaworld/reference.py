"""The reference engine: the official environment objects, stepped one after the other.

Slow and complete: it is what every other engine must agree with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.metaworld.official import (
    ACTION_SPACE,
    MetaWorldTask,
    make_official_env,
    observation_space,
    set_official_task,
)
from envs.metaworld.snapshots import drawn_scene
from envs.slots import SlotEnv
from metarl.recording import Sink
from metarl.scene import Scene, drawn_state
from metarl.seeding import derive_seed


class ReferenceEnv(SlotEnv[MetaWorldTask]):
    """Official environment objects, one per slot (about 20 MB each)."""

    def __init__(
        self, tasks: Sequence[MetaWorldTask], *, reward_version: str, horizon: int
    ) -> None:
        self._reward_version = reward_version
        self._spare: dict[str, list[SawyerXYZEnv]] = defaultdict(list)
        self._playing: list[tuple[str, SawyerXYZEnv]] = []
        self._sink: Sink | None = None
        self._states: list[list[Float64[np.ndarray, " R"]]] = []
        self._assign(tasks)
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=observation_space(),
            action_space=ACTION_SPACE,
        )
        self._steps = 0

    @property
    def envs(self) -> list[SawyerXYZEnv]:
        """The official environment of each slot."""
        return [env for _, env in self._playing]

    def _assign(self, tasks: Sequence[MetaWorldTask]) -> None:
        """Finds or makes an environment of the right class for every slot."""
        for env_name, env in self._playing:
            self._spare[env_name].append(env)
        self._playing = []
        for task in tasks:
            spare = self._spare[task.env_name]
            env = spare.pop() if spare else make_official_env(task.env_name, self._reward_version)
            set_official_task(env, task)
            self._playing.append((task.env_name, env))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, "N 39"], dict[str, Any]]:
        """Starts a first episode in every slot; a seed restarts every slot's random stream."""
        del options
        self._assign(self.next_tasks)
        if seed is not None:
            for slot, env in enumerate(self.envs):
                env.seed(derive_seed(seed, slot) % 2**32)
        self._steps = 0
        return self._reset_all(), {}

    def _reset_all(self) -> Float[np.ndarray, "N 39"]:
        obs = np.stack([env.reset()[0] for env in self.envs])
        self._states = []
        self._write_down()
        return obs

    def scene(self, task: MetaWorldTask) -> Scene:
        """The official scene, with what the task moves where the task has it."""
        return drawn_scene(task)

    def record(self, sink: Sink | None) -> None:
        """Gives every whole episode to `sink` from the next `reset` on; None ends it."""
        self._sink = sink

    def _write_down(self) -> None:
        if self._sink is not None:
            self._states.append([drawn_state(env.model, env.data) for env in self.envs])

    def _hand_over(self) -> None:
        """The states of the episode that has just ended, filled up to rows of one length."""
        if self._sink is None or len(self._states) <= self.horizon:
            return
        size = max(map(len, self._states[0]))
        padded = [[np.pad(row, (0, size - len(row))) for row in states] for states in self._states]
        self._sink(np.stack(padded, axis=1))

    def step(
        self, actions: Float[np.ndarray, "N 4"]
    ) -> tuple[
        Float[np.ndarray, "N 39"],
        Float[np.ndarray, " N"],
        np.ndarray,
        np.ndarray,
        dict[str, Any],
    ]:
        """One official step in every slot.

        `info` holds every entry of the official one as an array (N,), and `final_obs` (N, 39).
        """
        results = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
        self._steps += 1
        self._write_down()
        obs = np.stack([result[0] for result in results])
        reward = np.array([result[1] for result in results], dtype=np.float64)
        official = [result[4] for result in results]
        info: dict[str, Any] = {
            key: np.array([entry[key] for entry in official], dtype=np.float64)
            for key in official[0]
        }
        info["success"] = info["success"] > 0
        info["final_obs"] = obs
        ended = np.full(self.num_envs, self._steps == self.horizon)
        if ended.all():
            self._steps = 0
            self._hand_over()
            obs = self._reset_all()
        return obs, reward, np.zeros_like(ended), ended, info

    def close_extras(self, **kwargs: Any) -> None:
        """Frees the official environments; Gymnasium calls this once, from `close`."""
        del kwargs
        for env in [*self.envs, *(e for spare in self._spare.values() for e in spare)]:
            env.close()
