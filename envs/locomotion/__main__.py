"""Printed table of the locomotion variants and of bounds on their returns.

python -m envs.locomotion
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from envs.locomotion.distributions import Locomotion, LocomotionConfig
from envs.locomotion.robots import body
from envs.locomotion.variants import VARIANTS, Reward, Term, Variant
from metarl.errors import UserError
from metarl.system.command_line import one_line_errors

TITLES = (
    "variant", "tasks", "steps", "train / test", "reward of a step",
    "random", "without adapting ≤", "any ≤",
)  # fmt: skip
EPISODES = 200
"""Number of episodes of random actions."""


def reward(variant: Variant) -> str:
    """A variant's reward as a formula."""
    terms = {Term.RUN: "v·d", Term.SPEED: "−abs(v − d)", Term.PLACE: "−‖p − d‖₁"}
    values: Reward = variant.reward
    parts = [f"{values.weight:g} {terms[variant.wanted.term]}".removeprefix("1 ")]
    parts.append(f"− {values.control:g} ‖a‖²")
    if values.contact:
        parts.append(f"− {values.contact:g} ‖f‖²")
    if values.alive:
        parts.append(f"+ {values.alive:g}")
    return " ".join(parts) + (", until a fall" if values.falls_end else "")


def row(name: str) -> list[str]:
    """Cells of a variant's row that need no rollouts."""
    variant = VARIANTS[name]
    distribution = LocomotionConfig(variant=name).build()
    bounds = (distribution.best_without_adapting(), distribution.oracle())
    return [
        f"`{name}`",
        variant.wanted.summary,
        str(variant.horizon),
        f"{variant.num_train:,} / {variant.num_test}" if variant.num_train > 2 else "the same 2",
        reward(variant),
        *("–" if bound is None else f"{bound:.0f}" for bound in bounds),
    ]


def random_floor(distribution: Locomotion) -> tuple[float, float]:
    """Mean return of uniform random actions on held-out tasks, with its standard error."""
    env = distribution.make_env(EPISODES)
    env.set_tasks(distribution.test.sample(EPISODES, np.random.default_rng(0)))
    env.reset(seed=0)
    rng, space = np.random.default_rng(0), body(distribution.variant.robot).action_space
    returns = np.zeros(EPISODES)
    for _ in range(distribution.horizon):
        actions = rng.uniform(space.low, space.high, (EPISODES, *space.shape)).astype(np.float32)
        returns += env.step(actions)[1]
    env.close()
    return float(returns.mean()), float(returns.std() / EPISODES**0.5)


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    if arguments:
        raise UserError(f"{arguments[0]!r} is one argument too many; the table takes none")
    print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}")
    for each in VARIANTS:
        mean, error = random_floor(LocomotionConfig(variant=each).build())
        *known, blind, best = row(each)
        print(f"| {' | '.join([*known, f'{mean:.0f} ± {error:.0f}', blind, best])} |")


if __name__ == "__main__":
    with one_line_errors("envs.locomotion"):
        main(sys.argv[1:])
