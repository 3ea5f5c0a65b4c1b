"""Published locomotion tasks: robot, target, horizon and costs.

Papers use one name for tasks with different ranges, horizons and costs, whose results cannot be
compared. So each variant here is named after its source.

MAML    Finn et al. 2017, arXiv:1703.03400; with the numbers of pytorch-maml-rl.
PEARL   Rakelly et al. 2019, arXiv:1903.08254.
ProMP   Rothfuss et al. 2019, arXiv:1810.06784; for the Swimmer its code rewards the distance to the
        target speed, which is taken for a sign error.
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
    """A variant and the parameters of one of its tasks."""

    env_name: str
    """Name of the variant, such as `HalfCheetah-vel-maml`."""
    parameters: Parameters
    """Direction (unit vector), speed (m/s), place (m), or multipliers of body parameters."""

    @property
    def goal(self) -> Parameters | None:
        """Direction, speed or place; None if bodies differ instead of goals."""
        wanted = VARIANTS[self.env_name].wanted
        return None if isinstance(wanted, ForwardInAnyBody) else self.parameters


class Term(IntEnum):
    """Rewarded term, for a robot at (x, y) with velocity v in the plane."""

    RUN = 0
    """v · target."""
    SPEED = 1
    """−|v_x − target_x|."""
    PLACE = 2
    """−(|x − target_x| + |y − target_y|)."""


class Wanted(Protocol):
    """Target of a variant's tasks: the quantity in which they differ."""

    @property
    def summary(self) -> str:
        """Short description."""
        ...

    @property
    def term(self) -> Term:
        """Rewarded term."""
        ...

    @property
    def tolerance(self) -> float:
        """Largest error that is a success: of SPEED in m/s, of PLACE in m. For RUN, any velocity in
        the right direction is a success."""
        ...

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Draws the parameters of tasks; except for multipliers they are the target."""
        ...

    def best_blind_term(self, tasks: Draws) -> float | None:
        """Upper bound, at any step, on the mean term over tasks of policies that cannot tell the
        tasks apart; None if no bound is known."""
        ...


@dataclass(frozen=True)
class TwoDirections:
    """Running forward or backward: two tasks, the same for training and evaluation."""

    summary = "forward or backward"
    term = Term.RUN
    tolerance = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Returns backward and forward, for any `count`."""
        del count, rng
        return np.array([[-1.0, 0.0], [1.0, 0.0]])

    def best_blind_term(self, tasks: Draws) -> float | None:
        """0, because a gain in one direction is a loss in the other."""
        return None if tasks.sum(0).any() else 0.0


@dataclass(frozen=True)
class AnyDirection:
    """Running in a direction of the plane."""

    summary = "any direction"
    term = Term.RUN
    tolerance = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Draws directions uniformly."""
        return _directions(count, rng)

    def best_blind_term(self, tasks: Draws) -> float | None:
        """None: the mean of finitely many directions is a direction too."""
        del tasks
        return None


@dataclass(frozen=True)
class Speed:
    """Running forward at a speed (m/s); an error of a tenth of the range is still a success."""

    low: float
    high: float
    term = Term.SPEED

    @property
    def summary(self) -> str:
        """Range of speeds."""
        return f"speed in [{self.low:g}, {self.high:g}] m/s"

    @property
    def tolerance(self) -> float:
        """Largest error that is a success (m/s)."""
        return (self.high - self.low) / 10

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Draws speeds uniformly."""
        return rng.uniform(self.low, self.high, (count, 1))

    def best_blind_term(self, tasks: Draws) -> float | None:
        """Mean term of running at the tasks' median speed."""
        return -float(np.abs(tasks - np.median(tasks)).mean())


@dataclass(frozen=True)
class Place:
    """Moving to a place in a disc around the start (m)."""

    radius: float
    summary = "place around the start"
    term = Term.PLACE
    tolerance = 0.5

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Draws places uniformly in the disc."""
        directions = _directions(count, rng)
        return self.radius * rng.random((count, 1)) ** 0.5 * directions

    def best_blind_term(self, tasks: Draws) -> float | None:
        """Mean term of staying at the tasks' median place."""
        return -float(np.abs(tasks - np.median(tasks, axis=0)).sum(1).mean())


@dataclass(frozen=True)
class ForwardInAnyBody:
    """Running forward in a randomised body: every mass, inertia, damping and friction is multiplied
    by its own b^u, with u uniform in ±3, and b = 1.3 for damping and 1.5 for the rest."""

    robot: str
    summary = "forward, in a body of its own"
    term = Term.RUN
    tolerance = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Draws multipliers, flattened and concatenated in the order of `PARAMETERS`."""
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
        """Multipliers of each array, in its shape."""
        model = body(self.robot).scene.model
        shapes = [getattr(model, name).shape for name in PARAMETERS]
        parts = np.split(parameters, np.cumsum([np.prod(shape) for shape in shapes])[:-1])
        return {n: p.reshape(s) for n, p, s in zip(PARAMETERS, parts, shapes, strict=True)}

    def best_blind_term(self, tasks: Draws) -> float | None:
        """None: no bound is known."""
        del tasks
        return None


def _directions(count: int, rng: np.random.Generator) -> Draws:
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


class Reward(NamedTuple):
    """Reward of a step: weight · term − control · |action|² − contact · |forces|² + alive."""

    weight: float = 1.0
    control: float = 0.0
    contact: float = 0.0
    """Weight of contact forces, which are clipped to ±1 if the observation clips them; the cost is
    at most 10."""
    alive: float = 0.0
    falls_end: bool = False
    """True if the robot rests, with reward 0, from a fall to the horizon."""


class Variant(NamedTuple):
    """A set of tasks on which results are comparable."""

    robot: str
    wanted: Wanted
    horizon: int
    reward: Reward
    num_train: int
    num_test: int
    source: str
    """Paper that defines it."""


_AFRESH = {"num_train": 10_000, "num_test": 100}  # published runs draw new tasks in every iteration
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
    """Target (x, y) of the rewarded term: a direction, a speed along x (m/s), or a place (m)."""
    if isinstance(VARIANTS[task.env_name].wanted, ForwardInAnyBody):
        return 1.0, 0.0
    x, y = (*task.parameters.tolist(), 0.0)[:2]
    return x, y


def multipliers(task: LocomotionTask) -> dict[str, np.ndarray]:
    """Multipliers of the robot's parameters in a task."""
    wanted = VARIANTS[task.env_name].wanted
    return wanted.multipliers(task.parameters) if isinstance(wanted, ForwardInAnyBody) else {}
