"""The replay against rollouts and numbers by hand, and its draws against uniform shares."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from agents.rl2 import RL2Config
from envs.bandit import BanditConfig
from envs.navigation import PointConfig
from metarl.errors import UserError
from metarl.learning.replay import Groups, TrialReplay
from metarl.nn.distributions import execute
from metarl.rollout.trial import run_trial
from metarl.system.seeding import torch_generator
from metarl.types import Rollout, TimeStep, TrialShape

CPU = torch.device("cpu")
EPISODES, HORIZON = 2, 3
STEPS = EPISODES * HORIZON
MANY = 20_000


def numbered(numbers: list[int], tasks: list[int] | None = None) -> tuple[Rollout, torch.Tensor]:
    """A trial for each number, and its executed actions. All values differ: rewards of trial 7 are
    700, 701, …, observations 710, 711, 712, final 713, and 720, … in the second episode."""
    start = 100.0 * torch.tensor(numbers)
    steps = start[:, None] + torch.arange(STEPS)
    obs = start[:, None, None] + 10 * torch.arange(1.0, 1 + EPISODES)[:, None]
    obs = obs + torch.arange(HORIZON + 1)
    rollout = Rollout(
        seen=TimeStep(
            obs=obs[:, :, :HORIZON].flatten(1)[..., None],
            prev_action=torch.zeros(len(numbers), STEPS, 1),
            prev_reward=torch.zeros(len(numbers), STEPS),
            episode_start=torch.zeros(len(numbers), STEPS, dtype=torch.bool),
        ),
        action=2 * steps[..., None],
        log_prob=torch.zeros_like(steps),
        reward=steps,
        episode_end=torch.zeros_like(steps, dtype=torch.bool),
        success=torch.zeros_like(steps, dtype=torch.bool),
        final_obs=obs[:, :, HORIZON:],
        task=torch.tensor(numbers if tasks is None else tasks),
    )
    return rollout, -steps[..., None]


def replay_of(*parts: tuple[list[int], list[int] | None], capacity: int = 5) -> TrialReplay:
    """A replay to which `numbered` trials were added, a part at a time."""
    replay = TrialReplay(capacity, device=CPU)
    for numbers, tasks in parts:
        replay.add(*numbered(numbers, tasks))
    return replay


def kept(replay: TrialReplay) -> list[int]:
    """The numbers of the trials in each row; all their tensors are of the same trial."""
    every = torch.arange(len(replay))
    seen, steps = replay.trials(every)
    numbers = (steps.reward[:, 0] / 100).long()
    expected, executed = numbered(numbers.tolist())
    assert torch.equal(steps.reward, expected.reward)
    assert torch.equal(steps.action, executed)
    assert torch.equal(steps.obs, expected.seen.obs)
    assert torch.equal(seen.obs, expected.seen.obs)
    return numbers.tolist()


def lists(groups: Groups) -> list[list[int]]:
    """The rows of each task."""
    pairs = zip(groups.first.tolist(), groups.count.tolist(), strict=True)
    return [groups.rows[first : first + count].tolist() for first, count in pairs]


def test_a_ring_keeps_the_newest_trials_and_nothing_else() -> None:
    replay = TrialReplay(4, device=CPU)
    assert (len(replay), replay.added) == (0, 0)
    expected = {1: [1, 2, 3], 4: [5, 6, 3, 4], 7: [9, 6, 7, 8]}
    for first, numbers in expected.items():
        replay.add(*numbered([first, first + 1, first + 2]))
        assert kept(replay) == numbers
        assert replay.added == first + 2
    assert (replay.num_steps, replay.horizon) == (STEPS, HORIZON)


def test_of_more_trials_at_once_than_there_is_room_for_the_last_ones_are_kept() -> None:
    replay = replay_of(([0, 1, 2, 3, 4], None), capacity=3)
    assert kept(replay) == [3, 4, 2]
    assert replay.added == 5
    replay.add(*numbered([5]))  # the oldest makes room
    assert kept(replay) == [3, 4, 5]
    replay.add(*numbered(list(range(10, 17))))
    assert sorted(kept(replay)) == [14, 15, 16]


def test_what_follows_an_episode_is_its_final_observation_not_the_next_start() -> None:
    replay = replay_of(([7], None), capacity=1)
    _, steps = replay.trials(torch.tensor([0]))
    assert steps.obs[0, :, 0].tolist() == [710, 711, 712, 720, 721, 722]
    assert steps.next_obs[0, :, 0].tolist() == [711, 712, 713, 721, 722, 723]
    # The same steps one by one, in any arrangement.
    steps = torch.tensor([[5, 2], [0, 3]])
    chosen = replay.transitions(torch.zeros_like(steps), steps)
    assert chosen.obs[..., 0].tolist() == [[722, 712], [710, 720]]
    assert chosen.next_obs[..., 0].tolist() == [[723, 713], [711, 721]]
    assert chosen.reward.tolist() == [[705, 702], [700, 703]]
    assert chosen.action[..., 0].tolist() == [[-705, -702], [-700, -703]]


ENVS = [PointConfig(horizon=4, num_train_tasks=9), BanditConfig(num_arms=3)]


@pytest.mark.parametrize("env", ENVS, ids=lambda env: env.kind)
def test_a_trial_comes_back_as_the_policy_saw_it(env: Any) -> None:
    """Executed actions, which differ from those that the policy drew, rewards and starts."""
    distribution = env.build()
    slots = distribution.make_env(5)
    agent = RL2Config(hidden_size=4, encoder_sizes=()).build(
        slots.single_observation_space, slots.single_action_space, seed=0, device=CPU
    )
    replay = TrialReplay(7, device=CPU)
    for seed in range(2):
        tasks = distribution.train.sample(5, np.random.default_rng(seed))
        (rollout,) = run_trial(
            agent, slots, tasks, shape=TrialShape(episodes=3), seed=seed,
            generator=torch_generator(seed, CPU),
        )  # fmt: skip
        replay.add(rollout, execute(rollout.action, slots.single_action_space)[1])
    # Rows 5 and 6 took two of the second trial's slots, then rows 0, 1 and 2 the others.
    seen, steps = replay.trials(torch.tensor([5, 6, 0, 1, 2]))
    for name in ("obs", "prev_action", "prev_reward", "episode_start"):
        assert torch.equal(getattr(seen, name), getattr(rollout.seen, name)), name
    assert torch.equal(steps.reward, rollout.reward)
    within = ~rollout.episode_end[:, :-1]
    assert torch.equal(steps.next_obs[:, :-1][within], rollout.seen.obs[:, 1:][within])
    last = steps.next_obs[rollout.episode_end].view_as(rollout.final_obs)
    assert torch.equal(last, rollout.final_obs)
    if env.kind == "point":
        assert not torch.equal(steps.action, rollout.action)
        assert steps.action.abs().max() <= 0.1
        assert (last != 0).float().mean() > 0.5  # episodes start at 0


def test_trials_are_drawn_without_replacement_and_uniformly() -> None:
    replay = replay_of(([0, 1, 2], None))
    generator = torch_generator(0, CPU)
    assert sorted(replay.draw_trials(9, generator).tolist()) == [0, 1, 2]
    replay.add(*numbered([3, 4, 5]))
    draws = torch.stack([replay.draw_trials(2, generator) for _ in range(2000)])
    assert (draws[:, 0] != draws[:, 1]).all()
    assert chisquare(draws[:, 0].bincount(minlength=5)).pvalue > 1e-3
    assert chisquare(draws[:, 1].bincount(minlength=5)).pvalue > 1e-3


def test_trials_of_a_task_and_their_steps_are_drawn_uniformly() -> None:
    replay = replay_of(([0, 1, 2, 3, 4], [5, 9, 5, 5, 9]))
    groups, generator = replay.by_task(), torch_generator(1, CPU)
    rows = groups.draw(torch.tensor([1, 0, 1]), MANY, generator)
    for drawn, of_task in zip(rows, ([1, 4], [0, 2, 3], [1, 4]), strict=True):
        counts = drawn.bincount(minlength=5)
        assert counts[of_task].sum() == MANY
        assert chisquare(counts[of_task]).pvalue > 1e-3
    assert not torch.equal(rows[0], rows[2])  # a task that is drawn twice gets other trials
    steps = replay.draw_steps(rows, generator)
    assert steps.shape == rows.shape
    assert chisquare(steps.flatten().bincount(minlength=STEPS)).pvalue > 1e-3
    # The step does not depend on the trial.
    cells = (rows[1] * STEPS + steps[1]).bincount(minlength=5 * STEPS).view(5, STEPS)[[0, 2, 3]]
    assert chisquare(cells.flatten()).pvalue > 1e-3
    early = replay.draw_steps(rows, generator, first=4).flatten().bincount()
    assert len(early) == 4
    assert chisquare(early).pvalue > 1e-3


def test_draws_follow_the_generator() -> None:
    replay = replay_of(([0, 1, 2, 3, 4], [5, 9, 5, 5, 9]))

    def draw(seed: int) -> torch.Tensor:
        generator = torch_generator(seed, CPU)
        rows = replay.by_task().draw(torch.tensor([0, 1]), 50, generator)
        more = [replay.draw_steps(rows, generator).flatten(), replay.draw_trials(5, generator)]
        return torch.cat([rows.flatten(), *more])

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


BIG = 2**62
"""Tasks' numbers have 63 bits, more than any float distinguishes."""


