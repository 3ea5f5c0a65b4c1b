"""Handwritten digits that come with scikit-learn: 8×8 images, 180 of each; always there.

Some digits are held out. The others alone are too few classes to learn to learn from: a network
knows them by heart before it knows what digits have in common. So glyphs of the same size are
learned from too, which `num_glyphs: 0` leaves out.
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
    """Held out; the others are learned from."""
    num_glyphs: Annotated[int, Field(ge=0, le=1_000_000)] = 400
    """Drawn characters to learn from beside the other digits."""
    jitter: Annotated[float, Field(ge=0, lt=10)] = 0.08
    """How far the points of a glyph's strokes move from image to image."""
    symmetries: Symmetries = 1
    """Of training classes: 4 turns, or those and their mirror images (8), are classes too."""
    seed: Seed = 0
    """Draws the glyphs."""

    def build(self) -> ImageDistribution:
        """The distribution.

        Raises:
            UserError: too few digits are left.
        """
        # Imported late: it takes a second that other distributions need not wait for.
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
    """Glyphs made as the digits were: they fill 32×32 pixels, and the ink of 4×4 is counted."""
    large = draw_glyphs(
        count, 20, strokes=4, rng=rng, size=32, thickness=0.14, jitter=jitter, fill=True,
        connected=True,
    )  # fmt: skip
    ink = large.reshape(*large.shape[:3], 8, 4, 8, 4).mean((4, 6))
    return {f"glyph {n}": images for n, images in enumerate(np.round(ink).astype(np.uint8))}
