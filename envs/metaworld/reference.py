"""Reference engine: the official environment objects, stepped one after the other.

It is slow but complete, and every other engine must agree with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.drawn import DrawnEnv
from envs.engine.batch import SharedModel
from envs.metaworld.official import (
    ACTION_SPACE,
    DT,
    MetaWorldTask,
    make_official_env,
    observation_space,
    set_official_task,
)
from envs.metaworld.snapshots import drawn_scene, official
from metarl.rollout.recording import Sink
from metarl.rollout.scene import Scene, drawn_state
from metarl.system.seeding import derive_seed


class ReferenceEnv(DrawnEnv[MetaWorldTask]):
    """A vector environment of official environment objects, one per slot (about 20 MB each)."""

    def __init__(
        self,
        tasks: Sequence[MetaWorldTask],
        *,
        reward_version: str,
        horizon: int,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            tasks,
            horizon=horizon,
            observation_space=observation_space(),
            action_space=ACTION_SPACE,
            dt=DT,
            render_mode=render_mode,
        )
        self._reward_version = reward_version
        self._spare: dict[str, list[SawyerXYZEnv]] = defaultdict(list)
        self._playing: dict[int, tuple[str, SawyerXYZEnv]] = {}
        self._new_seeds: dict[int, int] = {}
        self._obs = np.zeros((self.num_envs, 39))
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._sink: Sink | None = None
        self._states: list[list[Float64[np.ndarray, " R"]]] = []
        self._assign(range(self.num_envs), tasks)

    @property
    def envs(self) -> list[SawyerXYZEnv]:
        """The official environment of each slot."""
        return [self._playing[slot][1] for slot in range(self.num_envs)]

    def _assign(self, slots: Sequence[int], tasks: Sequence[MetaWorldTask]) -> None:
        """Finds or makes an environment of the right class for each of these slots."""
        for slot in slots:
            if slot in self._playing:
                env_name, env = self._playing.pop(slot)
                self._spare[env_name].append(env)
        for slot in slots:
            task = tasks[slot]
            spare = self._spare[task.env_name]
            env = spare.pop() if spare else make_official_env(task.env_name, self._reward_version)
            set_official_task(env, task)
            self._playing[slot] = task.env_name, env

    def _seed(self, slots: Int[np.ndarray, " n"], seeds: Sequence[int | None] | int) -> None:
        super()._seed(slots, seeds)
        for slot in slots.tolist():
            number = self.first_slot + slot
            seed, stream = (seeds, number) if isinstance(seeds, int) else (seeds[slot], 0)
            if seed is not None:
                self._new_seeds[slot] = derive_seed(seed, stream) % 2**32

    def _why_together(self) -> str:
        return "while episodes are recorded" if self._sink is not None else ""

    def _restart(
        self, slots: Int[np.ndarray, " n"], tasks: Sequence[MetaWorldTask]
    ) -> Float[np.ndarray, "N 39"]:
        self._assign(slots.tolist(), tasks)
        while self._new_seeds:  # for the environments that the slots have now
            slot, seed = self._new_seeds.popitem()
            self._playing[slot][1].seed(seed)
        self._reset(slots.tolist())
        return self._obs.copy()

    def _reset(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._obs[slot] = self._playing[slot][1].reset()[0]
            self._steps[slot] = 0
        self._states = []
        self._write_down()

    def scene(self, task: MetaWorldTask) -> Scene:
        """The official scene, with the task's positions of bodies and sites."""
        return drawn_scene(task)

    def _shared_model(self, task: MetaWorldTask) -> SharedModel:
        return official(task.env_name).scene

    def _drawn(self, slot: int) -> Float64[np.ndarray, " R"]:
        env_name, env = self._playing[slot]
        edits = official(env_name).scene.edits(env.model)
        return np.concatenate([drawn_state(env.model, env.data), edits])

    def record(self, sink: Sink | None) -> None:
        """Passes every whole episode to `sink`, starting at the next `reset`; None stops it."""
        self._sink = sink

    def _write_down(self) -> None:
        if self._sink is not None:
            self._states.append([drawn_state(env.model, env.data) for env in self.envs])

    def _hand_over(self) -> None:
        """Passes the episode that has just ended to the sink, its states padded to one length."""
        if self._sink is None or len(self._states) <= self.horizon:
            return
        size = max(map(len, self._states[0]))
        padded = [[np.pad(row, (0, size - len(row))) for row in states] for states in self._states]
        self._sink(np.stack(padded, axis=1))

    def _step(
        self, actions: Float[np.ndarray, "N 4"]
    ) -> tuple[
        Float[np.ndarray, "N 39"], Float[np.ndarray, " N"], Bool[np.ndarray, " N"], dict[str, Any]
    ]:
        """Takes one official step in every slot.

        `info` holds every entry of the official `info` as an array (N,), and `final_obs` (N, 39).
        """
        results = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
        self._steps += 1
        self._write_down()
        self._obs = np.stack([result[0] for result in results])
        reward = np.array([result[1] for result in results], dtype=np.float64)
        infos = [result[4] for result in results]
        info: dict[str, Any] = {
            key: np.array([entry[key] for entry in infos], dtype=np.float64) for key in infos[0]
        }
        info["success"] = info["success"] > 0
        info["final_obs"] = self._obs.copy()
        ended = self._steps == self.horizon
        if ended.any():
            self._hand_over()
            self._reset(np.flatnonzero(ended).tolist())
        return self._obs.copy(), reward, ended, info

    def close_extras(self, **kwargs: Any) -> None:
        """Frees the official environments and the renderers."""
        super().close_extras()
        for env in [*self.envs, *(e for spare in self._spare.values() for e in spare)]:
            env.close()
