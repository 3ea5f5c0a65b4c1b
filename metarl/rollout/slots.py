"""Common base of this toolkit's vector environments: slots, each with a task of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, Generic, NoReturn, SupportsIndex, TypeVar

import numpy as np
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from metarl.errors import NotFiniteError, UserError
from metarl.system.seeding import slot_generator, slot_generators

T = TypeVar("T")

Seed = SupportsIndex | Sequence[SupportsIndex | None] | Int[np.ndarray, " N"] | None
"""One seed from which every slot's stream is derived, or one per slot; None continues a stream."""
RESET_MASK = "reset_mask"
SINGLE = {"observation_space": "single_observation_space", "action_space": "single_action_space"}
"""Attributes of the whole whose counterpart of a single slot has another name."""


class NotResetError(ResetNeeded, ValueError):
    """A step, or a reset of some slots, before the first `reset` of all slots."""


class ActionNotFiniteError(NotFiniteError, ValueError):
    """An action with NaN or infinity; nothing has been stepped."""


class SlotEnv(VectorEnv, Generic[T]):
    """A vector environment whose slots play given tasks, episodes of `horizon` steps each.

    It keeps Gymnasium's contract as `SyncVectorEnv` does with autoreset `SAME_STEP`: a slot that
    ends an episode starts the next one of the same task in the same step. In addition, the `info`
    of every step has `final_obs` (N, O), the true next observation of every slot, and `success`
    (N,); all other entries belong to the step just taken, also where it ended an episode. As in
    Gymnasium, `_name` marks the slots for which `name` holds (`_final_obs`: those whose episode
    ended), and `final_info` repeats all entries for the slots whose episode ended. Arrays that
    `reset` and `step` return are never written to again.

    Subclasses implement `_restart` and `_step`, and play `self.next_tasks` from a slot's reset on.

    Args:
        tasks: one task per slot.
        horizon: steps of an episode.
        observation_space: observation space of one slot.
        action_space: action space of one slot.
        random: True if slots draw random numbers; each slot then has its own stream, initially
            that of seed 0.
        render_mode: `rgb_array` for pictures, if the environment can be drawn.
        dt: simulated time of a step, in seconds; None if the environment cannot be drawn.

    Raises:
        UserError: the render mode is not supported.
    """

    def __init__(
        self,
        tasks: Sequence[T],
        *,
        horizon: int,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.Discrete,
        random: bool = False,
        render_mode: str | None = None,
        dt: float | None = None,
    ) -> None:
        self.num_envs = len(tasks)
        self.horizon = horizon
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        if dt is not None:
            self.metadata |= {"render_modes": ["rgb_array"], "render_fps": round(1 / dt)}
        if render_mode not in (None, *self.metadata["render_modes"]):
            can = "'rgb_array', or none" if dt else "none: nothing is drawn here"
            raise UserError(f"unknown render_mode {render_mode!r}; use {can}")
        self.render_mode = render_mode
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self.next_tasks = tuple(tasks)
        self.first_slot = 0
        """Number of slot 0 among those of all ranks: slots draw from streams of their own
        numbers, so that it does not matter which rank plays them."""
        self.tasks: tuple[T, ...] = ()
        """The tasks being played; empty before the first `reset` and after one that failed."""
        self._started = False
        self._seeds = [0] * self.num_envs
        self._rngs = slot_generators(0, range(self.num_envs)) if random else []

    def set_tasks(self, tasks: Sequence[T]) -> None:
        """Gives each slot its task; takes effect at the next `reset` of the slot.

        Raises:
            ValueError: the number of tasks is not that of the slots.
        """
        if len(tasks) != self.num_envs:
            raise ValueError(f"{len(tasks)} tasks for {self.num_envs} slots; give one per slot")
        self.next_tasks = tuple(tasks)

    # -- reset and step ----------------------------------------------------------------------------

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in all slots, or in some.

        Args:
            seed: restarts the random streams of the slots that are reset.
            options: `reset_mask` (N,), bool: the slots to reset. The others continue their episode.

        Returns:
            Observations (N, O), and an empty `info`.

        Raises:
            ValueError: an option, a mask or seeds do not fit, or slots can only be reset together.
            TypeError: a mask is not an array of bool, or a seed is not an integer.
            ClosedEnvironmentError: the environment is closed.
        """
        slots = self._chosen(options)
        seeds = self._checked_seed(seed)
        tasks = self.next_tasks
        if len(slots) < self.num_envs:
            playing = list(self.tasks)
            for slot in slots:
                playing[slot] = tasks[slot]
            tasks = tuple(playing)
        self.tasks, self._started = (), False  # until the whole reset has succeeded
        if seeds is not None:
            self._seed(slots, seeds)
        obs = self._restart(slots, tasks)
        self.tasks, self._started = tasks, True
        return obs, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps every slot.

        Args:
            actions: floats (N, A), or integers (N,) where actions are discrete.

        Returns:
            Observations (N, O), rewards (N,), terminations (N,), which are all False, truncations
            (N,), `info`.

        Raises:
            ValueError: actions have another shape or kind, are not finite, or are not among the
                choices. No slot has been stepped then.
            ResetNeeded: `reset` was not called before.
            ClosedEnvironmentError: the environment is closed.
        """
        self._check_playing()
        obs, reward, ended, info = self._step(self._checked(actions))
        self._complete(info, ended)
        return obs, reward, np.zeros_like(ended), ended, info

    @abstractmethod
    def _restart(
        self, slots: Int[np.ndarray, " n"], tasks: Sequence[T]
    ) -> Shaped[np.ndarray, "N O"]:
        """Starts episodes in some slots.

        Args:
            slots: indices of the slots to restart, in rising order.
            tasks: tasks of all N slots from now on; they change only in the restarted slots.

        Returns:
            Observations of all slots.
        """

    @abstractmethod
    def _step(
        self, actions: np.ndarray
    ) -> tuple[
        Shaped[np.ndarray, "N O"], Float[np.ndarray, " N"], Bool[np.ndarray, " N"], dict[str, Any]
    ]:
        """Steps every slot; returns observations, rewards, True where an episode ended, and `info`
        with `final_obs` and `success`."""

    def _seed(self, slots: Int[np.ndarray, " n"], seeds: Sequence[int | None] | int) -> None:
        """Restarts the random streams of some slots, from one seed or from one per slot."""
        if isinstance(seeds, int):
            given = dict.fromkeys(slots.tolist(), seeds)
        else:
            given = {slot: seed for slot in slots.tolist() if (seed := seeds[slot]) is not None}
        for slot, seed in given.items():
            self._seeds[slot] = seed
        if not self._rngs:
            return
        if isinstance(seeds, int):
            rngs = slot_generators(seeds, [self.first_slot + slot for slot in given])
        else:
            rngs = [slot_generator(seed, 0) for seed in given.values()]
        for slot, rng in zip(given, rngs, strict=True):
            self._rngs[slot] = rng

    def _why_together(self) -> str:
        """The reason why slots cannot be reset one by one; '' where they can."""
        return ""

    def _where(self, slot: int) -> str:
        """A slot as messages name it, with the class of its task if that has a name."""
        name, number = getattr(self.tasks[slot], "env_name", ""), self.first_slot + slot
        return f"slot {number} ({name})" if name else f"slot {number}"

    def _check_playing(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the environment is closed; make another one")
        if not self._started:
            raise NotResetError("call reset() before step()")

    def _chosen(self, options: Mapping[str, Any] | None) -> Int[np.ndarray, " n"]:
        """The slots to reset according to the options."""
        if self.closed:
            raise ClosedEnvironmentError("the environment is closed; make another one")
        everyone = np.arange(self.num_envs)
        if not options:
            return everyone
        if unknown := sorted(map(str, options.keys() - {RESET_MASK})):
            raise ValueError(f"reset knows no option {unknown[0]!r}; it has {RESET_MASK!r}")
        mask = options[RESET_MASK]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            kind = getattr(mask, "dtype", type(mask).__name__)
            raise TypeError(f"{RESET_MASK} must be a NumPy array of bool, not {kind}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"{RESET_MASK} must have shape ({self.num_envs},), not {mask.shape}")
        if not mask.any():
            raise ValueError(f"{RESET_MASK} is False everywhere; name at least one slot")
        if mask.all():
            return everyone
        if not self._started:
            raise NotResetError("some slots can be reset only after all: call reset() first")
        if why := self._why_together():
            raise ValueError(f"slots cannot be reset one by one {why}; reset all of them")
        return np.flatnonzero(mask)

    def _checked_seed(self, seed: Seed) -> list[int | None] | int | None:
        if seed is None:
            return None
        if not isinstance(seed, Sequence | np.ndarray):
            return _whole(seed)
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} slots; give one, or one each")
        return [None if each is None else _whole(each) for each in seed]

    def _checked(self, actions: Any) -> Any:
        """Actions as an array: nothing is broadcast, cast or counted from the end."""
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            shape = self.action_space.shape
            raise ValueError(f"actions must have shape {shape}, not {actions.shape}")
        if isinstance(self.single_action_space, spaces.Discrete):
            if not np.issubdtype(actions.dtype, np.integer):
                raise ValueError(f"actions must be whole numbers, not {actions.dtype}")
            count = int(self.single_action_space.n)
            if actions.min() < 0 or actions.max() >= count:
                slot = int(np.flatnonzero((actions < 0) | (actions >= count))[0])
                raise ValueError(
                    f"{self._where(slot)}: action {actions[slot]} is not among 0 to {count - 1}"
                )
            return actions
        if not np.issubdtype(actions.dtype, np.floating):
            raise ValueError(f"actions must be floats, not {actions.dtype}")
        if not np.isfinite(actions).all():
            slot = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
            raise ActionNotFiniteError(f"{self._where(slot)}: action {actions[slot]}")
        return actions

    def _complete(self, info: dict[str, Any], ended: Bool[np.ndarray, " N"]) -> None:
        """Adds `_name` for every entry `name`, and `final_info` where episodes ended."""
        names = list(info)
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        info |= {f"_{name}": everyone for name in names}
        info["_final_obs"] = ended.copy()
        if not ended.any():
            return
        final: dict[str, Any] = {}
        for name in names:
            if name != "final_obs":
                final[name] = np.zeros_like(info[name])
                final[name][ended] = info[name][ended]
                final[f"_{name}"] = info["_final_obs"]
        info |= {"final_info": final, "_final_info": info["_final_obs"]}

    # -- further methods of `SyncVectorEnv` --------------------------------------------------------

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyright: ignore
        """Each slot's random stream.

        Raises:
            AttributeError: this environment draws nothing from NumPy's streams.
        """
        if not self._rngs:
            raise AttributeError(f"{type(self).__name__} has no random streams of NumPy")
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # pyright: ignore
        """The seed that each slot's random stream was derived from."""
        return tuple(self._seeds)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute of each slot: its own `task`, or a value that all slots share.

        Raises:
            AttributeError: the attribute does not exist, or is a method.
        """
        if name == "task":
            return self.tasks or self.next_tasks
        if name in ("np_random", "np_random_seed"):
            return getattr(self, name)
        value = getattr(self, SINGLE.get(name, name))
        if callable(value) and not isinstance(value, spaces.Space):
            self._refuse(name)
        return (value,) * self.num_envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The result of `render`, or an attribute as from `get_attr`: slots have no other methods.

        Raises:
            AttributeError: the attribute does not exist, or is a method of the whole.
        """
        if args or kwargs:
            self._refuse(name)
        return self.render() if name == "render" else self.get_attr(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Gives each slot its `task`, as `set_tasks` does: slots have no other attribute to set.

        Raises:
            AttributeError: `name` is not `task`.
            ValueError: the number of tasks is not that of the slots.
        """
        if name != "task":
            self._refuse(name)
        self.set_tasks(values if isinstance(values, list | tuple) else [values] * self.num_envs)

    def _refuse(self, name: str) -> NoReturn:
        raise AttributeError(
            f"slots have no {name!r} of their own, only 'task': they are parts of one "
            f"{type(self).__name__}. Use the attributes and methods of the whole, env.unwrapped"
        )

    def render(self) -> tuple[UInt8[np.ndarray, "H W 3"], ...]:
        """A picture of each slot.

        Raises:
            ValueError: the environment was not made with a render mode.
        """
        hint = ""
        if self.metadata["render_modes"]:
            hint = "; make the environment with render_mode='rgb_array'"
        raise ValueError(f"nothing is drawn here{hint}")

    def close_extras(self, **kwargs: Any) -> None:
        """Does nothing; takes the arguments that Gymnasium's own environments take."""
        del kwargs


def refuse_to_draw(render_mode: str | None) -> None:
    """Checks that no render mode is given to an engine that cannot draw.

    Raises:
        UserError: a render mode is given.
    """
    if render_mode is not None:
        raise UserError(
            f"render_mode {render_mode!r}: the warp engine draws nothing; use engine 'native'"
        )


def _whole(seed: Any) -> int:
    if isinstance(seed, bool | np.bool_):
        raise TypeError("a seed is a whole number, not a bool")
    if index(seed) < 0:
        raise ValueError(f"a seed must be 0 or more, not {seed}")
    return index(seed)
