"""Few-shot tasks: sinusoids by their formula, and tasks of identifiable images."""

import numpy as np
import pytest
import torch

from envs.few_shot import DigitsConfig, GlyphsConfig, SinusoidConfig
from envs.few_shot.images import EpisodeConfig, ImageClasses, ImageDistribution, ImageSampler
from metarl.errors import UserError
from metarl.evaluation.few_shot import nearest_neighbour
from metarl.learning.few_shot import task_accuracies


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- sinusoids -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["maml", "harder"])
def test_points_lie_on_sinusoids_of_the_split(variant: str) -> None:
    distribution = SinusoidConfig.model_validate(
        {"variant": variant, "num_train_tasks": 200, "num_test_tasks": 50, "shots": 6}
    ).build()
    for sampler, queries in ((distribution.train, 10), (distribution.test, 100)):
        batch = sampler.sample(50, rng())
        assert batch.support_x.shape == (50, 6, 1) and batch.query_y.shape == (50, queries, 1)
        amplitude, phase, frequency = torch.from_numpy(sampler.parameters).float().T
        x = torch.cat([batch.support_x, batch.query_x], 1)
        y = torch.cat([batch.support_y, batch.query_y], 1)
        assert x.abs().max() <= 5
        on_each = amplitude * torch.sin(frequency * x - phase)  # N, points, sinusoids
        error = (on_each - y).abs().amax(1)
        # exactly one sinusoid of the split fits a task, and each task has its own
        assert (error.min(1).values < 1e-4).all()
        assert len(set(error.argmin(1).tolist())) == 50
    ranges = distribution.train.parameters
    assert ranges[:, 0].min() >= 0.1 and ranges[:, 0].max() <= 5
    assert ranges[:, 1].max() <= np.pi * (2 if variant == "harder" else 1)
    assert np.ptp(ranges[:, 2]) == 0 or variant == "harder"
    assert distribution.train.content_hash != distribution.test.content_hash


def test_the_same_generator_draws_the_same_tasks() -> None:
    for config in (
        SinusoidConfig(num_train_tasks=50),
        GlyphsConfig(num_train_classes=10, num_test_classes=5),
    ):
        one, other = (config.build().train.sample(8, rng(3)) for _ in range(2))
        assert torch.equal(one.query_x, other.query_x)
        assert not torch.equal(one.query_x, config.build().train.sample(8, rng(4)).query_x)


# -- images ----------------------------------------------------------------------------------------


