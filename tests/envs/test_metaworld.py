"""The official benchmarks, without the defects of their vector environments."""

import pickle
from collections import Counter
from pathlib import Path

import metaworld
import numpy as np
import pytest
import torch
from metaworld.policies import ENV_POLICY_MAP

from envs.metaworld import MetaWorld, MetaWorldConfig, MetaWorldTask
from envs.metaworld.benchmark import _draw_goals, _official_goals
from envs.metaworld.official import CLASSES, make_official_env, set_official_task
from metarl.errors import UserError
from metarl.rollout.trial import run_trial
from metarl.types import TrialShape
from tests.spy import SpyAgent

OFFICIAL = {
    "ML1-reach-v3": lambda seed: metaworld.ML1("reach-v3", seed=seed),
    "ML1-door-lock-v3": lambda seed: metaworld.ML1("door-lock-v3", seed=seed),
    "ML10": lambda seed: metaworld.ML10(seed=seed),
}


@pytest.mark.parametrize("name", ["ML1-reach-v3", "ML10", "ML25", "ML45"])
def test_train_and_test_share_no_task(name: str) -> None:
    benchmark = MetaWorld(name, seed=5)
    classes = {"ML1-reach-v3": (1, 1), "ML10": (10, 5), "ML25": (25, 5), "ML45": (45, 5)}[name]
    assert (len(benchmark.train), len(benchmark.test)) == (50 * classes[0], 50 * classes[1])
    for split, number in zip((benchmark.train, benchmark.test), classes, strict=True):
        assert Counter(task.env_name for task in split) == dict.fromkeys(split.classes, 50)
        assert len(split.classes) == number
    assert benchmark.train.shared_with(benchmark.test) == []


@pytest.mark.parametrize("benchmark", ["ML10", "ML45"])
def test_folds_divide_the_training_classes_and_leave_the_test_classes_alone(benchmark: str) -> None:
    official = MetaWorld(benchmark)
    held_out = []
    for fold in range(1, 6):
        part = MetaWorld(benchmark, fold=fold, folds=5)
        assert part.name == f"Meta-World {benchmark}, fold {fold} of 5"
        assert len(part.test.classes) == len(official.train.classes) // 5
        assert not set(part.train.classes) & set(part.test.classes)
        # All goals are training goals.
        assert sorted(goals(part.train) + goals(part.test)) == sorted(goals(official.train))
        held_out += part.test.classes
    assert sorted(held_out) == sorted(official.train.classes)
    assert not set(held_out) & set(official.test.classes)


def test_a_custom_benchmark_is_split_as_asked() -> None:
    benchmark = MetaWorld("custom", train_classes=["push-v3"], test_classes=["door-lock-v3"])
    assert benchmark.train.classes == ["push-v3"]
    assert benchmark.test.classes == ["door-lock-v3"]
    official = metaworld.CustomML(["push-v3"], ["door-lock-v3"], seed=0)
    assert goals(benchmark.test) == official_goals(official.test_tasks)


def goals(tasks) -> list[tuple]:
    return [(task.env_name, *task.rand_vec.tolist()) for task in tasks]


def official_goals(tasks) -> list[tuple]:
    return [(task.env_name, *pickle.loads(task.data)["rand_vec"].tolist()) for task in tasks]


@pytest.mark.parametrize("name", OFFICIAL)
def test_goals_are_the_official_ones_in_the_official_order(name: str) -> None:
    ours, official = MetaWorld(name, seed=7), OFFICIAL[name](7)
    assert goals(ours.train) == official_goals(official.train_tasks)
    assert goals(ours.test) == official_goals(official.test_tasks)


def test_goals_do_not_depend_on_the_physics_that_is_left_out(monkeypatch) -> None:
    """All 50 classes: the official code draws each goal within a reset that simulates 250 steps."""
    monkeypatch.setattr(metaworld, "_N_GOALS", 3)
    official = metaworld.CustomML(list(CLASSES[:25]), list(CLASSES[25:]), seed=3)
    train, test = _draw_goals("custom", CLASSES[:25], CLASSES[25:], 3)
    assert goals(train) == official_goals(official.train_tasks)
    assert goals(test) == official_goals(official.test_tasks)


