"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 images each.

Lake et al. 2015, "Human-level concept learning through probabilistic program induction". Nothing is
downloaded: the folder is to hold `images_background.zip` and `images_evaluation.zip` as published
(github.com/brendenlake/omniglot), or what they unpack to.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from envs.few_shot.folders import HIDDEN, contents, decode, files_by_class, read_class_names
from envs.few_shot.images import EpisodeConfig, ImageClasses, ImageDistribution, Symmetries
from metarl.config import Seed, Size
from metarl.errors import UserError

PARTS = ("images_background", "images_evaluation")
SIZE = 28


class OmniglotConfig(EpisodeConfig):
    """Few-shot classification of Omniglot's characters, from its official files."""

    kind: Literal["omniglot"] = "omniglot"
    root: Path = Path("data/omniglot")
    """The folder with images_background and images_evaluation: zip files, or unpacked."""
    split: Literal["random", "background"] = "random"
    """What is held out: all but `num_train_classes` characters of both parts, drawn by the seed
    (Santoro et al. 2016, and MAML, Reptile and Prototypical Networks after them), or the part that
    is called evaluation (20 alphabets that were never seen)."""
    num_train_classes: Size = 1200
    """Characters to learn from, of a random split."""
    test_classes: Path | None = None
    """A file that names the held-out characters in place of a split, one a line, as
    images_evaluation/Atlantean/character01."""
    symmetries: Symmetries = 4
    """4: each character turned by 90, 180 and 270 degrees is a class of its own, in both splits."""
    seed: Seed = 0
    """Draws the random split."""

    def build(self) -> ImageDistribution:
        """The distribution.

        Raises:
            UserError: the files are not there, or damaged; or there are too few characters.
        """
        classes = read_omniglot(self.root)
        train, test = self._split(classes.names)
        return ImageDistribution(
            "Omniglot", classes.only(train), classes.only(test), self,
            symmetries=self.symmetries, test_symmetries=self.symmetries,
        )  # fmt: skip

    def _split(self, names: list[str]) -> tuple[list[str], list[str]]:
        if self.test_classes is not None:
            test = read_class_names(self.test_classes, names)
        elif self.split == "background":
            test = [name for name in names if name.startswith(PARTS[1])]
        elif len(names) > self.num_train_classes:
            shuffled = np.random.default_rng(self.seed).permutation(names).tolist()
            test = sorted(shuffled[self.num_train_classes :])
        else:
            raise UserError(
                f"{self.root} has {len(names)} characters; env.num_train_classes "
                f"{self.num_train_classes} leaves none to hold out"
            )
        held_out = set(test)
        return [name for name in names if name not in held_out], test


def read_omniglot(root: Path) -> ImageClasses:
    """All characters, ink as high values, by their path: part, alphabet, character.

    Raises:
        UserError: a part is missing, truncated, or holds what is no image.
    """
    by_class = {}
    for part in PARTS:
        archive, folder = root / f"{part}.zip", root / part
        if folder.is_dir():
            files = {
                f"{part}/{name}": list(contents(paths))
                for name, paths in files_by_class(folder).items()
            }
        elif archive.is_file():
            files = _files_in(archive, part)
        else:
            raise UserError(
                f"{root} has neither {part}.zip nor {part}/; put Omniglot's official files there "
                "or name another folder: --env.root"
            )
        for name, images in files.items():
            by_class[name] = 255 - decode(images, size=SIZE, color=False)  # written dark on light
    return ImageClasses.of(by_class)


def _files_in(archive: Path, part: str) -> dict[str, list[tuple[str, bytes]]]:
    """Names and contents of the files of each folder in a zip file.

    Raises:
        UserError: it is no zip file, or damaged; names it.
    """
    files: dict[str, list[tuple[str, bytes]]] = {}
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in sorted(opened.namelist()):
                steps = name.split("/")
                if name.endswith("/") or any(step.startswith(HIDDEN) for step in steps):
                    continue
                below = "/".join(steps[:-1])
                below = below if below.startswith(f"{part}/") else f"{part}/{below}"
                files.setdefault(below, []).append((f"{archive}/{name}", opened.read(name)))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive} is truncated or no zip file ({error}); copy it again") from None
    if not files:
        raise UserError(f"{archive} holds no images")
    return files
