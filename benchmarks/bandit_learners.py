"""Classical learners on bandits, the baselines of learned ones.

A learner is a function of tasks, the number of `pulls` and a random stream. It plays all N bandits
side by side and returns every reward, `N K`, so that the results of shorter games can be read off
too. Some learners use the number of pulls and play shorter games differently; see each of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int
from numba import njit

from envs.bandit import Arms, BanditEnv, BanditTask
from metarl.system.seeding import derive_seed


@runtime_checkable
class BanditLearner(Protocol):
    """Learner that plays bandits."""

    def __call__(
        self, tasks: Sequence[BanditTask], *, pulls: int, rng: np.random.Generator
    ) -> Float[np.ndarray, "N K"]:
        """The reward of each pull."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts and sums known about N bandits with A arms before a pull."""

    counts: Float[np.ndarray, "N A"]
    """Pulls of each arm."""
    sums: Float[np.ndarray, "N A"]
    """Sum of the rewards of each arm."""
    pulled: int
    """Pulls so far, over all arms of a bandit."""

    def mean(self, *, prior_mean: float, prior_weight: float) -> Float[np.ndarray, "N A"]:
        """Each arm's mean, as if it had paid `prior_mean` in `prior_weight` earlier pulls."""
        return (self.sums + prior_weight * prior_mean) / (self.counts + prior_weight)


def play(
    tasks: Sequence[BanditTask],
    choose: Callable[[Tally], Int[np.ndarray, " N"]],
    *,
    pulls: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "N K"]:
    """Rewards of the arms that `choose` picks, in the environment that agents play in."""
    env = BanditEnv(tasks)
    env.reset(seed=int(rng.integers(2**63)))
    slots = np.arange(len(tasks))
    counts, sums = (np.zeros((len(tasks), len(tasks[0].arm_means))) for _ in range(2))
    rewards = np.zeros((len(tasks), pulls))
    for pull in range(pulls):
        arm = choose(Tally(counts=counts, sums=sums, pulled=pull))
        rewards[:, pull] = env.step(arm)[1]
        counts[slots, arm] += 1
        sums[slots, arm] += rewards[:, pull]
    return rewards


# -- learners --------------------------------------------------------------------------------------


def random_arms(
    tasks: Sequence[BanditTask], *, pulls: int, rng: np.random.Generator
) -> Float[np.ndarray, "N K"]:
    """Every arm with the same probability at every pull."""

    def choose(seen: Tally) -> Int[np.ndarray, " N"]:
        return rng.integers(seen.counts.shape[1], size=len(seen.counts))

    return play(tasks, choose, pulls=pulls, rng=rng)


def greedy(
    tasks: Sequence[BanditTask],
    *,
    pulls: int,
    rng: np.random.Generator,
    prior_mean: float,
    prior_weight: float,
) -> Float[np.ndarray, "N K"]:
    """Greedy play: the arm with the best mean; it explores only through an optimistic prior.

    Args:
        prior_mean: mean that each arm is assumed to have paid before the first pull.
        prior_weight: number of those assumed pulls; above 0.
    """

    def choose(seen: Tally) -> Int[np.ndarray, " N"]:
        return seen.mean(prior_mean=prior_mean, prior_weight=prior_weight).argmax(axis=1)

    return play(tasks, choose, pulls=pulls, rng=rng)


def ucb1(
    tasks: Sequence[BanditTask],
    *,
    pulls: int,
    rng: np.random.Generator,
    exploration: float = 1.0,
    prior_mean: float = 0.0,
    prior_weight: float = 0.0,
) -> Float[np.ndarray, "N K"]:
    """UCB1: the arm of the largest mean + c √(2 ln t / n), of its n among t pulls.

    Auer, Cesa-Bianchi & Fischer 2002, "Finite-time analysis of the multiarmed bandit problem",
    figure 1, where c is 1 and every arm is pulled once first. That first round would take all pulls
    of a short game, so there may be a prior instead, whose pulls are included in n and t.

    Args:
        exploration: c.
        prior_mean: mean that each arm is assumed to have paid before the first pull.
        prior_weight: number of those assumed pulls; 0 for the published algorithm.
    """

    def choose(seen: Tally) -> Int[np.ndarray, " N"]:
        unknown = seen.counts + prior_weight == 0
        if unknown.any():
            # All bandits have pulled equally many arms so far.
            return unknown.argmax(axis=1)
        mean = seen.mean(prior_mean=prior_mean, prior_weight=prior_weight)
        counts = seen.counts + prior_weight
        bonus = exploration * np.sqrt(2 * np.log(counts.sum(axis=1, keepdims=True)) / counts)
        return (mean + bonus).argmax(axis=1)

    return play(tasks, choose, pulls=pulls, rng=rng)


