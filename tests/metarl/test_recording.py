"""What is kept of an evaluation, and that nothing else stays in memory with it."""

import numpy as np
import torch

from metarl.recording import Recordings
from metarl.types import Rollout, TimeStep, TrialShape

SLOTS, HORIZON, EPISODES = 6, 3, 4


def numbers(episode: int) -> np.ndarray:
    """States of all slots that say where they belong: 100 slot + 10 episode + step."""
    slot, step = np.ogrid[:SLOTS, : HORIZON + 1]
    return np.repeat((100.0 * slot + 10 * episode + step)[..., None], 2, axis=2)


class Engine:
    """Hands over such states."""

    num_envs = SLOTS

    def record(self, sink):
        self.sink = sink

    def play(self) -> None:
        shared = np.empty((SLOTS, HORIZON + 1, 2))
        for episode in range(EPISODES):
            shared[:] = numbers(episode)  # an engine fills the same memory again
            self.sink(shared)


def rollout(solved: set[int]) -> Rollout:
    """Rewards of 10 slot + episode; the slots that are named succeed in every step."""
    steps = EPISODES * HORIZON
    zeros = torch.zeros(SLOTS, steps)
    slot, step = torch.arange(SLOTS)[:, None], torch.arange(steps)
    return Rollout(
        seen=TimeStep(
            obs=zeros[..., None], prev_action=zeros[..., None], prev_reward=zeros,
            episode_start=zeros.bool(),
        ),
        action=zeros[..., None], log_prob=zeros, reward=10.0 * slot + step // HORIZON,
        episode_end=zeros.bool(), final_obs=zeros[:, :1],
        success=torch.tensor([[s in solved] * steps for s in range(SLOTS)]),
    )  # fmt: skip


def keep(recordings: Recordings, *, solved: set[int], shape: TrialShape, first_task: int) -> None:
    engine = Engine()
    with recordings.of_trial(engine, shape):
        engine.play()
    count = SLOTS // shape.slots_per_task
    recordings.keep([rollout(solved)], ["a"] * count, first_task=first_task)


def test_failures_come_first_and_hold_the_memory_of_their_rows_alone() -> None:
    recordings = Recordings(3)
    for first_task, solved in ((0, {0, 1, 2, 3, 5}), (6, {1, 3, 4, 5})):
        keep(recordings, solved=solved, shape=TrialShape(episodes=EPISODES), first_task=first_task)
    assert [recording.task for recording in recordings.kept] == [4, 6, 0]
    for recording in recordings.kept:
        slot = recording.task % SLOTS
        for number, episode in enumerate(recording.episodes):
            np.testing.assert_array_equal(episode.states, numbers(number)[slot])
            assert episode.reward.tolist() == [10 * slot + number] * HORIZON
            for array in (episode.states, episode.reward, episode.success):
                assert array.base is None, "a view keeps the whole batch"


def test_ends_of_named_tasks_and_the_first_slot_of_each() -> None:
    """Three tasks with two slots each; task 11 is in slots 2 and 3."""
    recordings = Recordings(9, only={11, 99}, ends=True)
    shape = TrialShape(slots_per_task=2, episodes=EPISODES)
    keep(recordings, solved={2}, shape=shape, first_task=10)
    (kept,) = recordings.kept
    assert (kept.task, kept.succeeded) == (11, True)
    assert [episode.before for episode in kept.episodes] == [0, 2 * (EPISODES - 1)]
    for episode, number in zip(kept.episodes, (0, EPISODES - 1), strict=True):
        np.testing.assert_array_equal(episode.states, numbers(number)[2])
        assert episode.reward.tolist() == [20 + number] * HORIZON
