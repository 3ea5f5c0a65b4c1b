"""Classical learners on bandits against published numbers and bounds."""

from functools import cache

import numpy as np
import pytest

from benchmarks.bandit_learners import (
    classical_learners,
    gittins,
    gittins_index,
    gittins_indices,
    greedy,
    random_arms,
    tetrahedral,
    thompson_sampling,
    triangular,
    ucb1,
)
from envs.bandit import BanditConfig, BanditTask


def bernoulli_tasks(num_tasks: int, num_arms: int, *, seed: int = 1) -> list[BanditTask]:
    config = BanditConfig(num_arms=num_arms, num_train_tasks=num_tasks, num_test_tasks=1, seed=seed)
    return list(config.build().train)


def within(rewards: np.ndarray, value: float, *, sd: float = 4, other: float = 0.0) -> bool:
    """True if the mean total is within `sd` standard errors of a value with standard error
    `other`."""
    totals = rewards.sum(axis=1)
    return abs(totals.mean() - value) < sd * np.hypot(totals.std() / np.sqrt(len(totals)), other)


# Duan et al. 2016, table 1, 5 arms: mean total reward as rounded there, on their own bandits.
# Their number is not given; the standard errors of 1,000 are .07 for 10 pulls and .5 for 100.
PUBLISHED = {
    (10, "random"): 5.0, (10, "Gittins index"): 6.6, (10, "Thompson sampling"): 5.7,
    (10, "UCB1"): 6.7, (10, "greedy"): 6.6,
    (100, "random"): 49.9, (100, "Gittins index"): 78.3, (100, "Thompson sampling"): 74.7,
    (100, "UCB1"): 78.0,
}  # fmt: skip


@pytest.mark.parametrize("pulls", [10, 100])
def test_learners_collect_what_is_published(pulls: int) -> None:
    learners = classical_learners(bernoulli_tasks(100, 5), pulls=pulls, seed=0)
    tasks = bernoulli_tasks(1500, 5, seed=2)
    for name, learner in learners.items():
        rewards = learner(tasks, pulls=pulls, rng=np.random.default_rng(0))
        assert rewards.shape == (1500, pulls)
        if (pulls, name) in PUBLISHED:
            other = 0.07 if pulls == 10 else 0.5
            assert within(rewards, PUBLISHED[pulls, name], sd=3, other=other), name
        else:
            # Their greedy play gets 74.8 in 100 pulls, as its prior was not tuned as ours is.
            assert name == "greedy" and rewards.sum(axis=1).mean() > 74.8


def test_learners_of_500_pulls_collect_what_is_published() -> None:
    """Without Gittins indices, which take half a minute; benchmarks/classical.py computes them."""
    tasks = bernoulli_tasks(500, 5, seed=2)
    rng = np.random.default_rng(0)
    # Duan et al. 2016, table 1: 402.0 and 405.8, of standard error about 2.2 for 1,000 bandits.
    assert within(thompson_sampling(tasks, pulls=500, rng=rng), 402.0, sd=3, other=2.2)
    tuned = ucb1(tasks, pulls=500, rng=rng, exploration=0.2, prior_mean=0.5, prior_weight=2.0)
    assert within(tuned, 405.8, sd=3, other=2.2)


def test_gittins_indices_are_the_published_ones() -> None:
    """Gittins, Glazebrook & Weber 2011, "Multi-armed bandit allocation indices", tables of the
    Bernoulli reward process with prior Beta(1, 1)."""
    published = {0.9: 0.7029, 0.99: 0.8699}
    for discount, value in published.items():
        # The weight of the end, .9 ** 200 or .99 ** 900, is negligible.
        left = 200 if discount == 0.9 else 900
        index = gittins_index(wins=0, losses=0, left=left, discount=discount)
        assert index == pytest.approx(value, abs=1e-4)


def best_ratio(wins: int, losses: int, left: int) -> float:
    """Index of an arm with at most two more pulls, with all stopping rules written out."""
    p, after_win = (wins + 1) / (wins + losses + 2), (wins + 2) / (wins + losses + 3)
    if left == 1:
        return p
    after_loss = (wins + 1) / (wins + losses + 3)
    stop_unless_won = (p + p * after_win) / (1 + p)
    never_stop = (p + p * after_win + (1 - p) * after_loss) / 2
    return max(p, stop_unless_won, never_stop)