def test_trials_are_grouped_by_task() -> None:
    # Row:                          0        1    2        3    4
    replay = replay_of(([0, 1, 2], [BIG + 1, 4, BIG + 1]), ([3, 4], [BIG, 4]))
    groups = replay.by_task()
    assert groups.rows.tolist() == [1, 4, 3, 0, 2]
    assert groups.first.tolist() == [0, 2, 3]
    assert groups.count.tolist() == [2, 1, 2]
    # The newest: task 4 was played again; the others' only trials are their newest.
    assert lists(replay.by_task(newest=True)) == [[4], [3], [0, 2]]


def test_newest_trials_are_those_that_were_added_together_last() -> None:
    replay = replay_of(([0, 1], [6, 8]), ([2, 3], [6, 6]), ([4], [8]))
    assert lists(replay.by_task()) == [[0, 2, 3], [1, 4]]
    assert lists(replay.by_task(newest=True)) == [[2, 3], [4]]
    replay.add(*numbered([5, 6], [8, 6]))  # in rows 0 and 1
    assert lists(replay.by_task()) == [[1, 2, 3], [0, 4]]
    assert lists(replay.by_task(newest=True)) == [[1], [0]]
    replay.add(*numbered([7, 8, 9], [8, 8, 8]))  # in rows 2, 3 and 4
    assert lists(replay.by_task()) == [[1], [0, 2, 3, 4]]
    assert lists(replay.by_task(newest=True)) == [[1], [2, 3, 4]]
    replay.add(*numbered([10, 11], [7, 7]))  # nothing is left of task 6
    assert lists(replay.by_task(newest=True)) == [[0, 1], [2, 3, 4]]
    assert kept(replay) == [10, 11, 7, 8, 9]


