"""Glyphs: invented characters, drawn procedurally; no download.

A class is a few strokes, each a quadratic Bézier curve between random points. Each image redraws
them as another hand would: it displaces the points a little, and rotates, slants, scales and shifts
the whole. Images are 28×28 pixels, as Omniglot's in most papers.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from envs.few_shot.images import EpisodeConfig, ImageClasses, ImageDistribution
from metarl.config import Few, Seed, Size
from metarl.system.memory import check_memory

SIZE = 28
POINTS_ON_STROKE = 20


class GlyphsConfig(EpisodeConfig):
    """Few-shot classification of procedurally drawn characters."""

    kind: Literal["glyphs"] = "glyphs"
    num_train_classes: Size = 400
    """Number of training characters."""
    num_test_classes: Size = 100
    """Number of held-out characters."""
    images_per_class: Size = 20
    """Images of each character; Omniglot has 20."""
    strokes: Few = 3
    """Strokes of each character."""
    seed: Seed = 0
    """Seed of characters and images."""

    def build(self) -> ImageDistribution:
        """The distribution."""
        total = self.num_train_classes + self.num_test_classes
        images = draw_glyphs(
            total, self.images_per_class, strokes=self.strokes, rng=np.random.default_rng(self.seed)
        )
        classes = ImageClasses.of({f"glyph {n}": images[n] for n in range(total)})
        train, test = (
            classes.names[: self.num_train_classes], classes.names[self.num_train_classes :]
        )  # fmt: skip
        return ImageDistribution("glyphs", classes.only(train), classes.only(test), self)


def draw_glyphs(
    num_classes: int,
    images_per_class: int,
    *,
    strokes: int,
    rng: np.random.Generator,
    size: int = SIZE,
    thickness: float = 0.06,
    jitter: float = 0.08,
    fill: bool = False,
    connected: bool = False,
) -> UInt8[np.ndarray, "L I 1 Y X"]:
    """Images of random characters, ink as high values.

    Args:
        num_classes: number of characters.
        images_per_class: images of each character.
        strokes: strokes of each character.
        rng: source of all randomness.
        size: side of an image (pixels).
        thickness: mean thickness of the pen, in units where an image spans -1 to 1; pens vary.
        jitter: standard deviation of the noise of stroke points, in the same units.
        fill: scale each glyph to the full height or width of its image.
        connected: start each stroke at the end of the one before.
    """
    check_memory(
        num_classes * images_per_class * (size**2 + 16 * strokes * POINTS_ON_STROKE),
        f"{images_per_class:,} images of {num_classes:,} characters",
    )
    letters = rng.uniform(-1, 1, (num_classes, 1, strokes, 3, 2))
    shape = (num_classes, images_per_class)
    points = letters + rng.normal(0, jitter, (*shape, strokes, 3, 2))
    if connected:
        points[..., 1:, 0, :] = points[..., :-1, 2, :]
    maps = _another_hand(shape, rng)
    points = np.einsum("lixy,lispy->lispx", maps, points) + rng.normal(0, 0.1, (*shape, 1, 1, 2))
    ends = np.linspace(0, 1, POINTS_ON_STROKE)[:, None]
    weights = np.concatenate([(1 - ends) ** 2, 2 * ends * (1 - ends), ends**2], 1)
    dots = np.einsum("qp,lispx->lisqx", weights, points)
    dots = dots.reshape(*shape, strokes * POINTS_ON_STROKE, 2)
    pens = thickness * rng.uniform(0.75, 1.25, shape)
    if fill:
        low, high = dots.min(2, keepdims=True), dots.max(2, keepdims=True)
        room = 2 * (1 - pens[..., None, None])
        dots = (dots - (low + high) / 2) * room / (high - low).max(-1, keepdims=True)
    images = np.stack(
        [_ink(dots[n], pens[n], size) for n in range(num_classes)]  # a class at a time: memory
    )
    return np.round(255 * images).astype(np.uint8)[:, :, None]


def _another_hand(shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "L I 2 2"]:
    """Matrices of small rotations, slants and changes of scale."""
    angle, slant = rng.normal(0, 0.2, shape), rng.normal(0, 0.15, shape)
    width, height = rng.normal(0.68, 0.06, (2, *shape))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1)
    stretch = np.stack([width, slant * height, np.zeros(shape), height], -1)
    return turn.reshape(*shape, 2, 2) @ stretch.reshape(*shape, 2, 2)


def _ink(
    dots: Float[np.ndarray, "I P 2"], thickness: Float[np.ndarray, " I"], size: int
) -> Float[np.ndarray, "I Y X"]:
    """Ink of each pixel: 1 on the dots, decreasing with the distance to the nearest dot."""
    axis = np.linspace(-1, 1, size)
    x = (axis - dots[..., 0, None]) ** 2  # I P X
    y = (axis - dots[..., 1, None]) ** 2
    nearest = (x[:, :, None, :] + y[:, :, :, None]).min(1)
    return np.exp(-((nearest / (2 * thickness[:, None, None] ** 2)) ** 2))
