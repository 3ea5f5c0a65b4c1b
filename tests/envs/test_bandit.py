"""Bandits against their definitions."""

import hashlib

import numpy as np
import pytest

from envs.bandit import BanditConfig, BanditTask
from metarl.config import validate
from metarl.errors import UserError


def test_arms_pay_as_often_as_they_say() -> None:
    env = BanditConfig(num_train_tasks=4).build().make_env(1)
    env.set_tasks([BanditTask(np.array([0.0, 0.3, 1.0, 0.5, 0.5]))])
    env.reset(seed=0)
    paid = {
        arm: np.mean([env.step(np.array([arm]))[1][0] for _ in range(3000)]) for arm in range(3)
    }
    assert paid[0] == 0.0 and paid[2] == 1.0
    assert paid[1] == pytest.approx(0.3, abs=0.03)  # 3.5 standard errors
    assert env.step(np.array([2]))[4]["success"].all()
    assert not env.step(np.array([1]))[4]["success"].any()


def test_a_slot_has_its_own_stream_whatever_the_others() -> None:
    task = BanditTask(np.full(5, 0.5))

    def rewards(num_slots: int, seed: int) -> np.ndarray:
        env = BanditConfig(num_train_tasks=9).build().make_env(num_slots)
        env.set_tasks([task] * num_slots)
        env.reset(seed=seed)
        return np.stack([env.step(np.zeros(num_slots, int))[1] for _ in range(300)], axis=1)

    np.testing.assert_array_equal(rewards(2, seed=1), rewards(9, seed=1)[:2])
    assert not np.array_equal(*rewards(2, seed=1))
    assert not np.array_equal(rewards(2, seed=1), rewards(2, seed=2))


def test_bernoulli_bandits_stay_the_same_to_the_bit() -> None:
    """Hashes from before other kinds of bandits existed, as stored results name these splits."""
    config = BanditConfig(num_arms=10, seed=3, num_train_tasks=50, num_test_tasks=20)
    distribution = config.build()
    assert distribution.name == "10-armed Bernoulli bandits"
    assert distribution.train.content_hash.startswith("04dd9c35c60a812a")
    assert distribution.test.content_hash.startswith("32266e3c87660ea0")
    env = BanditConfig(num_train_tasks=4).build().make_env(3)
    env.reset(seed=7)
    rewards = np.stack([env.step(np.arange(3))[1] for _ in range(300)], axis=1)
    assert rewards.sum(axis=1).tolist() == [244, 83, 216]
    assert (
        hashlib.sha256(rewards.astype("<f8").tobytes()).hexdigest().startswith("16863699976c097b")
    )


def test_gaussian_arms_have_means_and_noise_of_unit_variance() -> None:
    distribution = BanditConfig(arms="gaussian", num_train_tasks=4000, seed=1).build()
    means = np.stack([task.arm_means for task in distribution.train])
    env = distribution.make_env(4000)
    env.set_tasks(list(distribution.train))
    env.reset(seed=0)
    noise = np.concatenate([env.step(np.full(4000, arm))[1] - means[:, arm] for arm in range(5)])
    for drawn in (means.ravel(), noise):  # 20,000 numbers each: standard errors .007 and .005
        assert drawn.mean() == pytest.approx(0, abs=0.03)
        assert drawn.std() == pytest.approx(1, abs=0.02)


def test_dependent_arms_pay_as_often_as_the_other_does_not() -> None:
    distribution = BanditConfig(arms="dependent", num_arms=2, num_train_tasks=4000).build()
    means = np.stack([task.arm_means for task in distribution.train])
    np.testing.assert_allclose(means.sum(axis=1), 1)
    # Deciles of U[0, 1], from 4,000 bandits: standard error at most .008.
    np.testing.assert_allclose(
        np.quantile(means[:, 0], [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03
    )


def test_the_informative_arm_tells_the_target() -> None:
    distribution = BanditConfig(
        arms="informative", num_arms=11, num_train_tasks=50, num_test_tasks=50
    ).build()
    env = distribution.make_env(50)
    env.set_tasks(list(distribution.test))
    env.reset(seed=0)
    _, told, *_, info = env.step(np.full(50, 10))
    assert set(np.round(10 * told)) == set(range(1, 11)) and not info["success"].any()
    _, paid, *_, info = env.step(np.round(10 * told).astype(int) - 1)
    assert info["success"].all() and (paid >= 4).all() and (paid <= 6).all()
    _, paid, *_ = env.step(np.round(10 * told).astype(int) % 10)  # the target's neighbour
    assert (paid == 1.1).all()


@pytest.mark.parametrize(
    ("arms", "num_arms", "message"),
    [
        ("dependent", 5, "'num_arms' should be 2 where arms are dependent, but is 5"),
        ("informative", 2, "'num_arms' should be at least 3 where an arm is informative"),
        ("poisson", 5, "'arms' should be 'bernoulli', 'gaussian', 'dependent' or 'informative'"),
    ],
)
def test_arms_that_do_not_fit_are_refused(arms: str, num_arms: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(BanditConfig, {"arms": arms, "num_arms": num_arms}, source="flags")
    if arms == "dependent":  # defaults have to fit as well
        with pytest.raises(UserError, match=message):
            validate(BanditConfig, {"arms": arms}, source="flags")


def test_an_environment_plays_bandits_of_one_class() -> None:
    env = BanditConfig(num_train_tasks=4).build().make_env(2)
    env.set_tasks([BanditTask(np.zeros(2)), BanditTask(np.zeros(2), "gaussian")])
    with pytest.raises(ValueError, match="of one class at a time, not bernoulli, gaussian"):
        env.reset()
