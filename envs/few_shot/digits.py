"""Handwritten digits from scikit-learn: 8×8 images, 180 of each digit; no download.

Some digits are held out. The others are too few classes for meta-learning: a network memorises them
before it learns what digits have in common. So the training set also has glyphs of the same size;
`num_glyphs: 0` leaves them out.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from envs.few_shot.glyphs import draw_glyphs
from envs.few_shot.images import EpisodeConfig, ImageClasses, ImageDistribution, Symmetries
from metarl.config import Seed
from metarl.errors import UserError

Digit = Annotated[int, Field(ge=0, le=9)]


class DigitsConfig(EpisodeConfig):
    """Few-shot classification of scikit-learn's handwritten digits."""

    kind: Literal["digits"] = "digits"
    test_digits: tuple[Digit, ...] = (5, 6, 7, 8, 9)
    """Held-out digits; the others are for training."""
    num_glyphs: Annotated[int, Field(ge=0, le=1_000_000)] = 400
    """Number of drawn characters added to the training digits."""
    jitter: Annotated[float, Field(ge=0, lt=10)] = 0.08
    """Standard deviation of the noise of a glyph's stroke points, where an image spans -1 to 1."""
    symmetries: Symmetries = 1
    """Symmetries of a square that make new training classes: 1 none, 4 the rotations, 8 also mirror
    images."""
    seed: Seed = 0
    """Seed of the glyphs."""

    def build(self) -> ImageDistribution:
        """The distribution.

        Raises:
            UserError: no digit is left to train on, or none is held out.
        """
        # Imported here because it takes a second, which other distributions need not spend.
        from sklearn.datasets import load_digits

        pixels, label = load_digits(return_X_y=True)  # 0 … 16
        images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        rng = np.random.default_rng(self.seed)
        glyphs = (
            draw_small_glyphs(self.num_glyphs, rng, jitter=self.jitter) if self.num_glyphs else {}
        )
        by_class = {f"digit {n}": images[label == n] for n in range(10)}
        classes = ImageClasses.of(by_class | glyphs)
        test = [f"digit {n}" for n in sorted(set(self.test_digits))]
        train = [name for name in classes.names if name not in test]
        if not train or not test:
            raise UserError(
                "env.test_digits must leave some digits to learn from, and hold out one"
            )
        return ImageDistribution(
            "digits", classes.only(train), classes.only(test), self, symmetries=self.symmetries
        )


def draw_small_glyphs(
    count: int, rng: np.random.Generator, *, jitter: float
) -> dict[str, UInt8[np.ndarray, ...]]:
    """Glyphs made like the digits: drawn on 32×32 pixels, then averaged over blocks of 4×4."""
    large = draw_glyphs(
        count, 20, strokes=4, rng=rng, size=32, thickness=0.14, jitter=jitter, fill=True,
        connected=True,
    )  # fmt: skip
    ink = large.reshape(*large.shape[:3], 8, 4, 8, 4).mean((4, 6))
    return {f"glyph {n}": images for n, images in enumerate(np.round(ink).astype(np.uint8))}
