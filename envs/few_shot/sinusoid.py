"""Regression of sinusoids from a few points.

Finn et al. 2017, arXiv:1703.03400, section 5.1: y = a sin(x − φ) with an amplitude a in [0.1, 5], a
phase φ in [0, π] and x in [−5, 5]. The harder variant also draws a frequency ω in [0.5, 2]:
y = a sin(ω x − φ), with φ in [0, 2π].
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float

from metarl.config import Config, Seed, Size
from metarl.system.memory import check_memory
from metarl.types import FewShotBatch, FewShotShape

HALF_RANGE = 5.0
"""Half the range of x, which is uniform in [−HALF_RANGE, HALF_RANGE]."""
RANGES = {
    "maml": ((0.1, 5.0), (0.0, math.pi), (1.0, 1.0)),
    "harder": ((0.1, 5.0), (0.0, 2 * math.pi), (0.5, 2.0)),
}
"""Ranges of amplitude, phase (rad) and frequency (rad per unit of x), by variant."""


class SinusoidConfig(Config):
    """Few-shot regression of sinusoids."""

    kind: Literal["sinusoid"] = "sinusoid"
    variant: Literal["maml", "harder"] = "maml"
    """Parameters that differ between tasks."""
    shots: Size = 10
    """Support points per task."""
    queries: Size = 10
    """Query points per training task."""
    test_queries: Size = 100
    """Query points per held-out task."""
    num_train_tasks: Size = 100_000
    """Number of training sinusoids."""
    num_test_tasks: Size = 1_000
    """Number of held-out sinusoids."""
    seed: Seed = 0
    """Seed of the sinusoids."""

    choices: ClassVar[Mapping[str, str]] = {
        "variant=maml": "amplitude and phase",
        "variant=harder": "amplitude, phase and frequency",
    }

    def as_judged(self) -> SinusoidConfig:
        """The config for evaluation, which is the same."""
        return self

    def build(self) -> Sinusoids:
        """The distribution."""
        return Sinusoids(self)


class Sinusoids:
    """The distribution over sinusoids."""

    def __init__(self, config: SinusoidConfig) -> None:
        what = {"maml": "sinusoids", "harder": "sinusoids of several frequencies"}[config.variant]
        self.name = f"{config.shots}-shot regression of {what}"
        self.shape = FewShotShape(input_shape=(1,), num_outputs=1, classification=False)
        self.shots = config.shots
        rng = np.random.default_rng(config.seed)
        total = config.num_train_tasks + config.num_test_tasks
        low, high = np.array(RANGES[config.variant]).T
        parameters = rng.uniform(low, high, (total, 3))
        train, test = np.split(parameters, [config.num_train_tasks])
        self.train = SinusoidSampler(train, shots=config.shots, queries=config.queries)
        self.test = SinusoidSampler(test, shots=config.shots, queries=config.test_queries)


class SinusoidSampler:
    """One split: draws sinusoids, and points on them."""

    def __init__(self, parameters: Float[np.ndarray, "M 3"], *, shots: int, queries: int) -> None:
        self.parameters = parameters
        self.shots = shots
        self.queries = queries
        self.content_hash = hashlib.sha256(parameters.astype("<f8").tobytes()).hexdigest()

    def sample(
        self, num_tasks: int, rng: np.random.Generator, *, shots: int | None = None
    ) -> FewShotBatch:
        """Draws sinusoids, without repetition if there are enough, and points on them."""
        shots = shots or self.shots
        check_memory(
            8 * num_tasks * (shots + self.queries), f"{shots:,} shots of {num_tasks:,} tasks"
        )
        repeated = num_tasks > len(self.parameters)
        chosen = self.parameters[rng.choice(len(self.parameters), num_tasks, replace=repeated)]
        amplitude, phase, frequency = chosen.T[:, :, None, None]
        x = rng.uniform(-HALF_RANGE, HALF_RANGE, (num_tasks, shots + self.queries, 1))
        y = amplitude * np.sin(frequency * x - phase)
        x_tensor, y_tensor = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        return FewShotBatch(
            support_x=x_tensor[:, :shots],
            support_y=y_tensor[:, :shots],
            query_x=x_tensor[:, shots:],
            query_y=y_tensor[:, shots:],
        )
