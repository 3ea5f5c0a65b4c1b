"""Images in one folder per class: `<root>/…/<class>/<image>`.

The held-out classes are those listed in a file (one per line, as a path below the root), or those
in the subfolder `test/` beside `train/`. Without either, a share of the classes, drawn with a seed,
is held out.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import chain, takewhile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from envs.few_shot.images import (
    EpisodeConfig,
    ImageClasses,
    ImageDistribution,
    Symmetries,
    room_for_images,
)
from envs.few_shot.pictures import contents, decode, note_blank
from metarl.config import Few, Seed
from metarl.errors import UserError, nearest, note, printable
from metarl.system.files import read_text

HIDDEN = (".", "__MACOSX", "Thumbs.db", "desktop.ini")
"""Prefixes of the names of files and folders that systems and archivers leave behind."""

SPLITS = {
    "train": "train(ing)?|images background",
    "val": "val|valid(ation)?",
    "test": "test(ing)?|eval(uation)?|held ?out|hold ?out",
}
"""Folder names of each split, with or without AROUND: `meta-test`, `Training Set`."""
AROUND = "(meta|images?)? ?({}) ?(images?|set|data|split)? ?((19|20)[0-9]{{2}})?"


class FoldersConfig(EpisodeConfig):
    """Few-shot classification of your own images, one folder per class."""

    kind: Literal["folders"] = "folders"
    root: Path
    """Folder whose subfolders are classes, or `train/` and `test/` with classes in them."""
    test_classes: Path | None = None
    """File that lists the held-out classes, one per line; the others are for training."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the classes to hold out if neither a file nor the folders define the split."""
    size: Few = 28
    """Side of the scaled square images (pixels)."""
    color: bool = False
    """Keep three colour channels instead of converting to grey."""
    symmetries: Symmetries = 1
    """Symmetries of a square that make new classes in both splits: 1 none, 4 the rotations, 8 also
    mirror images."""
    seed: Seed = 0
    """Seed of the random split."""

    def build(self) -> ImageDistribution:
        """The distribution.

        Raises:
            UserError: a folder or file is missing, a file is no image, a class has too few images,
                or a held-out class is also a training class.
        """
        files = files_by_class(self.root)
        train, test = self._split(list(files))
        check_apart(train, test, root=self.root)
        used = {name: files[name] for name in files if name in {*train, *test}}
        counts = np.array([len(paths) for paths in used.values()])
        images = room_for_images(
            int(counts.sum()), (3 if self.color else 1, self.size, self.size), lower="env.size"
        )
        ends = np.cumsum(counts)
        for paths, end in zip(used.values(), ends, strict=True):
            images[end - len(paths) : end] = decode(
                contents(paths), size=self.size, color=self.color
            )
        note_blank(images, (str(path) for path in chain(*used.values())))
        classes = ImageClasses(list(used), images, counts)
        return ImageDistribution(
            printable(self.root.name), classes.only(train), classes.only(test), self,
            symmetries=self.symmetries, test_symmetries=self.symmetries,
        )  # fmt: skip

    def _split(self, names: list[str]) -> tuple[list[str], list[str]]:
        if self.test_classes is not None:
            test = read_class_names(self.test_classes, names)
            return [name for name in names if name not in set(test)], test
        by_folder = split_by_folders(names, root=self.root)
        if by_folder is not None:
            return by_folder
        shuffled = np.random.default_rng(self.seed).permutation(names).tolist()
        held_out = max(1, round(self.test_share * len(names)))
        return sorted(shuffled[held_out:]), sorted(shuffled[:held_out])


# -- splits ----------------------------------------------------------------------------------------


def split_called(folder: str) -> str | None:
    """Split that a folder's name stands for: `train`, `val` or `test`; None for other names."""
    name = re.sub("[-_. ]+", " ", folder.casefold())
    said = (split for split, words in SPLITS.items() if re.fullmatch(AROUND.format(words), name))
    return next(said, None)


