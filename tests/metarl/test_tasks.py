"""Sampling is stratified for any number of slots; different contents have different hashes."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from metarl.tasks import TaskSet


@dataclass(frozen=True)
class Numbered:
    env_name: str
    number: float

    @property
    def parameters(self) -> np.ndarray:
        return np.array([self.number])


def tasks(classes: int, each: int) -> TaskSet[Numbered]:
    return TaskSet(Numbered(f"class-{c}", i) for c in range(classes) for i in range(each))


@pytest.mark.parametrize("num_tasks", [1, 3, 4, 7, 12, 41])
def test_classes_differ_by_at_most_one_task(num_tasks: int) -> None:
    drawn = tasks(classes=4, each=5).sample(num_tasks, np.random.default_rng(0))
    counts = Counter(task.env_name for task in drawn)
    assert len(drawn) == num_tasks
    assert max(counts.values()) - min(counts[f"class-{c}"] for c in range(4)) <= 1


def test_no_task_comes_twice_before_all_came_once() -> None:
    drawn = tasks(classes=2, each=5).sample(14, np.random.default_rng(0))
    for name in ("class-0", "class-1"):
        numbers = [task.number for task in drawn if task.env_name == name]
        assert sorted(numbers[:5]) == [0, 1, 2, 3, 4]
        assert len(set(numbers[5:])) == 2


def test_every_task_and_class_is_drawn_equally_often() -> None:
    rng, counts = np.random.default_rng(0), Counter()
    for _ in range(2000):
        counts.update(tasks(classes=3, each=4).sample(7, rng))
    expected = 2000 * 7 / 12
    # A count is a sum of 2,000 draws with variance below 1/4 each: 5 standard deviations are 112.
    assert all(abs(count - expected) < 112 for count in counts.values())
    assert len(counts) == 12


def test_the_hash_tells_content_and_order() -> None:
    assert tasks(2, 3).content_hash == tasks(2, 3).content_hash
    assert tasks(2, 3).content_hash != tasks(3, 2).content_hash
    assert tasks(2, 3).content_hash != TaskSet(reversed(list(tasks(2, 3)))).content_hash


def test_shared_tasks_are_found_by_content() -> None:
    ours, theirs = tasks(2, 3), TaskSet([Numbered("class-1", 2.0), Numbered("class-9", 0.0)])
    assert ours.shared_with(theirs) == [Numbered("class-1", 2.0)]
    assert len(tasks(2, 3).first_of_each_class(2)) == 4
