"""Slot environments for Stable-Baselines3.

env = gymnasium.make_vec("metarl/ML1-train-v0", num_envs=16, env_name="reach-v3")
PPO("MlpPolicy", SB3VecEnv(env)).learn(1_000_000)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Wrapper
from jaxtyping import Bool, Float, Shaped, UInt8
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from metarl.errors import UserError
from metarl.protocols import DeviceVectorEnv
from metarl.rollout.slots import SlotEnv


class SB3VecEnv(VecEnv):
    """A slot environment as a Stable-Baselines3 `VecEnv`.

    Observations and rewards are passed on unchanged. The `infos` of a slot are empty except at the
    end of an episode, where they hold

    - `terminal_observation` (O,), the true last observation;
    - `TimeLimit.truncated`, True if the horizon ended the episode, so that algorithms bootstrap;
    - `episode`, its return `r` and length `l`, as in Stable-Baselines3's `Monitor`;
    - `is_success`, True if any of its steps was a success, which is Meta-World's measure.

    All slots share one environment object, so attributes and methods are those of that object; only
    tasks differ by slot. `reset` restarts all slots and takes no options.

    Args:
        env: the environment to wrap; `close` closes it too.

    Raises:
        UserError: the environment uses tensors on a device.
    """

    def __init__(self, env: SlotEnv[Any]) -> None:
        if isinstance(env, DeviceVectorEnv):
            raise UserError("Stable-Baselines3 takes NumPy arrays; use engine 'native' with it")
        self.env = env
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._succeeded = np.zeros(env.num_envs, dtype=np.bool_)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        if "render_fps" in env.metadata:
            self.metadata["render_fps"] = env.metadata["render_fps"]

    def reset(self) -> Float[np.ndarray, "N O"]:
        """Starts an episode in every slot, with the seed passed to `seed` since the last reset.

        Raises:
            ValueError: `set_options` was called with options.
        """
        if any(self._options):
            self._reset_options()
            raise ValueError("slot environments have no options for reset")
        obs, _ = self.env.reset(seed=self._seeds[0])
        self._reset_seeds()
        self._forget_episodes(np.ones(self.num_envs, dtype=np.bool_))
        return obs

    def step_async(self, actions: Shaped[np.ndarray, "N ..."]) -> None:
        """Stores the actions for `step_wait`."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[
        Float[np.ndarray, "N O"],
        Float[np.ndarray, " N"],
        Bool[np.ndarray, " N"],
        list[dict[str, Any]],
    ]:
        """Steps every slot; returns observations, rewards, episode ends and `infos`."""
        obs, rewards, terminated, truncated, info = self.env.step(self._actions)
        ended = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        self._succeeded |= info["success"]
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for slot in np.flatnonzero(ended):
            infos[slot] = {
                "terminal_observation": info["final_obs"][slot],
                "TimeLimit.truncated": bool(truncated[slot] and not terminated[slot]),
                "episode": {"r": float(self._returns[slot]), "l": int(self._lengths[slot])},
                "is_success": bool(self._succeeded[slot]),
            }
        self._forget_episodes(ended)
        return obs, rewards, ended, infos

    def _forget_episodes(self, slots: Bool[np.ndarray, " N"]) -> None:
        self._returns[slots] = 0.0
        self._lengths[slots] = 0
        self._succeeded[slots] = False

    def close(self) -> None:
        """Closes the wrapped environment."""
        self.env.close()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds the next `reset`; every slot's stream is derived from this one seed."""
        self._seeds = [seed] * self.num_envs
        return self._seeds

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the wrapped environment for each index; see `SlotEnv.get_attr`."""
        values = self.env.get_attr(attr_name)
        return [values[slot] for slot in self._get_indices(indices)]

    def get_images(self) -> Sequence[UInt8[np.ndarray, "H W 3"]]:
        """A picture of each slot, if the environment was made with `render_mode="rgb_array"`."""
        return self.env.render()

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of the wrapped environment for all slots.

        Raises:
            ValueError: `indices` selects some slots only.
        """
        self._check_all(indices)
        setattr(self.env, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Calls a method of the wrapped environment once and repeats its result for every slot.

        Raises:
            ValueError: `indices` selects some slots only.
        """
        self._check_all(indices)
        return [getattr(self.env, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for each index, because no slot has a wrapper of its own."""
        del wrapper_class
        return [False for _ in self._get_indices(indices)]

    def _check_all(self, indices: VecEnvIndices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(f"all {self.num_envs} slots share one environment; give no indices")
