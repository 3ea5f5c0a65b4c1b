"""N-way K-shot episodes of images: unseen classes, to be told apart from K examples each.

Images are decoded once and kept as bytes. A whole meta-batch is drawn at once, without a loop over
images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8

from metarl.config import Config, Size
from metarl.errors import UserError
from metarl.system.memory import check_memory
from metarl.types import FewShotBatch, FewShotShape

Symmetries = Literal[1, 4, 8]


class EpisodeConfig(Config):
    """Options of N-way K-shot episodes, for any images."""

    ways: Size = 5
    """Classes per episode (W)."""
    train_ways: Size | None = None
    """Classes per training episode if more than `ways`: Prototypical and Matching Networks learn
    more from harder episodes (Snell et al. 2017, section 2.6)."""
    shots: Size = 1
    """Support images per class (K)."""
    queries: Size = 15
    """Query images per class in training."""
    test_queries: Size = 15
    """Query images per class in held-out episodes."""

    def as_judged(self) -> EpisodeConfig:
        """The config for evaluation: training classes also use the held-out episodes' ways."""
        return self.model_copy(update={"train_ways": None})


@dataclass(frozen=True)
class ImageClasses:
    """Images of L classes; the images of a class are consecutive rows."""

    names: list[str]
    images: UInt8[np.ndarray, "M C Y X"]
    counts: Int[np.ndarray, " L"]
    """Number of images of each class."""

    @staticmethod
    def of(by_class: dict[str, UInt8[np.ndarray, "I C Y X"]]) -> ImageClasses:
        """Concatenates the images of each class."""
        counts = np.array([len(images) for images in by_class.values()])
        return ImageClasses(list(by_class), np.concatenate(list(by_class.values())), counts)

    @property
    def starts(self) -> Int[np.ndarray, " L"]:
        """First row of each class."""
        return np.cumsum(self.counts) - self.counts

    def only(self, names: Sequence[str]) -> ImageClasses:
        """The classes with these names, in this order."""
        place = {name: number for number, name in enumerate(self.names)}
        chosen = [place[name] for name in names]
        rows = [np.arange(self.starts[n], self.starts[n] + self.counts[n]) for n in chosen]
        images = self.images[np.concatenate([np.arange(0), *rows])]
        return ImageClasses(list(names), images, self.counts[np.array(chosen, np.int64)])

    def content_hash(self) -> str:
        """SHA-256 of names and images."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        digest.update(self.counts.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self.images).tobytes())
        return digest.hexdigest()


def room_for_images(
    count: int, shape: tuple[int, int, int], *, lower: str
) -> UInt8[np.ndarray, "M C Y X"]:
    """An uninitialised array for images, allocated before any is made.

    Raises:
        UserError: memory is too small; the message names the options in `lower`.
    """
    try:
        return np.empty((count, *shape), np.uint8)
    except (MemoryError, ValueError):  # ValueError: a size beyond any machine
        size = "×".join(map(str, shape))
        raise UserError(
            f"{count:,} images of {size} do not fit into memory; lower {lower}"
        ) from None


class ImageDistribution:
    """Few-shot classification of images, with training and held-out classes."""

    def __init__(
        self,
        what: str,
        train: ImageClasses,
        test: ImageClasses,
        episodes: EpisodeConfig,
        *,
        symmetries: Symmetries = 1,
        test_symmetries: Symmetries = 1,
    ) -> None:
        shared = set(train.names) & set(test.names)
        if shared:
            raise UserError(f"{what}: class {min(shared)} is in both splits; keep it in one")
        train_ways = episodes.train_ways or episodes.ways
        if train_ways < episodes.ways:
            raise UserError(
                f"env.train_ways {train_ways} is below env.ways {episodes.ways}; leave it out"
            )
        self.name = f"{episodes.ways}-way {episodes.shots}-shot classification of {what}"
        self.shape = FewShotShape(
            input_shape=train.images.shape[1:],
            num_outputs=episodes.ways,
            classification=True,
            train_ways=episodes.train_ways,
        )
        self.shots = episodes.shots
        learned_from = episodes.model_copy(update={"ways": train_ways})
        self.train = ImageSampler(train, learned_from, symmetries=symmetries)
        held_out = episodes.model_copy(update={"queries": episodes.test_queries})
        self.test = ImageSampler(test, held_out, symmetries=test_symmetries)


class ImageSampler:
    """One split: draws an episode's classes, numbers them at random, and draws images of each.

    Args:
        classes: the split's classes.
        episodes: ways, shots and queries.
        symmetries: symmetries of a square that make new classes: 1 none, 4 the rotations, 8 also
            mirror images. A rotated class is a class of its own.

    Raises:
        UserError: there are too few classes, or a class has too few images.
    """

    def __init__(
        self, classes: ImageClasses, episodes: EpisodeConfig, *, symmetries: Symmetries = 1
    ) -> None:
        self.classes = classes
        self.ways = episodes.ways
        self.shots = episodes.shots
        self.queries = episodes.queries
        self.symmetries = symmetries
        self.content_hash = classes.content_hash()
        if self.num_classes < self.ways:
            raise UserError(
                f"{self.ways} ways need as many classes; a split has {self.num_classes}: "
                f"{', '.join(classes.names[:5])}…; lower env.ways or env.train_ways"
            )
        height, width = classes.images.shape[2:]
        if symmetries > 1 and height != width:
            raise UserError(f"images of {height}×{width} cannot be turned; use symmetries 1")
        self._check_enough(self.shots)

    @property
    def num_classes(self) -> int:
        """Number of classes to draw from, including rotated and mirrored ones."""
        return len(self.classes.names) * self.symmetries

    def sample(
        self, num_tasks: int, rng: np.random.Generator, *, shots: int | None = None
    ) -> FewShotBatch:
        """Episodes; support and query of each class are different images.

        Raises:
            UserError: a class has too few images for this number of shots.
        """
        shots = shots or self.shots
        self._check_enough(shots)
        check_memory(
            4 * num_tasks * self.ways * (shots + self.queries) * self.classes.images[0].size,
            f"{self.ways:,} ways of {shots + self.queries:,} images in {num_tasks:,} tasks",
        )
        # The first W of a random permutation of all classes: distinct, and numbered at random.
        order = rng.random((num_tasks, self.num_classes)).argsort(1)[:, : self.ways]
        symmetry, which = np.divmod(order, len(self.classes.names))
        images = self.classes.images[self._draw_rows(which, shots + self.queries, rng)]
        for number in range(1, self.symmetries):
            chosen = symmetry == number
            images[chosen] = _transformed(images[chosen], number)
        x = torch.from_numpy(images).float() / 255  # N W K C Y X
        label = torch.arange(self.ways).expand(num_tasks, -1)
        return FewShotBatch(
            support_x=x[:, :, :shots].flatten(1, 2),
            support_y=label.repeat_interleave(shots, 1),
            query_x=x[:, :, shots:].flatten(1, 2),
            query_y=label.repeat_interleave(self.queries, 1),
        )

    def _draw_rows(
        self, which: Int[np.ndarray, "N W"], count: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "N W K"]:
        """Rows of `count` different images of each class."""
        counts = self.classes.counts[which][..., None]
        chance = rng.random((*which.shape, int(self.classes.counts.max())))
        chance[np.arange(chance.shape[-1]) >= counts] = 2.0  # no such image: sorts last
        return self.classes.starts[which][..., None] + chance.argsort(-1)[..., :count]

    def _check_enough(self, shots: int) -> None:
        fewest = int(self.classes.counts.argmin())
        if self.classes.counts[fewest] < shots + self.queries:
            raise UserError(
                f"class {self.classes.names[fewest]} has {self.classes.counts[fewest]} images; "
                f"{shots} shots and {self.queries} queries need {shots + self.queries}: lower "
                "env.shots, env.queries or env.test_queries"
            )


def _transformed(
    images: UInt8[np.ndarray, "B K C Y X"], number: int
) -> UInt8[np.ndarray, "B K C Y X"]:
    """Images rotated by `number` quarter turns; from 4 on they are mirrored first."""
    if number >= 4:
        images = images[..., ::-1]
    return np.rot90(images, number % 4, axes=(-2, -1))