def test_gittins_indices_by_hand() -> None:
    # (1/2 + 1/2 · 2/3) / (1 + 1/2): one pull, and one more if it won
    assert best_ratio(0, 0, 2) == pytest.approx(5 / 9)
    table = gittins_indices(9)
    for pulled in range(8):
        for wins in range(pulled + 1):
            for left in (1, 2):
                expected = best_ratio(wins, pulled - wins, left)
                assert gittins_index(wins=wins, losses=pulled - wins, left=left) == pytest.approx(
                    expected, abs=1e-6
                )
                place = tetrahedral(pulled + left) + triangular(pulled) + wins
                assert table[place] == pytest.approx(expected, abs=1e-6)
    assert len(table) == tetrahedral(10)


def optimal_value(num_arms: int, pulls: int) -> float:
    """Expected total of Bayes-optimal play on Bernoulli arms, by enumeration of all outcomes."""

    @cache
    def value(known: tuple[tuple[int, int], ...], left: int) -> float:
        if left == 0:
            return 0.0
        best = 0.0
        for arm, (wins, losses) in enumerate(known):
            p = (wins + 1) / (wins + losses + 2)

            def after(wins: int, losses: int, arm: int = arm) -> float:
                rest = (*known[:arm], (wins, losses), *known[arm + 1 :])
                return value(tuple(sorted(rest)), left - 1)  # the order of arms does not matter

            best = max(best, p * (1 + after(wins + 1, losses)) + (1 - p) * after(wins, losses + 1))
        return best

    return value(((0, 0),) * num_arms, pulls)


def test_the_optimal_value_by_hand() -> None:
    # After a win the same arm pays 2/3, after a loss the other pays 1/2: 1/2 + 1/2 (2/3 + 1/2).
    assert optimal_value(2, 2) == pytest.approx(13 / 12)


@pytest.mark.parametrize(("num_arms", "pulls"), [(2, 12), (3, 6)])
def test_no_learner_beats_the_optimum_and_gittins_indices_reach_it(
    num_arms: int, pulls: int
) -> None:
    optimum = optimal_value(num_arms, pulls)
    learners = classical_learners(bernoulli_tasks(100, num_arms), pulls=pulls, seed=0)
    tasks = bernoulli_tasks(3000, num_arms, seed=2)
    # These bandits pay more than others by chance; subtracting that, as far as totals depend on it,
    # reduces noise and makes the bound sharper.
    luck = np.mean([task.arm_means for task in tasks], axis=1) - 0.5
    for name, learner in learners.items():
        totals = learner(tasks, pulls=pulls, rng=np.random.default_rng(0)).sum(axis=1)
        totals = totals - np.polyfit(luck, totals, 1)[0] * luck
        error = totals.std() / np.sqrt(len(tasks))
        assert totals.mean() < optimum + 3 * error, name
        if name == "Gittins index":
            # Not optimal in a finite game, but these bandits show no difference.
            assert totals.mean() > optimum - 3 * error


def test_a_prefix_of_a_trial_is_a_shorter_trial_unless_the_end_matters() -> None:
    tasks = bernoulli_tasks(50, 3)
    for learner in (random_arms, thompson_sampling, ucb1):
        long, short = (learner(tasks, pulls=n, rng=np.random.default_rng(0)) for n in (40, 15))
        np.testing.assert_array_equal(long[:, :15], short)


def test_ucb1_pulls_the_arms_that_it_says() -> None:
    """Loop over the formula of UCB1, on one bandit whose arms always pay the same."""
    task = BanditTask(np.array([0.2, 0.9, 0.5]), "informative")
    rewards = ucb1([task], pulls=40, rng=np.random.default_rng(0), exploration=0.7)[0]
    pulled: list[list[float]] = [[], [], []]
    for pull, reward in enumerate(rewards):
        if pull < 3:
            arm = pull
        else:
            scores = [np.mean(r) + 0.7 * np.sqrt(2 * np.log(pull) / len(r)) for r in pulled]
            arm = int(np.argmax(scores))
        assert reward == task.arm_means[arm]
        pulled[arm].append(float(reward))
    assert min(map(len, pulled)) > 1