def thompson_sampling(
    tasks: Sequence[BanditTask], *, pulls: int, rng: np.random.Generator
) -> Float[np.ndarray, "N K"]:
    """Thompson sampling: the best arm of a bandit drawn from the posterior.

    Thompson 1933, "On the likelihood that one unknown probability exceeds another". The prior is
    the one that the bandits are drawn from.

    Raises:
        ValueError: the bandits are informative ones, which are not supported.
    """
    arms = tasks[0].arms
    if arms == "informative":
        raise ValueError("there is no Thompson sampling for informative bandits")

    def choose(seen: Tally) -> Int[np.ndarray, " N"]:
        losses = seen.counts - seen.sums
        if arms == "bernoulli":
            return rng.beta(1 + seen.sums, 1 + losses).argmax(axis=1)
        if arms == "dependent":
            # A loss of one arm says the same about p as a win of the other.
            for_first = seen.sums[:, 0] + losses[:, 1]
            first = rng.beta(1 + for_first, 1 + seen.pulled - for_first)
            return (first < 0.5).astype(np.int64)
        # Prior and noise both have variance 1.
        precision = 1 + seen.counts
        return rng.normal(seen.sums / precision, precision**-0.5).argmax(axis=1)

    return play(tasks, choose, pulls=pulls, rng=rng)


def gittins(
    tasks: Sequence[BanditTask], *, pulls: int, rng: np.random.Generator
) -> Float[np.ndarray, "N K"]:
    """The arm of the largest finite-horizon Gittins index; see `gittins_indices`.

    It knows the number of pulls left and maximises the total reward by the last of them.

    Raises:
        ValueError: the arms are not independent Bernoulli arms.
    """
    if tasks[0].arms != "bernoulli":
        raise ValueError(f"Gittins indices are of Bernoulli arms here, not of {tasks[0].arms} ones")
    table = gittins_indices(pulls)

    def choose(seen: Tally) -> Int[np.ndarray, " N"]:
        counts, wins = seen.counts.astype(np.int64), seen.sums.astype(np.int64)
        left = pulls - seen.pulled
        return table[tetrahedral(counts + left) + triangular(counts) + wins].argmax(axis=1)

    return play(tasks, choose, pulls=pulls, rng=rng)


# -- the Gittins index -----------------------------------------------------------------------------


def gittins_index(*, wins: int, losses: int, left: int, discount: float = 1.0) -> float:
    """The Gittins index of a Bernoulli arm with prior Beta(1, 1), with `left` pulls left.

    With a discount below 1 and many pulls left it is the index of Gittins 1979, "Bandit processes
    and dynamic allocation indices".
    """
    pulled = wins + losses
    return float(_indices(pulled + left, discount, 400)[triangular(pulled) + wins])


@cache
def gittins_indices(pulls: int) -> Float32[np.ndarray, " X"]:
    """Finite-horizon Gittins indices of all states of a Bernoulli arm in a game of `pulls` pulls.

    The index of an arm is the largest ratio of expected reward to expected number of pulls, over
    all stopping rules within the pulls left: the retirement pay per pull at which stopping at once
    is equally good. In an endless game with a discount, always pulling the arm with the largest
    index is optimal (Gittins 1979). In a finite game it is nearly optimal (Lattimore 2016, "Regret
    analysis of the finite-horizon Gittins index strategy for multi-armed bandits",
    arXiv:1511.06014), and on 100 pulls of 5 or 10 arms better than a discounted index that looks
    half, once or twice as far ahead.

    Returns:
        The triangle of states with n pulls so far and `left` pulls left, for n + left = 1, then
        that for n + left = 2, … up to `pulls`; 84 MB for 500 pulls, computed in half a minute.
    """
    return np.concatenate([_indices(total, 1.0, 200) for total in range(1, pulls + 1)])