def split_by_folders(names: list[str], *, root: Path) -> tuple[list[str], list[str]] | None:
    """Training and held-out classes, from the names of the folders above them; None if no folder is
    named after a split. Without a test folder, the validation folder is held out.

    Raises:
        UserError: the folder names are ambiguous.
    """
    paths = [name.split("/") for name in names]
    levels = zip(*(path[:-1] for path in paths), strict=False)
    shared = len([*takewhile(lambda level: len(set(level)) == 1, levels)])
    below: dict[str, list[str]] = {}
    for name, path in zip(names, paths, strict=True):
        if len(path) > shared + 1:
            below.setdefault(path[shared], []).append(name)
    called = {folder: split_called(folder) for folder in below}
    folders = {s: [f for f in below if called[f] == s] for s in SPLITS if s in called.values()}
    top = {path[shared] for path in paths}
    if not folders or len(top) == 1:
        return None
    above = "/".join([str(root), *paths[0][:shared]])
    for split, several in folders.items():
        if len(several) > 1:
            raise UserError(
                f"{above} has {several[0]} and {several[1]}, which are both called {split}; "
                "keep one, or name the held-out classes in a file: env.test_classes"
            )
    if "train" not in folders or len(folders) == 1:
        found = next(iter(folders.values()))[0]
        missing = "train" if "train" not in folders else "test"
        raise UserError(
            f"{above} has a folder {found} but none that is called {missing}; add it, or name the "
            "held-out classes in a file: env.test_classes"
        )
    train, test = folders["train"][0], folders.get("test", folders.get("val", []))[0]
    if loose := [f for f in (train, test) if "/".join([*paths[0][:shared], f]) in names]:
        raise UserError(
            f"{above}/{loose[0]} holds files beside its class folders; put them into one, or "
            "remove them"
        )
    if "test" not in folders:
        note(f"{above} has no folder called test: the classes in {test} are held out")
    if unused := sorted(top - {train, test}):
        note(f"{above}/{', '.join(unused)}: neither learned from nor held out")
    return below[train], below[test]


def check_apart(train: list[str], test: list[str], *, root: Path) -> None:
    """Checks that no class is in both splits, as with `train/cat` and `test/cat`.

    Raises:
        UserError: a class is in both; the message names both folders.
    """
    first: dict[tuple[str, ...], str] = {}
    for name in [*train, *test]:
        parts = name.split("/")
        kept = [part for part in parts if not split_called(part)] or parts[-1:]
        plain = tuple(unicodedata.normalize("NFKC", part).casefold() for part in kept)
        other = first.setdefault(plain, name)
        if other != name and (len(kept) < len(parts) or any(map(split_called, other.split("/")))):
            raise UserError(
                f"{other} and {name} in {root} are the same class, but held-out classes must not "
                "be training classes: keep all images of a class in one folder, in train or in "
                "test; or put all classes side by side, and env.test_share of them are held out"
            )


# -- files -----------------------------------------------------------------------------------------


def files_by_class(root: Path) -> dict[str, list[Path]]:
    """Files of each folder that holds any, by its path below the root; folders and files sorted.

    Raises:
        UserError: the folder is missing or holds no files, or an entry is no regular file.
    """
    try:
        if not root.is_dir():
            raise UserError(f"no folder {root}; it should hold a folder of images for each class")
        found = _files_below(root)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or root}: {error.strerror}") from None
    files: dict[str, list[Path]] = {}
    for path in sorted(found):
        name = path.parent.relative_to(root).as_posix()
        # File names may be no UTF-8, but text must be.
        name = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        files.setdefault(name, []).append(path)
    if not files:
        raise UserError(f"{root} holds no folders of images")
    return files


def _files_below(root: Path) -> list[Path]:
    """Every file in folders below `root`; follows links and visits each folder once."""
    found: list[Path] = []
    seen: dict[tuple[int, int], Path] = {}
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        status = folder.stat()
        place = (status.st_dev, status.st_ino)
        if place in above:
            continue  # Following a link to a parent would never end.
        if place in seen:
            raise UserError(f"{seen[place]} and {folder} are the same folder; remove one of them")
        seen[place] = folder
        inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(HIDDEN)]
        if not inside and folder != root:
            raise UserError(f"the folder {folder} is empty; remove it, or put images into it")
        for path in inside:
            if path.is_dir():
                waiting.append((path, above | {place}))
            elif folder == root:
                continue  # A file beside the class folders, such as the list of the split.
            elif path.is_file():
                found.append(path)
            else:
                what = "a link to nothing" if path.is_symlink() else "a pipe or device"
                raise UserError(f"{path} is {what}, no image; remove it")
    return found


def read_class_names(path: Path, known: list[str]) -> list[str]:
    """Classes that a file lists, one per line; skips empty lines and lines that begin with #.

    Raises:
        UserError: the file is missing, lists an unknown class, or lists none or all classes.
    """
    try:
        text = read_text(path).removeprefix("\ufeff")  # Windows marks UTF-8 with it.
    except FileNotFoundError:
        raise UserError(f"no file {path} that names the held-out classes") from None
    names: dict[str, None] = {}
    for line in map(str.strip, text.splitlines()):
        name = line if line in known else line.replace("\\", "/").strip("/").removeprefix("./")
        if name in known:
            names[name] = None
        elif line and not line.startswith("#"):
            raise UserError(f"{path} names {line}; there is no such class.{nearest(line, known)}")
    if not names or len(names) == len(known):
        which = "no class to hold out" if not names else "all classes and leaves none to learn from"
        raise UserError(f"{path} names {which}")
    return list(names)