def test_greedy_play_explores_as_far_as_its_prior_hopes() -> None:
    task = BanditTask(np.array([0.2, 0.9, 0.5]), "informative")
    rng = np.random.default_rng(0)
    # 0.2 is worse than the prior of the two untried arms, 0.9 better than that of the last.
    hopeful = greedy([task], pulls=6, rng=rng, prior_mean=0.8, prior_weight=1.0)
    assert hopeful.tolist() == [[0.2, 0.9, 0.9, 0.9, 0.9, 0.9]]
    # (0.9 + 9) / 11 is less than 9 / 10: it tries the last arm, as its prior is too optimistic.
    credulous = greedy([task], pulls=3, rng=rng, prior_mean=0.95, prior_weight=10.0)
    assert credulous.tolist() == [[0.2, 0.9, 0.5]]
    assert greedy([task], pulls=2, rng=rng, prior_mean=0.1, prior_weight=1.0).tolist() == [
        [0.2] * 2
    ]


def test_thompson_sampling_knows_gaussian_and_dependent_priors() -> None:
    rng = np.random.default_rng(0)
    gaussian = BanditConfig(arms="gaussian", num_train_tasks=2000, seed=1).build().train
    rewards = thompson_sampling(gaussian, pulls=60, rng=rng)
    # The first pull takes any arm; late ones are near the best of five, with mean 1.163 (order
    # statistics).
    assert rewards[:, 0].mean() == pytest.approx(0, abs=0.12)  # standard error .03
    assert 0.9 < rewards[:, 40:].mean() < 1.163
    dependent = (
        BanditConfig(arms="dependent", num_arms=2, num_train_tasks=2000, seed=1).build().train
    )
    alike = [BanditTask(task.arm_means) for task in dependent]
    # The same random numbers for both, so that they do not hide the gain from knowing.
    knowing, unknowing = (
        thompson_sampling(tasks, pulls=20, rng=np.random.default_rng(2)).sum(axis=1)
        for tasks in (dependent, alike)
    )
    # At least four standard errors, and at most 20 pulls of the better arm, which pays 3/4 on
    # average.
    gain = knowing - unknowing
    assert gain.mean() > 4 * gain.std() / np.sqrt(2000)
    assert knowing.mean() < 15


def test_learners_refuse_what_they_are_not_for() -> None:
    gaussian = list(BanditConfig(arms="gaussian", num_train_tasks=4).build().train)
    informative = list(
        BanditConfig(arms="informative", num_arms=4, num_train_tasks=4).build().train
    )
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="not of gaussian ones"):
        gittins(gaussian, pulls=3, rng=rng)
    with pytest.raises(ValueError, match="no Thompson sampling for informative"):
        thompson_sampling(informative, pulls=3, rng=rng)
    assert list(classical_learners(gaussian, pulls=3, seed=0)) == [
        "random", "greedy", "UCB1", "Thompson sampling"
    ]  # fmt: skip
    assert list(classical_learners(informative, pulls=3, seed=0)) == ["random", "greedy", "UCB1"]


def test_tuning_takes_the_constants_that_earn_most() -> None:
    """Arms always pay the same: only an optimistic learner finds one better than the first."""
    tasks = [BanditTask(np.array([0.1, 0.95, 0.5]), "informative")] * 2
    learners = classical_learners(tasks, pulls=30, seed=0)
    chosen = learners["greedy"].keywords
    rng = np.random.default_rng(0)
    most = max(
        greedy(tasks, pulls=30, rng=rng, prior_mean=mean, prior_weight=weight).sum()
        for mean in (1.0, 2.0, 5.0, 10.0)
        for weight in (0.5, 1.0, 2.0, 4.0)
    )
    assert greedy(tasks, pulls=30, rng=rng, **chosen).sum() == most