def triangular(pulled: Any) -> Any:
    """Index of the first state (wins, losses) with `pulled` pulls in a triangle."""
    return pulled * (pulled + 1) // 2


def tetrahedral(total: Any) -> Any:
    """Index of the first state of the triangle of `total`, after those of smaller totals."""
    return (total - 1) * total * (total + 1) // 6


def _indices_of_total(total: int, discount: float, levels: int) -> np.ndarray:
    """Indices of all states (wins, losses) of n pulls with `total - n` left, by n and then by wins.

    Dynamic programming for each of `levels` retirement pays from 0 to 1. Consider the highest pay
    that an arm is still worth more than: the ratio of reward to time of the best stopping rule at
    that pay is the index, up to the square of the distance between pays.
    """
    index = np.empty(total * (total + 1) // 2, np.float32)
    # By n: states with fewer wins are worth no more than an earlier pay, so no more than a higher
    # one.
    fewest_wins = np.zeros(total, np.int64)
    gain, time = np.zeros(total + 1), np.zeros(total + 1)
    for level in range(levels):
        pay = level / levels
        gain[:] = 0.0
        time[:] = 0.0
        for pulled in range(total - 1, -1, -1):
            fewest, first = fewest_wins[pulled], pulled * (pulled + 1) // 2
            for wins in range(fewest, pulled + 1):
                # After one more pull, a win is at wins + 1 and a loss at wins, which is not
                # overwritten yet.
                p = (wins + 1) / (pulled + 2)
                gained = p - pay + discount * (p * gain[wins + 1] + (1 - p) * gain[wins])
                spent = 1 + discount * (p * time[wins + 1] + (1 - p) * time[wins])
                gain[wins] = gained if gained > 0 else 0.0
                time[wins] = spent if gained > 0 else 0.0
            while fewest <= pulled and gain[fewest] == 0:
                fewest += 1
            fewest_wins[pulled] = fewest
            for wins in range(fewest, pulled + 1):
                index[first + wins] = pay + gain[wins] / time[wins]
    return index


# Unwrapped, as numba cannot compile the shape checks that tests wrap functions in.
_indices = njit(error_model="numpy")(inspect.unwrap(_indices_of_total))


# -- tuning ----------------------------------------------------------------------------------------

EXPLORATION = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Values of c tried when tuning UCB1."""
HOPES: dict[Arms, tuple[float, ...]] = {
    "bernoulli": (0.5, 0.7, 0.8, 0.9, 0.99),
    "gaussian": (0.0, 0.5, 1.0, 2.0, 4.0),
    "dependent": (0.5, 0.7, 0.8, 0.9, 0.99),
    "informative": (1.0, 2.0, 5.0, 10.0),
}
"""Prior means tried when tuning greedy play; UCB1 uses the first."""


def classical_learners(
    training_tasks: Sequence[BanditTask], *, pulls: int, seed: int
) -> dict[str, partial[Float[np.ndarray, "N K"]]]:
    """The learners for such bandits; their `keywords` are the tuned constants.

    Greedy play and UCB1 get the constants with the largest total reward in `pulls` pulls on the
    training tasks. The others have no constants.
    """
    arms = training_tasks[0].arms
    hopes = HOPES[arms]
    grids: dict[str, list[partial[Float[np.ndarray, "N K"]]]] = {
        "greedy": [
            partial(greedy, prior_mean=mean, prior_weight=weight)
            for mean, weight in product(hopes, (0.5, 1.0, 2.0, 4.0))
        ],
        "UCB1": [
            partial(ucb1, exploration=c, prior_mean=hopes[0], prior_weight=weight)
            for c, weight in product(EXPLORATION, (0.0, 1.0, 2.0))
        ],
    }

    def earned(learner: BanditLearner) -> float:
        rng = np.random.default_rng(derive_seed(seed, "tuning"))  # the same random numbers for all
        return float(learner(training_tasks, pulls=pulls, rng=rng).sum(axis=1).mean())

    learners = {"random": partial(random_arms)}
    learners |= {name: max(grid, key=earned) for name, grid in grids.items()}
    if arms != "informative":
        learners["Thompson sampling"] = partial(thompson_sampling)
    if arms == "bernoulli":
        learners["Gittins index"] = partial(gittins)
    return learners
