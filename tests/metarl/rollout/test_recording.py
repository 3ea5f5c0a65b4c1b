"""Recordings kept of an evaluation; nothing else stays in memory with them."""

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch

from metarl.errors import UserError
from metarl.rollout.recording import Recordings, read_recordings, write_recordings
from metarl.types import Rollout, TimeStep, TrialShape

SLOTS, HORIZON, EPISODES = 6, 3, 4


def numbers(episode: int) -> np.ndarray:
    """Identifiable states of all slots: 100 slot + 10 episode + step."""
    slot, step = np.ogrid[:SLOTS, : HORIZON + 1]
    return np.repeat((100.0 * slot + 10 * episode + step)[..., None], 2, axis=2)


class Engine:
    """Engine that hands over such states."""

    num_envs = SLOTS

    def record(self, sink):
        self.sink = sink

    def play(self) -> None:
        shared = np.empty((SLOTS, HORIZON + 1, 2))
        for episode in range(EPISODES):
            shared[:] = numbers(episode)  # an engine reuses its memory
            self.sink(shared)


def rollout(solved: set[int]) -> Rollout:
    """Rollout with rewards 10 slot + episode; the slots in `solved` succeed at every step."""
    steps = EPISODES * HORIZON
    zeros = torch.zeros(SLOTS, steps)
    slot, step = torch.arange(SLOTS)[:, None], torch.arange(steps)
    return Rollout(
        seen=TimeStep(
            obs=zeros[..., None], prev_action=zeros[..., None], prev_reward=zeros,
            episode_start=zeros.bool(),
        ),
        action=zeros[..., None], log_prob=zeros, reward=10.0 * slot + step // HORIZON,
        episode_end=zeros.bool(), final_obs=zeros[:, None, :1],
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


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    recordings = Recordings(2)
    keep(recordings, solved={1}, shape=TrialShape(episodes=EPISODES), first_task=0)
    path = tmp_path / "two.recordings.npz"
    write_recordings(path, recordings.kept)
    assert [recording.task for recording in read_recordings(path)] == [0, 1]
    return path


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("0/task", None),
        ("2/task", np.array(7)),
        ("0/task", np.array(-1)),
        ("0/task", np.array(1.5)),
        ("0/task", np.array([1])),
        ("0/env_name", np.array(b"a")),
        ("0/env_name", np.array({}, dtype=object)),
        ("1/before", np.array([0, 2, 1, 3])),
        ("1/before", np.arange(EPISODES + 1)),
        ("1/states", np.zeros((EPISODES, HORIZON + 1))),
        ("1/states", np.zeros((0, HORIZON + 1, 2))),
        ("1/states", np.full((EPISODES, HORIZON + 1, 2), np.nan)),
        ("1/states", np.full((EPISODES, HORIZON + 1, 2), 1e300)),
        ("1/states", np.zeros((EPISODES, HORIZON + 1, 2), complex)),
        ("1/reward", np.zeros((EPISODES, HORIZON + 1))),
        ("1/success", np.zeros((EPISODES, HORIZON))),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    stored: Path, name: str, array: np.ndarray | None
) -> None:
    with np.load(stored) as file:
        arrays = {**file, name: array}
    np.savez(stored, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(UserError, match=r"two\.recordings\.npz cannot be read"):
        read_recordings(stored)


def test_damaged_bytes_and_bombs_are_refused(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stored.read_bytes()
    for content in (b"", b"PK", whole[: len(whole) // 2], whole.replace(b"'descr'", b"'desc('")):
        stored.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_recordings(stored)
    monkeypatch.setattr("metarl.rollout.recording.LARGEST_FILE", 10**6)
    with ZipFile(stored, "w", ZIP_DEFLATED) as bomb:
        bomb.writestr("0/task.npy", bytes(10**6 + 1))
    assert stored.stat().st_size < 10**4
    with pytest.raises(UserError, match="unpacks to 1,000,001 bytes"):
        read_recordings(stored)
