"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 images each.

Lake et al. 2015, "Human-level concept learning through probabilistic program induction". Nothing is
downloaded: the folder must hold `images_background.zip` and `images_evaluation.zip` as published
(github.com/brendenlake/omniglot), or the folders that they unpack to.
"""

from __future__ import annotations

import zipfile
from os.path import isdir, isfile
from pathlib import Path
from typing import Literal

import numpy as np

from envs.few_shot.folders import HIDDEN, files_by_class, read_class_names
from envs.few_shot.images import EpisodeConfig, ImageClasses, ImageDistribution, Symmetries
from envs.few_shot.pictures import contents, decode, note_blank
from metarl.config import Seed, Size
from metarl.errors import UserError, printable

PARTS = ("images_background", "images_evaluation")
SIZE = 28

ARCHIVE_LIMIT, ENTRY_LIMIT, TOTAL_LIMIT = 128 * 2**20, 16 * 2**20, 1024 * 2**20
"""Largest sizes (bytes) of a zip file, of a file in it, and of all files in it. The official zip
files have 10 MB, and their images a few hundred bytes each."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Accepted compression methods; zipfile reads others whole into memory, whatever their claimed
size."""
ENCRYPTED = 0x1
"""Flag of an entry that needs a password."""
NOT_OFFICIAL = "put the official file there, or unpack it beside"


class OmniglotConfig(EpisodeConfig):
    """Few-shot classification of Omniglot's characters, from its official files."""

    kind: Literal["omniglot"] = "omniglot"
    root: Path = Path("data/omniglot")
    """Folder with images_background and images_evaluation, as zip files or unpacked."""
    split: Literal["random", "background"] = "random"
    """Held-out characters: `random` draws all but `num_train_classes` of both parts with the seed
    (Santoro et al. 2016; MAML, Reptile and Prototypical Networks follow them); `background` takes
    images_evaluation (20 unseen alphabets)."""
    num_train_classes: Size = 1200
    """Number of training characters of a random split."""
    test_classes: Path | None = None
    """File that lists the held-out characters, one per line, such as
    images_evaluation/Atlantean/character01; replaces `split`."""
    symmetries: Symmetries = 4
    """Symmetries of a square that make new classes in both splits: 1 none, 4 the rotations, 8 also
    mirror images."""
    seed: Seed = 0
    """Seed of the random split."""

    def build(self) -> ImageDistribution:
        """The distribution.

        Raises:
            UserError: the files are missing or damaged, or there are too few characters.
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
    """All characters, named by their path (part/alphabet/character); ink has high values.

    Raises:
        UserError: a part is missing or truncated, or holds a file that is no image.
    """
    by_class, file_names = {}, []
    for part in PARTS:
        archive, folder = root / f"{part}.zip", root / part
        if isdir(folder):
            files = {
                f"{part}/{name}": list(contents(paths))
                for name, paths in files_by_class(folder).items()
            }
        elif isfile(archive):
            files = _files_in(archive, part)
        else:
            raise UserError(
                f"{root} has neither {part}.zip nor {part}/; put Omniglot's official files there "
                "or name another folder: --env.root"
            )
        for name, images in files.items():
            by_class[name] = 255 - decode(images, size=SIZE, color=False)  # the files' ink is dark
            file_names += [file for file, _ in images]
    classes = ImageClasses.of(by_class)
    note_blank(classes.images, file_names)
    return classes


def _files_in(archive: Path, part: str) -> dict[str, list[tuple[str, bytes]]]:
    """Names and contents of the files of each folder in a zip file.

    Raises:
        UserError: it is no zip file, is damaged, or differs from the official ones in kind.
    """
    files: dict[str, list[tuple[str, bytes]]] = {}
    try:
        if archive.stat().st_size > ARCHIVE_LIMIT:
            raise UserError(f"{archive} is larger than {ARCHIVE_LIMIT:,} bytes; {NOT_OFFICIAL}")
        with zipfile.ZipFile(archive) as opened:
            for name, entry in _entries(archive, opened).items():
                below = name.rpartition("/")[0]
                below = below if below.startswith(f"{part}/") else f"{part}/{below}"
                with opened.open(entry) as file:  # without a limit it may unpack 2 GB at once
                    content = file.read(ENTRY_LIMIT)
                files.setdefault(below, []).append((f"{archive}/{name}", content))
    except UserError:
        raise
    except Exception as error:  # Damaged files make zipfile raise any kind of exception.
        raise UserError(
            f"{archive} is truncated or no zip file ({printable(error)}); copy it again"
        ) from None
    if not files:
        raise UserError(f"{archive} holds no images")
    return files


def _entries(archive: Path, opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Files in a zip file by name, sorted.

    Raises:
        UserError: a file cannot be read safely, or all together are too large.
    """
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in sorted(opened.infolist(), key=lambda entry: entry.filename):
        name = entry.filename.replace("\\", "/")  # Archives made on Windows may have backslashes.
        steps = name.split("/")
        if name.endswith("/") or any(step.startswith(HIDDEN) for step in steps if step != ".."):
            continue
        wrong = None
        if ".." in steps or name.startswith("/"):
            wrong = "leads out of the archive"
        elif name in entries:
            wrong = "is there twice"
        elif entry.flag_bits & ENCRYPTED:
            wrong = "is encrypted"
        elif entry.compress_type not in METHODS:
            wrong = f"uses compression method {entry.compress_type}, which is not read here"
        elif entry.file_size > ENTRY_LIMIT:
            wrong = f"is larger than {ENTRY_LIMIT:,} bytes"
        if wrong:
            raise UserError(f"{archive}: {printable(name)} {wrong}; {NOT_OFFICIAL}")
        entries[name] = entry
    if sum(entry.file_size for entry in entries.values()) > TOTAL_LIMIT:
        raise UserError(f"{archive} unpacks to more than {TOTAL_LIMIT:,} bytes; {NOT_OFFICIAL}")
    return entries
