"""A user's environment, with flattened spaces and episodes of fixed length."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Float64

from metarl.errors import UserError, printable
from metarl.rollout.physics import state_of

MakeEnv = Callable[..., Any]
"""Factory of an environment, with a task as argument or without one."""


@dataclass(frozen=True, kw_only=True)
class FlatSpaces:
    """The spaces of an environment, and the flat spaces that agents use."""

    raw_observation: spaces.Space
    raw_action: spaces.Space
    observation: spaces.Box
    """Flat observation space: one axis, floating point."""
    action: spaces.Box | spaces.Discrete
    """Flat action space: a Box with one axis, or discrete choices that start at 0."""

    @staticmethod
    def of(env: gymnasium.Env) -> FlatSpaces:
        """The spaces of `env`; observations are flattened as by Gymnasium's `FlattenObservation`.

        Raises:
            UserError: the spaces cannot be flattened to ones that agents support.
        """
        seen, action = env.observation_space, env.action_space
        try:
            flat = spaces.flatten_space(seen) if seen.is_np_flattenable else None
        except ValueError:  # an empty dictionary
            flat = None
        if not isinstance(flat, spaces.Box):
            raise UserError(f"the observation space {seen} cannot be flattened to a Box")
        if isinstance(action, spaces.Discrete):
            flat_action = spaces.Discrete(int(action.n))
        elif (
            isinstance(action, spaces.Box)
            and len(action.shape) == 1
            and action.shape[0] > 0
            and action.dtype in (np.float16, np.float32, np.float64)
            and action.is_bounded("both")
        ):
            flat_action = spaces.Box(action.low, action.high, dtype=action.dtype.type)
        else:
            raise UserError(
                f"the action space {action} is neither Discrete nor a bounded Box of floats with "
                "one axis, in half, single or double precision; wrap the environment so that it is"
            )
        dtype = flat.dtype
        if np.issubdtype(dtype, np.floating):
            dtype = min(dtype, np.dtype(np.float64), key=lambda d: d.itemsize)
        else:  # single precision, if it represents all whole numbers in the bounds
            whole = np.array([flat.low.min(initial=0), flat.high.max(initial=0)], float)
            dtype = np.dtype(np.float64 if np.abs(whole).max() > 2**24 else np.float32)
        low, high = flat.low.astype(dtype), flat.high.astype(dtype)
        return FlatSpaces(
            raw_observation=seen,
            raw_action=action,
            observation=spaces.Box(low, high, dtype=dtype.type),
            action=flat_action,
        )

    def flatten(self, obs: Any) -> Float[np.ndarray, " O"]:
        """An observation as agents see it.

        Raises:
            UserError: the observation does not have the shape of the observation space.
        """
        box = isinstance(self.raw_observation, spaces.Box)
        if box and np.shape(obs) != self.raw_observation.shape:
            raise UserError(
                f"an observation has shape {np.shape(obs)}, the observation space "
                f"{self.raw_observation.shape}"
            )
        with np.errstate(over="ignore"):  # an overflow becomes infinite, which is detected later
            flat = np.array(spaces.flatten(self.raw_observation, obs), self.observation.dtype)
        if flat.shape != self.observation.shape:
            raise UserError(
                f"an observation has {flat.size} numbers, the observation space "
                f"{self.raw_observation} has {self.observation.shape[0]}"
            )
        return flat

    def execute(self, action: Any) -> Any:
        """An agent's action as the environment takes it: within its bounds, in its precision, and
        a copy that it may change."""
        if isinstance(self.raw_action, spaces.Discrete):
            return self.raw_action.dtype.type(action + self.raw_action.start)
        assert isinstance(self.raw_action, spaces.Box)
        own = np.array(action, self.raw_action.dtype)
        return np.minimum(np.maximum(own, self.raw_action.low), self.raw_action.high)


class Kind(NamedTuple):
    """Properties of an environment that is not built in this process."""

    observation: spaces.Box
    action: spaces.Box | spaces.Discrete
    has_physics: bool
    """True if the environment has MuJoCo physics to record."""


class Player:
    """Plays episodes of exactly `horizon` steps in one environment.

    If the environment ends an episode earlier, the last observation and success repeat until the
    horizon, with reward 0.
    """

    def __init__(self, env: gymnasium.Env, *, horizon: int) -> None:
        self.env = env
        self.horizon = horizon
        self.spaces = FlatSpaces.of(env)
        self.recording = False
        """True if the physics is recorded from the next reset on."""
        self.episode: Float64[np.ndarray, "S R"] | None = None
        """States of the last complete recorded episode, S = horizon + 1."""
        self._states: list[Float64[np.ndarray, " R"]] = []

    def reset(self, seed: int | None = None) -> Float[np.ndarray, " O"]:
        """Starts an episode; a seed restarts the environment's random stream."""
        obs, _ = parts(self.env.reset(seed=seed), names=("obs", "info"), of="reset")
        self._obs = self.spaces.flatten(obs)
        self._steps, self._success, self._resting = 0, False, False
        self._states = [state_of(self.env)] if self.recording else []
        return self._obs

    def step(self, action: Any) -> tuple[Float[np.ndarray, " O"], float, bool, bool]:
        """Steps the environment; returns observation, reward, success, and True at the last step
        of the episode.

        Raises:
            UserError: the environment returned something else than Gymnasium specifies.
        """
        reward = 0.0
        if not self._resting:
            obs, reward, terminated, truncated, info = parts(
                self.env.step(self.spaces.execute(action)),
                names=("obs", "reward", "terminated", "truncated", "info"),
                of="step",
            )
            self._obs = self.spaces.flatten(obs)
            if not isinstance(info, Mapping):
                raise UserError(f"step: info must be a dictionary, but is {printable(repr(info))}")
            self._success = flag(info.get("success", info.get("is_success", False)), "success")
            ended_early = flag(terminated, "terminated"), flag(truncated, "truncated")
            self._resting = any(ended_early)
            reward = number(reward, "the reward")
        self._steps += 1
        ended = self._steps == self.horizon
        if self._states:
            self._states.append(state_of(self.env))
            if ended:
                self.episode = np.stack(self._states)
        return self._obs, reward, self._success, ended