def test_saved_and_loaded_it_goes_on_as_before() -> None:
    replay = replay_of(([0, 1, 2], [4, 4, 7]), ([3, 4, 5], [7, 8, 4]))
    saved = replay.state_dict()
    assert all(name.startswith("replay.") for name in saved)
    twin = TrialReplay(5, device=CPU)
    twin.load_state_dict({**saved, "policy.weight": torch.zeros(3)})
    before = {name: tensor.clone() for name, tensor in saved.items()}
    for each in (replay, twin):
        each.add(*numbered([6], [8]))
        assert kept(each) == [5, 6, 2, 3, 4]
        assert lists(each.by_task(newest=True)) == [[0], [3], [1]]
    theirs = twin.state_dict()
    assert theirs.keys() == before.keys()
    assert all(torch.equal(replay.state_dict()[name], theirs[name]) for name in before)
    # A copy: what one adds does not reach the other.
    third = TrialReplay(5, device=CPU)
    third.load_state_dict(before)
    third.add(*numbered([9, 9, 9, 9, 9]))
    assert kept(twin) == [5, 6, 2, 3, 4]
    assert int(before["replay.added"]) == 6


def test_without_tensors_a_loaded_replay_is_empty() -> None:
    replay = replay_of(([0, 1], None))
    replay.load_state_dict({"policy.weight": torch.zeros(3)})
    assert (len(replay), replay.state_dict()) == (0, {})


def test_a_replay_of_another_capacity_is_refused_and_nothing_is_loaded() -> None:
    saved = replay_of(([0, 1], None), capacity=5).state_dict()
    other = replay_of(([8], None), capacity=4)
    with pytest.raises(UserError, match=r"its replay holds 5 trials, the config's 4"):
        other.load_state_dict(saved)
    assert kept(other) == [8]


def test_more_trials_than_fit_into_memory_are_refused() -> None:
    replay = TrialReplay(10**12, device=CPU)
    with pytest.raises(UserError, match="a replay of 1,000,000,000,000 trials would take"):
        replay.add(*numbered([0]))
