"""Handwritten digits that come with scikit-learn: 8×8 images, 180 of each; always there.

Some digits are learned from and the others held out. As ten classes are few to learn to learn from,
a digit that is turned or mirrored is a class of its own in training.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from sklearn.datasets import load_digits

from envs.few_shot.images import EpisodeConfig, ImageClasses, ImageDistribution, Symmetries
from metarl.errors import UserError

Digit = Annotated[int, Field(ge=0, le=9)]


class DigitsConfig(EpisodeConfig):
    """Few-shot classification of scikit-learn's handwritten digits."""

    kind: Literal["digits"] = "digits"
    test_digits: tuple[Digit, ...] = (5, 6, 7, 8, 9)
    """Held out; the others are learned from."""
    symmetries: Symmetries = 8
    """Of training digits: 4 turns, or those and their mirror images (8), are classes too."""

    def build(self) -> ImageDistribution:
        """The distribution.

        Raises:
            UserError: too few digits are left.
        """
        pixels, label = load_digits(return_X_y=True)  # 0 … 16
        images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        classes = ImageClasses.of({f"digit {n}": images[label == n] for n in range(10)})
        test = [f"digit {n}" for n in sorted(set(self.test_digits))]
        train = [name for name in classes.names if name not in test]
        if not train or not test:
            raise UserError(
                "env.test_digits must leave some digits to learn from, and hold out one"
            )
        return ImageDistribution(
            "digits", classes.only(train), classes.only(test), self, symmetries=self.symmetries
        )