def test_fewer_goals_are_the_first_ones_and_hashes_tell_splits_apart() -> None:
    few, all_ = MetaWorld("ML1-push-v3", num_goals=3), MetaWorld("ML1-push-v3")
    assert goals(few.test) == goals(all_.test)[:3]
    hashes = {split.content_hash for b in (few, all_) for split in (b.train, b.test)}
    assert len(hashes) == 4
    assert MetaWorld("ML1-push-v3").train.content_hash == all_.train.content_hash
    assert MetaWorld("ML1-push-v3", seed=1).train.content_hash != all_.train.content_hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"benchmark": "ML1-reech-v3"}, "benchmark .ML1-reech-v3.. Did you mean ML1-reach-v3"),
        ({"benchmark": "ML11"}, "Did you mean ML1"),
        ({"benchmark": "custom", "train_classes": ["push"], "test_classes": ["reach-v3"]},
         "unknown Meta-World class 'push'. Did you mean push-v3"),
        ({"benchmark": "custom", "train_classes": ["push-v3"]}, "needs test_classes"),
        ({"benchmark": "custom", "train_classes": ["push-v3"], "test_classes": ["push-v3"]},
         "push-v3 is in train_classes and in test_classes"),
        ({"benchmark": "ML10", "train_classes": ["push-v3"]}, "go with 'custom'"),
        ({"benchmark": "ML10", "fold": 6}, "fold must be 1 to 5, not 6"),
        ({"benchmark": "ML10", "fold": 1, "folds": 11}, "has 10 training classes; folds cannot be"),
        ({"benchmark": "ML1-push-v3", "fold": 1}, "has one training class"),
        ({"benchmark": "ML10", "num_goals": 51}, "1 to 50"),
        ({"benchmark": "ML10", "horizon": 501}, "1 to 500"),
    ],
)  # fmt: skip
def test_wrong_benchmarks_are_refused_in_words(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MetaWorld(**arguments)


# -- the reference engine --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ML1-reach-v3", "ML10"])
def test_it_steps_as_the_official_environments_do(name: str) -> None:
    """Equal bit for bit, also after a slot has changed to another class and back."""
    benchmark = MetaWorld(name, horizon=4, num_goals=5)
    rng = np.random.default_rng(0)
    env = benchmark.make_env(3, engine="reference")
    for _ in range(3):
        tasks = benchmark.train.sample(3, rng)
        env.set_tasks(tasks)
        obs, _ = env.reset()
        officials = [make_official_env(task.env_name) for task in tasks]
        for official, task in zip(officials, tasks, strict=True):
            set_official_task(official, task)
        expected = [official.reset()[0] for official in officials]
        for step in range(1, 9):
            np.testing.assert_array_equal(obs, np.stack(expected))
            actions = rng.uniform(-1, 1, (3, 4)).astype(np.float32)
            obs, reward, terminated, truncated, info = env.step(actions)
            results = [o.step(a) for o, a in zip(officials, actions, strict=True)]
            np.testing.assert_array_equal(reward, [result[1] for result in results])
            np.testing.assert_array_equal(info["success"], [r[4]["success"] > 0 for r in results])
            np.testing.assert_array_equal(
                info["obj_to_target"], [r[4]["obj_to_target"] for r in results]
            )
            expected = [result[0] for result in results]
            np.testing.assert_array_equal(info["final_obs"], np.stack(expected))
            assert not terminated.any()
            assert (truncated == (step % 4 == 0)).all()
            if truncated.all():
                expected = [official.reset()[0] for official in officials]


ENGINES = pytest.mark.parametrize("engine", ["native", "reference"])


@ENGINES
def test_the_goal_is_hidden(engine) -> None:
    env = MetaWorld("ML1-reach-v3").make_env(2, engine=engine)
    obs, _ = env.reset()
    assert not obs[:, 36:].any()
    assert not env.step(np.zeros((2, 4), np.float32))[0][:, 36:].any()


@ENGINES
def test_defaults_work_for_any_number_of_slots(engine) -> None:
    """The official ones raise bare AssertionErrors or ignore the number."""
    benchmark = MetaWorld("ML10", num_goals=2)
    for num_slots in (1, 3, 11):
        env = benchmark.make_env(num_slots, engine=engine)
        obs, _ = env.reset()  # Without set tasks, training tasks are played.
        assert obs.shape == (num_slots, 39) == env.observation_space.shape
        assert {task.env_name for task in env.next_tasks} <= set(benchmark.train.classes)
        env.close()


def test_slots_have_random_streams_of_their_own_and_honour_the_seed() -> None:
    """Fixed tasks draw nothing; a user's own draws from an environment are seeded."""
    env = MetaWorld("ML1-reach-v3").make_env(3, engine="reference")

    def draws(seed: int) -> list[float]:
        env.reset(seed=seed)
        return [float(official.np_random.random()) for official in env.envs]

    first, again, other = draws(1), draws(1), draws(2)
    assert first == again
    assert len({*first, *other}) == 6


def test_reward_versions_are_the_official_ones() -> None:
    rewards = {}
    for version in ("v1", "v2"):
        benchmark = MetaWorld("ML1-reach-v3", reward_version=version)
        env = benchmark.make_env(1, engine="reference")
        env.set_tasks(benchmark.train[:1])
        env.reset()
        official = make_official_env("reach-v3", version)
        set_official_task(official, benchmark.train[0])
        official.reset()
        action = np.full((1, 4), 0.5, np.float32)
        rewards[version] = env.step(action)[1][0]
        assert rewards[version] == official.step(action[0])[1]
    assert rewards["v1"] != rewards["v2"]


def test_success_ends_no_episode() -> None:
    """Success must neither shorten an episode nor be counted more often for it."""
    benchmark = MetaWorld("ML1-reach-v3", horizon=100)
    env = benchmark.make_env(1, engine="reference")
    env.set_tasks(benchmark.train[:1])
    obs, _ = env.reset()
    policy = ENV_POLICY_MAP["reach-v3"]()
    successes = []
    for step in range(1, 101):
        obs[0, 36:] = env.envs[0]._target_pos
        obs, _, terminated, truncated, info = env.step(policy.get_action(obs[0])[None])
        successes.append(bool(info["success"][0]))
        assert not terminated[0]
        assert truncated[0] == (step == 100)
    assert any(successes[:99])


@ENGINES
def test_an_agent_sees_the_true_last_reward_and_the_flag(engine) -> None:
    """The official recurrent wrapper gives zeros for both."""
    benchmark = MetaWorld("ML1-push-v3", horizon=5)
    tasks = list(benchmark.train[:2])
    agent = SpyAgent(action=torch.full((2, 4), 0.7))
    run_trial(
        agent, benchmark.make_env(2, engine=engine), tasks, shape=TrialShape(episodes=2),
        seed=0, generator=None,
    )  # fmt: skip
    last_rewards = []
    for task in tasks:
        official = make_official_env(task.env_name)
        set_official_task(official, task)
        official.reset()
        rewards = [official.step(np.full(4, 0.7, np.float32))[1] for _ in range(5)]
        last_rewards.append(rewards[-1])
    boundary = agent.shown[5]
    torch.testing.assert_close(boundary.prev_reward, torch.tensor(last_rewards).float())
    assert boundary.prev_reward.abs().min() > 1e-4
    assert boundary.episode_start.all()
    assert not agent.shown[4].episode_start.any()
    torch.testing.assert_close(boundary.prev_action, torch.full((2, 4), 0.7))


def test_the_native_engine_refuses_rewards_that_it_does_not_have() -> None:
    with pytest.raises(UserError, match="v2 rewards only; for v1 use engine 'reference'"):
        MetaWorld("ML1-reach-v3", reward_version="v1").make_env(1)


def test_kept_goals_are_the_drawn_ones_and_a_damaged_file_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METARL_CACHE", str(tmp_path))
    hashes = []
    for _ in range(3):
        _official_goals.cache_clear()
        hashes.append(MetaWorld("ML1-push-v3", seed=3).test.content_hash)
        (path,) = (tmp_path / "goals").iterdir()
        if len(hashes) == 2:
            path.write_bytes(path.read_bytes()[:100])
    assert len(set(hashes)) == 1
    assert len(path.read_bytes()) > 100
    _official_goals.cache_clear()


def test_configs_build_what_they_say() -> None:
    built = MetaWorldConfig(benchmark="ML1-push-v3", num_goals=2, horizon=7).build()
    assert (len(built.train), built.horizon) == (2, 7)
    assert isinstance(built.train[0], MetaWorldTask)
    assert len(CLASSES) == 50
