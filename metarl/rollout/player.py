"""One environment of a user: its spaces made flat, its episodes made equally long."""

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
"""Makes an environment, of a task or without one."""


@dataclass(frozen=True, kw_only=True)
class FlatSpaces:
    """The spaces of an environment, and the flat ones in which agents know them."""

    raw_observation: spaces.Space
    raw_action: spaces.Space
    observation: spaces.Box
    """Of one axis, floating point."""
    action: spaces.Box | spaces.Discrete
    """Of one axis; the choices of a discrete one begin at 0."""

    @staticmethod
    def of(env: gymnasium.Env) -> FlatSpaces:
        """The spaces of `env`; what it observes is flattened as `FlattenObservation` does it.

        Raises:
            UserError: agents have no use for them.
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
        else:  # single precision, where it holds all of them
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
            UserError: it is not of the observation space's shape.
        """
        box = isinstance(self.raw_observation, spaces.Box)
        if box and np.shape(obs) != self.raw_observation.shape:
            raise UserError(
                f"an observation has shape {np.shape(obs)}, the observation space "
                f"{self.raw_observation.shape}"
            )
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found then
            flat = np.array(spaces.flatten(self.raw_observation, obs), self.observation.dtype)
        if flat.shape != self.observation.shape:
            raise UserError(
                f"an observation has {flat.size} numbers, the observation space "
                f"{self.raw_observation} has {self.observation.shape[0]}"
            )
        return flat

    def execute(self, action: Any) -> Any:
        """An agent's action as the environment takes it: within its bounds, in its precision, and
        its own, so that it may change it."""
        if isinstance(self.raw_action, spaces.Discrete):
            return self.raw_action.dtype.type(action + self.raw_action.start)
        assert isinstance(self.raw_action, spaces.Box)
        own = np.array(action, self.raw_action.dtype)
        return np.minimum(np.maximum(own, self.raw_action.low), self.raw_action.high)


class Kind(NamedTuple):
    """What is known of an environment without having it."""

    observation: spaces.Box
    action: spaces.Box | spaces.Discrete
    has_physics: bool
    """Whether it has physics of MuJoCo to record."""


class Player:
    """Plays episodes of exactly `horizon` steps in one environment.

    Where the environment ends one earlier it rests until the horizon: the last observation, reward
    0, the last success.
    """

    def __init__(self, env: gymnasium.Env, *, horizon: int) -> None:
        self.env = env
        self.horizon = horizon
        self.spaces = FlatSpaces.of(env)
        self.recording = False
        """Whether to write down the physics from the next reset on."""
        self.episode: Float64[np.ndarray, "S R"] | None = None
        """The last whole episode that was written down."""
        self._states: list[Float64[np.ndarray, " R"]] = []

    def reset(self, seed: int | None = None) -> Float[np.ndarray, " O"]:
        """Starts an episode; with a seed, restarts the environment's random stream."""
        obs, _ = parts(self.env.reset(seed=seed), names=("obs", "info"), of="reset")
        self._obs = self.spaces.flatten(obs)
        self._steps, self._success, self._resting = 0, False, False
        self._states = [state_of(self.env)] if self.recording else []
        return self._obs

    def step(self, action: Any) -> tuple[Float[np.ndarray, " O"], float, bool, bool]:
        """Observation, reward, success, and whether this was the last step of the episode."""
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
    """A truth value that an environment gave; None is False.

    Raises:
        UserError: it is none: text, several of them, a NaN.
    """
    if isinstance(value, bool):
        return value
    found = number(0 if value is None else value, name)
    if found != found:
        raise UserError(f"step: {name} is {found}, neither true nor false")
    return bool(found)


def number(value: Any, name: str) -> float:
    """A number that an environment gave, of any type that holds just one.

    Raises:
        UserError: it is none: text, or several of them.
    """
    if isinstance(value, float):
        return value
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "biuf":
        raise UserError(f"step: {name} must be one number, but is {printable(repr(value))}")
    return float(found.item())


def parts(result: Any, *, names: Sequence[str], of: str) -> tuple[Any, ...]:
    """What `reset` or `step` returned, if it is as many things as Gymnasium wants.

    Raises:
        UserError: it is not; older versions of Gym had other numbers.
    """
    if not isinstance(result, tuple) or len(result) != len(names):
        got = f"{len(result)} things" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise UserError(f"{of} must return ({', '.join(names)}), but returned {got}")
    return result


def takes_task(make_env: MakeEnv) -> bool:
    """Whether `make_env` makes an environment from a task, rather than one with `set_task`."""
    found = inspect.signature(make_env).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(
        p.name == "task" or (p.kind in positional and p.default is inspect.Parameter.empty)
        for p in found
    )


def make(make_env: MakeEnv, task: Any) -> gymnasium.Env:
    """A new environment; it plays `task` already if it was made from it.

    Raises:
        UserError: it is no environment, or cannot be given a task.
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
