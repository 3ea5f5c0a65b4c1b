"""The interface of an agent: observations and actions of its training, and checks against others.

It is stored with a run, so that an environment outside the bounds of training is noticed, although
the environment, or the module that defines it, may have changed since.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, Field

from metarl.errors import UserError, printable
from metarl.protocols import TaskVectorEnv
from metarl.system.files import read_json, written_whole

FILE = "interface.json"
"""Name of the file in a run's folder."""

WhoseBounds = Literal["trained", "environment"]
"""Action bounds to use where training and environment differ: `trained` restricts actions to those
that both allow, `environment` allows all actions of the environment."""


class Interface(BaseModel):
    """Sizes and bounds of the observations and actions that an agent and its environments share."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    observations: int = Field(ge=0)
    """Numbers in an observation (O)."""
    choices: int | None = Field(ge=1)
    """Number of discrete actions; None where actions are continuous."""
    low: list[float]
    """Lower bound of each dimension of a continuous action; empty where actions are discrete."""
    high: list[float]
    """Upper bound of each dimension of a continuous action; empty where actions are discrete."""
    horizon: int = Field(ge=1)
    """Steps of an episode."""

    @staticmethod
    def of(env: TaskVectorEnv) -> Interface:
        """The interface of an environment."""
        return Interface.between(
            env.single_observation_space, env.single_action_space, horizon=env.horizon
        )

    @staticmethod
    def between(
        observation: spaces.Box, action: spaces.Box | spaces.Discrete, *, horizon: int
    ) -> Interface:
        """The interface with these spaces."""
        discrete = isinstance(action, spaces.Discrete)
        return Interface(
            observations=int(observation.shape[0]),
            choices=int(action.n) if discrete else None,
            low=[] if discrete else action.low.astype(float).tolist(),
            high=[] if discrete else action.high.astype(float).tolist(),
            horizon=horizon,
        )

    @staticmethod
    def read(folder: Path) -> Interface | None:
        """The interface stored in a run's folder; None if none was stored.

        Raises:
            UserError: the file is damaged.
        """
        try:
            interface = read_json(folder / FILE, Interface)
        except FileNotFoundError:
            return None
        if len(interface.low) != len(interface.high) or bool(interface.low) == bool(
            interface.choices
        ):
            raise UserError(f"cannot read {folder / FILE}: its action bounds are inconsistent")
        return interface

    def check(self, folder: Path) -> None:
        """Checks that a run that is resumed was started with this interface.

        Raises:
            UserError: it was started with another interface.
        """
        begun = Interface.read(folder)
        if begun is not None and not (
            begun._action_kind == self._action_kind and begun._as_bounded(self)
        ):
            raise UserError(
                f"{folder} was started with actions {begun._action_kind} within {begun._bounds}; "
                f"now they are {self._action_kind} within {self._bounds}; undo the change, or "
                "start a new run"
            )

    def keep(self, folder: Path) -> None:
        """Stores the interface in the folder of a run that has none yet."""
        if not (folder / FILE).exists():
            with written_whole(folder / FILE) as partial:
                partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def allowed(
        self,
        observation: spaces.Box,
        action: spaces.Box | spaces.Discrete,
        *,
        bounds: WhoseBounds | None = None,
        advice: str,
    ) -> spaces.Box | spaces.Discrete:
        """The actions that an agent trained with this interface may take in these spaces.

        Args:
            observation: observation space of the environment.
            action: action space of the environment.
            bounds: bounds to use where they differ; if not given, differing bounds are an error.
            advice: remedy to name in that error.

        Raises:
            UserError: the spaces do not fit; names those of training and those of the environment.
        """
        here = Interface.between(observation, action, horizon=self.horizon)
        for what, trained, found in (
            ("observations", _numbers(self.observations), _numbers(here.observations)),
            ("actions", self._action_kind, here._action_kind),
        ):
            if trained != found:
                raise UserError(
                    f"the environment does not fit the run: its {what} are {found}, those that "
                    f"the agent was trained on are {trained}"
                )
        if bounds == "environment" or isinstance(action, spaces.Discrete) or self._as_bounded(here):
            return action
        if bounds is None:
            raise UserError(
                f"the environment does not fit the run: its actions are within {here._bounds}, the "
                f"agent was trained within {self._bounds}; {advice}"
            )
        low = np.maximum(action.low, np.array(self.low, action.dtype))
        high = np.minimum(action.high, np.array(self.high, action.dtype))
        if (low > high).any():
            raise UserError(
                f"the environment takes actions within {here._bounds} and the agent was trained "
                f"within {self._bounds}: no action is within both"
            )
        return spaces.Box(low, high, dtype=action.dtype.type)

    @property
    def _action_kind(self) -> str:
        return f"{self.choices} choices" if self.choices is not None else _numbers(len(self.low))

    @property
    def _bounds(self) -> str:
        """The bounds in words; once if all dimensions have the same."""
        if self.choices is not None:
            return f"0 to {self.choices - 1}"
        each = [f"[{low:g}, {high:g}]" for low, high in zip(self.low, self.high, strict=True)]
        return each[0] if len(set(each)) == 1 else printable(" × ".join(each), limit=200)

    def _as_bounded(self, other: Interface) -> bool:
        """True if the bounds are equal within single precision."""
        return all(
            np.allclose(mine, theirs, rtol=1e-6, atol=0)
            for mine, theirs in ((self.low, other.low), (self.high, other.high))
        )


def _numbers(size: int) -> str:
    return f"of shape ({size},)"
