"""Images in folders, a folder for each class: `<root>/…/<class>/<image>`.

Which classes are held out is what a file says (a class per line, by its path below the root), or
what subfolders of the root say, `train/` and `test/`; and if there is neither, a share of the
classes, drawn by a seed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from envs.few_shot.images import EpisodeConfig, ImageClasses, ImageDistribution, Symmetries
from metarl.config import Few, Seed
from metarl.errors import UserError, nearest

HIDDEN = (".", "__MACOSX")
"""Names that begin so are what systems and archivers leave behind."""


class FoldersConfig(EpisodeConfig):
    """Few-shot classification of your own images, a folder for each class."""

    kind: Literal["folders"] = "folders"
    root: Path
    """The folder whose subfolders are classes, or `train/` and `test/` with classes in them."""
    test_classes: Path | None = None
    """A file that names the held-out classes, one a line; the others are learned from."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Held out of all classes where neither a file nor the folders say which."""
    size: Few = 28
    """Images are scaled to so many pixels squared."""
    color: bool = False
    """Keep three channels, or make them grey."""
    symmetries: Symmetries = 1
    """4 turns, or those and their mirror images (8), are classes too, in both splits."""
    seed: Seed = 0
    """Draws the held-out classes."""

    def build(self) -> ImageDistribution:
        """The distribution.

        Raises:
            UserError: a folder or file is missing, is no image, or classes have too few of them.
        """
        files = files_by_class(self.root)
        images = {
            name: decode(contents(files_of_class), size=self.size, color=self.color)
            for name, files_of_class in files.items()
        }
        classes = ImageClasses.of(images)
        train, test = self._split(list(images))
        return ImageDistribution(
            self.root.name, classes.only(train), classes.only(test), self,
            symmetries=self.symmetries, test_symmetries=self.symmetries,
        )  # fmt: skip

    def _split(self, names: list[str]) -> tuple[list[str], list[str]]:
        if self.test_classes is not None:
            test = read_class_names(self.test_classes, names)
            return [name for name in names if name not in set(test)], test
        by_folder = {
            split: [name for name in names if name.startswith(f"{split}/")]
            for split in ("train", "test")
        }
        if all(by_folder.values()):
            return by_folder["train"], by_folder["test"]
        shuffled = np.random.default_rng(self.seed).permutation(names).tolist()
        held_out = max(1, round(self.test_share * len(names)))
        return sorted(shuffled[held_out:]), sorted(shuffled[:held_out])


def files_by_class(root: Path) -> dict[str, list[Path]]:
    """The files of each folder that holds some, by its path below the root; all in order.

    Raises:
        UserError: there is no such folder, or no file in it.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; it should hold a folder of images for each class")
    files: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root)
        if path.is_file() and not any(part.startswith(HIDDEN) for part in below.parts):
            files.setdefault(below.parent.as_posix(), []).append(path)
    files.pop(".", None)  # beside the classes, such as the file that names the split
    if not files:
        raise UserError(f"{root} holds no folders of images")
    return files


def contents(files: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """The name and content of each file."""
    return ((str(file), file.read_bytes()) for file in files)


def decode(
    files: Iterable[tuple[str, bytes]], *, size: int, color: bool
) -> UInt8[np.ndarray, "I C Y X"]:
    """Images, given by name and content, as bytes, scaled to `size` pixels squared.

    Raises:
        UserError: a file is no image, or a damaged one; names it.
    """
    decoded = []
    for name, content in files:
        try:
            with Image.open(io.BytesIO(content)) as image:
                image = image.convert("RGB" if color else "L")
                if image.size != (size, size):
                    image = image.resize((size, size), Image.Resampling.BILINEAR)
                decoded.append(np.asarray(image, np.uint8))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{name} is no image that can be read ({type(error).__name__}); remove it"
            ) from None
    pixels = np.stack(decoded)
    return pixels.transpose(0, 3, 1, 2) if color else pixels[:, None]


def read_class_names(path: Path, known: list[str]) -> list[str]:
    """The classes that a file names, one a line.

    Raises:
        UserError: no such file, or it names a class that there is not; says which.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the class names in {path}: {error}") from None
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        if name not in known:
            raise UserError(f"{path} names {name}; there is no such class.{nearest(name, known)}")
    return names
