"""The published locomotion tasks: what is wanted of which robot, for how long, at what cost.

Results on variants of one name are not comparable: range, horizon and costs differ. So each is
named after where it comes from.

MAML    Finn et al. 2017, arXiv:1703.03400; in the numbers of pytorch-maml-rl.
PEARL   Rakelly et al. 2019, arXiv:1903.08254.
ProMP   Rothfuss et al. 2019, arXiv:1810.06784; its code rewards the distance to the wanted speed of
        the Swimmer, which is taken for a slip of the sign.
VariBAD Zintgraf et al. 2020, arXiv:1910.08348.
AMAGO   Grigsby et al. 2024, arXiv:2310.09971.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from envs.locomotion.robots import PARAMETERS, body

Parameters = Float[np.ndarray, " P"]
Draws = Float[np.ndarray, "n P"]


@dataclass(frozen=True, eq=False)
class LocomotionTask:
    """A robot and what is wanted of it."""

    env_name: str
    """The variant, such as `HalfCheetah-vel-maml`."""
    parameters: Parameters
    """What tells the tasks of a variant apart: a direction, a speed, a place, or multipliers."""

    @property
    def goal(self) -> Parameters | None:
        """Where to, or how fast; None where bodies differ and not goals."""
        wanted = VARIANTS[self.env_name].wanted
        return None if isinstance(wanted, ForwardInAnyBody) else self.parameters


class Term(IntEnum):
    """What is rewarded, of a robot at (x, y) with velocity v, both in the plane."""

    RUN = 0
    """v · target."""
    SPEED = 1
    """−|v_x − target_x|."""
    PLACE = 2
    """−(|x − target_x| + |y − target_y|)."""


class Wanted(Protocol):
    """What the tasks of a variant differ in."""

    @property
    def summary(self) -> str:
        """What that is, in a few words."""
        ...

    @property
    def term(self) -> Term:
        """What is rewarded."""
        ...

    @property
    def tolerance(self) -> float:
        """How near is a success: of SPEED in m/s, of PLACE in m. Of RUN, any way in the right
        direction is one."""
        ...

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Parameters of tasks; but for multipliers they are the target."""
        ...

    def best_blind_term(self, tasks: Draws) -> float | None:
        """What no policy that cannot tell the tasks apart exceeds, in the mean over tasks, at any
        step; None where no such bound is known."""
        ...


@dataclass(frozen=True)
class TwoDirections:
    """To run forward or backward: two tasks, to learn on and to be judged on."""

    summary = "forward or backward"
    term = Term.RUN
    tolerance = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Backward and forward, whatever the count."""
        del count, rng
        return np.array([[-1.0, 0.0], [1.0, 0.0]])

    def best_blind_term(self, tasks: Draws) -> float | None:
        """What is gained in one direction is lost in the other."""
        return None if tasks.sum(0).any() else 0.0


@dataclass(frozen=True)
class AnyDirection:
    """To run in a direction of the plane."""

    summary = "any direction"
    term = Term.RUN
    tolerance = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Uniform directions."""
        return _directions(count, rng)

    def best_blind_term(self, tasks: Draws) -> float | None:
        """Unknown: the mean of finitely many directions is a direction too."""
        del tasks
        return None


@dataclass(frozen=True)
class Speed:
    """To run forward at a speed, in m/s; a tenth of the range is near enough to be a success."""

    low: float
    high: float
    term = Term.SPEED

    @property
    def summary(self) -> str:
        """The range."""
        return f"speed in [{self.low:g}, {self.high:g}] m/s"

    @property
    def tolerance(self) -> float:
        """In m/s."""
        return (self.high - self.low) / 10

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Uniform speeds."""
        return rng.uniform(self.low, self.high, (count, 1))

    def best_blind_term(self, tasks: Draws) -> float | None:
        """That of the median speed."""
        return -float(np.abs(tasks - np.median(tasks)).mean())


@dataclass(frozen=True)
class Place:
    """To go to a place in a disc around the start, in m."""

    radius: float
    summary = "place around the start"
    term = Term.PLACE
    tolerance = 0.5

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Uniform places."""
        directions = _directions(count, rng)
        return self.radius * rng.random((count, 1)) ** 0.5 * directions

    def best_blind_term(self, tasks: Draws) -> float | None:
        """That of the median place."""
        return -float(np.abs(tasks - np.median(tasks, axis=0)).sum(1).mean())