def numbered(num_classes: int, counts: list[int], *, first: int = 0) -> ImageClasses:
    """Images whose first pixel is their class, the second their number and the third 255."""
    by_class = {}
    for n in range(num_classes):
        images = np.zeros((counts[n % len(counts)], 1, 4, 4), np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = first + n, np.arange(len(images))
        images[:, 0, 0, 2] = 255
        by_class[f"class {first + n}"] = images
    return ImageClasses.of(by_class)


def seen(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and number of each image."""
    bytes_ = (x * 255).round().long()
    return bytes_[..., 0, 0, 0], bytes_[..., 0, 0, 1]


def test_episodes_mix_nothing() -> None:
    episodes = EpisodeConfig(ways=5, shots=3, queries=4, test_queries=4)
    distribution = ImageDistribution(
        "numbers", numbered(12, [7, 9, 20]), numbered(8, [8], first=100), episodes
    )
    for sampler, classes in ((distribution.train, range(12)), (distribution.test, range(100, 108))):
        batch = sampler.sample(300, rng())
        assert batch.support_x.shape == (300, 15, 1, 4, 4)
        assert batch.query_x.shape == (300, 20, 1, 4, 4)
        support_class, support_number = seen(batch.support_x)
        query_class, query_number = seen(batch.query_x)
        assert set(support_class.unique().tolist()) == set(classes)  # all of its split
        for n in range(300):
            of_label = {}
            for label in range(5):
                inside = support_class[n][batch.support_y[n] == label]
                asked = query_class[n][batch.query_y[n] == label]
                # a label is one class, in support and query
                (of_label[label],) = {*inside.tolist(), *asked.tolist()}
                assert (len(inside), len(asked)) == (3, 4)
            assert len(set(of_label.values())) == 5  # and a class has one label
            support = list(zip(support_class[n].tolist(), support_number[n].tolist(), strict=True))
            query = list(zip(query_class[n].tolist(), query_number[n].tolist(), strict=True))
            assert len({*support, *query}) == 35  # no image comes twice
        # over tasks, a class gets every label about equally often
        for c in classes:
            labels = batch.support_y[support_class == c].bincount(minlength=5).double()
            assert (labels / labels.sum() - 0.2).abs().max() < 0.12
        # and all its images are drawn
        longest = int(sampler.classes.counts.max())
        assert set(support_number.unique().tolist()) == set(range(longest))


def test_a_class_turned_is_a_class_of_its_own() -> None:
    corners = np.zeros((6, 1, 4, 4), np.uint8)
    corners[:, 0, 0, 0], corners[:, 0, 0, 1] = 200, 100  # show which corner and which orientation
    sampler = ImageSampler(
        ImageClasses.of({"corner": corners}), EpisodeConfig(ways=8, shots=1, queries=2),
        symmetries=8,
    )  # fmt: skip
    batch = sampler.sample(20, rng())
    for n in range(20):
        shapes = {image.numpy().tobytes() for image in batch.support_x[n]}
        assert len(shapes) == 8  # all symmetries of the square, each once
        for label in range(8):
            support = batch.support_x[n, batch.support_y[n] == label][0]
            for query in batch.query_x[n, batch.query_y[n] == label]:
                assert torch.equal(query, support)


def test_training_may_have_more_ways() -> None:
    episodes = EpisodeConfig(ways=3, train_ways=6, queries=2, test_queries=2)
    distribution = ImageDistribution(
        "numbers", numbered(8, [20]), numbered(4, [20], first=100), episodes
    )
    batch = distribution.train.sample(50, rng())
    assert batch.support_y.unique().tolist() == list(range(6)) and batch.query_y.shape == (50, 12)
    assert distribution.test.sample(50, rng()).support_y.unique().tolist() == [0, 1, 2]


def test_more_shots_on_request_and_clear_errors() -> None:
    sampler = ImageSampler(numbered(6, [20]), EpisodeConfig(ways=5, shots=1, queries=15))
    assert sampler.sample(2, rng(), shots=5).support_x.shape[:2] == (2, 25)
    with pytest.raises(UserError, match="class 0 has 20 images; 6 shots and 15 queries need 21"):
        sampler.sample(2, rng(), shots=6)
    with pytest.raises(UserError, match="5 ways need as many classes; a split has 4"):
        ImageSampler(numbered(4, [20]), EpisodeConfig())
    with pytest.raises(UserError, match="class 3 is in both splits"):
        ImageDistribution("x", numbered(5, [20]), numbered(5, [20], first=3), EpisodeConfig())


@pytest.mark.parametrize("config", [GlyphsConfig(), DigitsConfig()], ids=["glyphs", "digits"])
def test_what_is_always_there_can_be_told_apart_and_not_at_a_glance(config) -> None:
    """The nearest neighbour is above chance and below a learner's accuracy."""
    distribution = config.build()
    assert not set(distribution.train.classes.names) & set(distribution.test.classes.names)
    for name in distribution.train.classes.names[:3]:
        images = distribution.train.classes.only([name]).images
        assert len(np.unique(images.reshape(len(images), -1), axis=0)) > 0.9 * len(images)
    batch = distribution.test.sample(200, rng())
    accuracy = task_accuracies(nearest_neighbour(batch, 5), batch.query_y).mean()
    assert 0.4 < accuracy < 0.8


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    official = load_digits()
    distribution = DigitsConfig(test_digits=(3, 4, 7, 8, 9), num_glyphs=0).build()
    assert distribution.train.classes.names == [f"digit {n}" for n in (0, 1, 2, 5, 6)]
    sevens = distribution.test.classes.only(["digit 7"]).images[:, 0]
    np.testing.assert_allclose(
        sevens * (16 / 255), official.images[official.target == 7], atol=1 / 30
    )
    with pytest.raises(UserError, match="must leave some digits"):
        DigitsConfig(test_digits=()).build()