def flag(value: Any, name: str) -> bool:
    """A boolean that an environment returned; None is False.

    Raises:
        UserError: the value is not a boolean: text, several values, or NaN.
    """
    if isinstance(value, bool):
        return value
    found = number(0 if value is None else value, name)
    if found != found:
        raise UserError(f"step: {name} is {found}, neither true nor false")
    return bool(found)


def number(value: Any, name: str) -> float:
    """A number that an environment returned, of any type that holds exactly one.

    Raises:
        UserError: the value is not one number: text, or several values.
    """
    if isinstance(value, float):
        return value
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "biuf":
        raise UserError(f"step: {name} must be one number, but is {printable(repr(value))}")
    return float(found.item())


def parts(result: Any, *, names: Sequence[str], of: str) -> tuple[Any, ...]:
    """The tuple that `reset` or `step` returned, checked for the length that Gymnasium specifies.

    Raises:
        UserError: it has another length, as in older versions of Gym, or is not a tuple.
    """
    if not isinstance(result, tuple) or len(result) != len(names):
        got = f"{len(result)} things" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise UserError(f"{of} must return ({', '.join(names)}), but returned {got}")
    return result


def takes_task(make_env: MakeEnv) -> bool:
    """True if `make_env` takes a task; else its environment needs `set_task`."""
    found = inspect.signature(make_env).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(
        p.name == "task" or (p.kind in positional and p.default is inspect.Parameter.empty)
        for p in found
    )


def make(make_env: MakeEnv, task: Any) -> gymnasium.Env:
    """A new environment; if `make_env` takes a task, it plays `task` already.

    Raises:
        UserError: the result is not a Gymnasium environment, or cannot be given a task.
    """
    from_task = takes_task(make_env)
    env = make_env(task) if from_task else make_env()
    if not isinstance(env, gymnasium.Env):
        raise UserError(f"make_env must return a gymnasium.Env, but returned {type(env).__name__}")
    if not from_task and not env.has_wrapper_attr("set_task"):
        raise UserError(
            "make_env takes no task, and its environment has no set_task(task); give it one of them"
        )
    return env