@dataclass(frozen=True)
class ForwardInAnyBody:
    """To run forward, with masses, inertias, damping and friction that are all multiplied by
    numbers of their own: b^u with u uniform in ±3 and b = 1.5, of damping 1.3."""

    robot: str
    summary = "forward, in a body of its own"
    term = Term.RUN
    tolerance = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Multipliers, array after array."""
        model = body(self.robot).scene.model
        return np.concatenate(
            [
                (1.3 if name == "dof_damping" else 1.5)
                ** rng.uniform(-3, 3, (count, getattr(model, name).size))
                for name in PARAMETERS
            ],
            axis=1,
        )

    def multipliers(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """Those of each array, in its shape."""
        model = body(self.robot).scene.model
        shapes = [getattr(model, name).shape for name in PARAMETERS]
        parts = np.split(parameters, np.cumsum([np.prod(shape) for shape in shapes])[:-1])
        return {n: p.reshape(s) for n, p, s in zip(PARAMETERS, parts, shapes, strict=True)}

    def best_blind_term(self, tasks: Draws) -> float | None:
        """Unknown."""
        del tasks
        return None


def _directions(count: int, rng: np.random.Generator) -> Draws:
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


class Reward(NamedTuple):
    """What a step is worth: weight · term − control · |action|² − contact · |forces|² + alive."""

    weight: float = 1.0
    control: float = 0.0
    contact: float = 0.0
    """Forces are clipped to ±1 where they are observed so; the cost is 10 at most."""
    alive: float = 0.0
    falls_end: bool = False
    """Whether an episode rests, without reward, from a fall to its horizon."""


class Variant(NamedTuple):
    """Tasks that results may be compared on."""

    robot: str
    wanted: Wanted
    horizon: int
    reward: Reward
    num_train: int
    num_test: int
    source: str
    """Whose definition it is."""


_AFRESH = {"num_train": 10_000, "num_test": 100}  # published runs draw tasks anew all the time
_CHEETAH = Reward(control=0.05)
_ANT = Reward(control=0.5, contact=5e-4, alive=1.0, falls_end=True)
_PARAMS = Reward(control=1e-3, alive=1.0, falls_end=True)
VARIANTS = {
    "HalfCheetah-dir-maml": Variant(
        "HalfCheetah", TwoDirections(), 100, _CHEETAH, 2, 2, "MAML"
    ),
    "HalfCheetah-dir-varibad": Variant(
        "HalfCheetah", TwoDirections(), 200, _CHEETAH, 2, 2, "VariBAD"
    ),
    "HalfCheetah-vel-maml": Variant(
        "HalfCheetah", Speed(0.0, 2.0), 100, _CHEETAH, **_AFRESH, source="MAML"
    ),
    "HalfCheetah-vel-varibad": Variant(
        "HalfCheetah", Speed(0.0, 3.0), 200, _CHEETAH, **_AFRESH, source="VariBAD"
    ),
    "HalfCheetah-vel-pearl": Variant(
        "HalfCheetah", Speed(0.0, 3.0), 200, _CHEETAH, 100, 30, "PEARL"
    ),
    "HalfCheetah-vel-amago": Variant(
        "HalfCheetah", Speed(0.0, 3.0), 1000, _CHEETAH, **_AFRESH,
        source="AMAGO",
    ),
    "Ant-dir-maml": Variant(
        "Ant", TwoDirections(), 200,
        Reward(control=5e-3, contact=5e-4, alive=0.05, falls_end=True), 2, 2, "MAML",
    ),
    "Ant-dir-pearl": Variant("Ant", TwoDirections(), 200, _ANT, 2, 2, "PEARL"),
    "Ant-dir2d-pearl": Variant(
        "Ant", AnyDirection(), 200, _ANT, **_AFRESH, source="PEARL"
    ),
    "Ant-goal-pearl": Variant(
        "Ant with position", Place(3.0), 200, Reward(control=0.1, contact=5e-4), 150, 30, "PEARL"
    ),
    "Humanoid-dir-pearl": Variant(
        "Humanoid", AnyDirection(), 200,
        Reward(weight=1.25, control=0.1, contact=5e-7, alive=5.0, falls_end=True), 100, 30, "PEARL",
    ),
    "Walker2d-params-pearl": Variant(
        "Walker2d", ForwardInAnyBody("Walker2d"), 200, _PARAMS, 40, 10, "PEARL"
    ),
    "Hopper-params-pearl": Variant(
        "Hopper", ForwardInAnyBody("Hopper"), 200, _PARAMS, 40, 10, "PEARL"
    ),
    "Swimmer-vel-promp": Variant(
        "Swimmer", Speed(0.1, 0.2), 200, Reward(control=1e-4), **_AFRESH,
        source="ProMP",
    ),
}  # fmt: skip


def target(task: LocomotionTask) -> tuple[float, float]:
    """What the rewarded term means for a task: where to, how fast, or forward."""
    if isinstance(VARIANTS[task.env_name].wanted, ForwardInAnyBody):
        return 1.0, 0.0
    x, y = (*task.parameters.tolist(), 0.0)[:2]
    return x, y


def multipliers(task: LocomotionTask) -> dict[str, np.ndarray]:
    """What a task multiplies the robot's parameters by."""
    wanted = VARIANTS[task.env_name].wanted
    return wanted.multipliers(task.parameters) if isinstance(wanted, ForwardInAnyBody) else {}
