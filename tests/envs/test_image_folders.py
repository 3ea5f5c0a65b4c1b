"""Images from folders and from Omniglot's official files: accepted and refused inputs."""

import os
import shutil
import zipfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import envs.few_shot.omniglot as omniglot
import envs.few_shot.pictures as pictures
from envs.few_shot import FoldersConfig, OmniglotConfig
from envs.few_shot.folders import read_class_names, split_called
from envs.few_shot.images import ImageDistribution
from metarl.errors import UserError

ALPHABETS = {"images_background": ["Greek", "Tengwar"], "images_evaluation": ["Atlantean"]}


def number_of(part: str, alphabet: str, character: int) -> int:
    return 10 * (1 + [*chain(*ALPHABETS.values())].index(alphabet)) + character


def draw(path: Path, number: int, size: int = 105) -> None:
    """Draws an image like Omniglot's: dark on light, one bit; here with one shade in its middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page = np.full((size, size), 255, np.uint8)
    rows = slice(size // 4, size // 4 + number)
    page[rows, size // 4 : -size // 4] = 0
    Image.fromarray(page).convert("1").save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Omniglot's layout: part/alphabet/character/image, 4 characters per alphabet, 20 images
    each."""
    for part, alphabets in ALPHABETS.items():
        for alphabet in alphabets:
            for character in range(1, 5):
                for image in range(1, 21):
                    number = number_of(part, alphabet, character)
                    name = f"{number:04d}_{image:02d}.png"
                    folder = tmp_path / part / alphabet / f"character{character:02d}"
                    draw(folder / name, number)
    return tmp_path


def zip_up(tree: Path) -> Path:
    """Replaces the folders by zip files like the official ones."""
    for part in ALPHABETS:
        with zipfile.ZipFile(tree / f"{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((tree / part).rglob("*")):
                archive.write(path, path.relative_to(tree))
        shutil.rmtree(tree / part)
    return tree


SMALL = {"num_train_classes": 8, "ways": 4, "shots": 2, "queries": 3, "test_queries": 3}


def test_zip_files_and_folders_are_the_same(tree: Path) -> None:
    (tree / "images_background" / ".DS_Store").write_text("left behind")
    unpacked = OmniglotConfig(root=tree, **SMALL).build()
    (tree / "images_background" / ".DS_Store").unlink()
    zipped = OmniglotConfig(root=zip_up(tree), **SMALL).build()
    assert unpacked.train.content_hash == zipped.train.content_hash
    assert unpacked.test.content_hash == zipped.test.content_hash
    names = unpacked.train.classes.names + unpacked.test.classes.names
    assert len(set(names)) == 12 and "images_background/Greek/character01" in names
    assert unpacked.train.num_classes == 32  # four turns of 8 characters
    images = unpacked.train.classes.images
    assert images.shape == (160, 1, 28, 28) and images.dtype == np.uint8
    # ink is high, paper is 0, and characters of a higher number have more ink
    ink = {
        name: float(unpacked.train.classes.only([name]).images.mean())
        for name in unpacked.train.classes.names
    }
    assert images[:, 0, 0].max() == 0
    by_number = sorted(ink, key=lambda name: number_of("", name.split("/")[1], int(name[-2:])))
    assert by_number == sorted(ink, key=lambda name: ink[name])


def test_splits(tree: Path) -> None:
    background = OmniglotConfig(root=tree, split="background", **SMALL).build()
    assert all("Atlantean" in name for name in background.test.classes.names)
    assert not any("Atlantean" in name for name in background.train.classes.names)
    one, other = (OmniglotConfig(root=tree, seed=seed, **SMALL).build() for seed in (0, 1))
    assert one.test.classes.names != other.test.classes.names
    listed = tree / "held_out.txt"
    held_out = [f"images_background/Greek/character0{n}" for n in range(1, 5)]
    listed.write_text("\n".join(held_out) + "\n")
    named = OmniglotConfig(root=tree, test_classes=listed, **SMALL).build()
    assert named.test.classes.names == held_out
    listed.write_text("images_background/Greek/character9\n")
    with pytest.raises(UserError, match=r"held_out.txt names .*character9; there is no such class"):
        OmniglotConfig(root=tree, test_classes=listed, **SMALL).build()


def test_what_is_wrong_with_the_files_is_said(tree: Path, tmp_path: Path) -> None:
    def refused(match: str, **options) -> None:
        with pytest.raises(UserError, match=match):
            OmniglotConfig(root=options.pop("root", tree), **(SMALL | options)).build()

    for nowhere in ("nowhere", "n" * 300):  # the second is longer than names can be
        refused(rf"{nowhere} has neither images_background.zip nor", root=tmp_path / nowhere)
    refused("leaves none to hold out", num_train_classes=12)
    refused("has 20 images; 10 shots and 15 queries need 25", shots=10, queries=15)
    stray = tree / "images_evaluation/Atlantean/character01/notes.txt"
    stray.write_text("no image")
    refused(r"character01/notes.txt is no image that can be read \(UnidentifiedImageError\)")
    stray.unlink()
    image = next((tree / "images_background/Greek/character02").iterdir())
    image.write_bytes(image.read_bytes()[:-30])
    refused(f"{image.name} is no image that can be read")
    image.unlink()
    draw(image, 11)
    archive = zip_up(tree) / "images_evaluation.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    refused(r"images_evaluation.zip is truncated or no zip file")
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 255
    damaged[len(whole) // 3 + 1] ^= 255
    archive.write_bytes(bytes(damaged))
    refused(r"images_evaluation.zip")
    archive.write_bytes(whole)
    OmniglotConfig(root=tree, **SMALL).build()


def test_images_are_decoded_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = omniglot.decode

    def counting(files, **options):
        images = original(files, **options)
        decoded.append(len(images))
        return images

    monkeypatch.setattr(omniglot, "decode", counting)
    distribution = OmniglotConfig(root=tree, **SMALL).build()
    assert sum(decoded) == 240
    for seed in range(5):
        distribution.train.sample(8, np.random.default_rng(seed))
    assert sum(decoded) == 240


def test_any_tree_of_folders(tmp_path: Path) -> None:
    for number in range(10):
        for image in range(6):
            path = tmp_path / "birds" / f"kind{number}" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (20 * number, 0, 10)).save(path)
    options = {"ways": 2, "shots": 1, "queries": 5, "test_queries": 5, "size": 16}
    config = FoldersConfig.model_validate({"root": tmp_path / "birds", "color": True, **options})
    distribution = config.build()
    assert distribution.shape.input_shape == (3, 16, 16)
    assert len(distribution.train.classes.names) == 8
    batch = distribution.test.sample(3, np.random.default_rng(0))
    red, label = batch.support_x[:, :, 0, 0, 0] * 255, batch.support_y
    held_out = {20 * int(name[-1]) for name in distribution.test.classes.names}
    assert set(red.round().int().flatten().tolist()) == held_out and label.shape == (3, 2)
    # folders named train and test define the split
    for split, numbers in (("train", range(7)), ("test", range(7, 10))):
        for number in numbers:
            source = tmp_path / "birds" / f"kind{number}"
            shutil.copytree(source, tmp_path / "split" / split / source.name)
    named = FoldersConfig.model_validate({"root": tmp_path / "split", **options}).build()
    assert named.test.classes.names == ["test/kind7", "test/kind8", "test/kind9"]
    with pytest.raises(UserError, match="no folder"):
        FoldersConfig.model_validate({"root": tmp_path / "fish", **options}).build()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no folders of images"):
        FoldersConfig.model_validate({"root": tmp_path / "empty", **options}).build()


# -- folders of one's own --------------------------------------------------------------------------


def classes_at(root: Path, *folders: str, images: int = 3) -> Path:
    """One folder of images per class; every image has a line at another place."""
    for number, folder in enumerate(folders):
        for image in range(images):
            page = np.full((28, 28), 255, np.uint8)
            page[number % 28, image:] = 0
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(page).save(root / folder / f"{image}.png")
    return root


def built(root: Path, **options) -> ImageDistribution:
    few = {"ways": 2, "shots": 1, "queries": 2, "test_queries": 2, "test_share": 0.4}
    return FoldersConfig.model_validate({"root": root, **few, **options}).build()


def split(root: Path, **options) -> tuple[list[str], list[str]]:
    distribution = built(root, **options)
    return distribution.train.classes.names, distribution.test.classes.names


def refused(root: Path, match: str, **options) -> None:
    with pytest.raises(UserError, match=match) as said:
        built(root, **options)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("train", "Train", "TRAINING", "training_set", "train images", "meta-train"), "train"),
        (("metatrain", "images_background", "train2017", "Train-Data"), "train"),
        (("val", "Valid", "VALIDATION", "meta_val", "val2017"), "val"),
        (("test", "Test", "testing", "test-set", "eval", "Evaluation"), "test"),
        (("images_evaluation", "held-out", "holdout", "metatest"), "test"),
        (("trains", "metal", "contest", "latest", "values", "image", "background", "set"), None),
    ],
)
def test_what_folders_of_splits_are_called(names: Sequence[str], called: str | None) -> None:
    assert {name: split_called(name) for name in names} == dict.fromkeys(names, called)


@pytest.mark.parametrize(
    ("train", "test", "other"),
    [
        ("train", "test", None),
        ("Train", "Test", None),
        ("images_background", "images_evaluation", None),
        ("train", "val", None),
        ("deep/down/training", "deep/down/validation", None),
        ("train", "test", "val"),
    ],
)
def test_splits_are_as_the_folders_say(
    tmp_path: Path, train: str, test: str, other: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"{train}/{name}" for name in "abc"] + [f"{test}/{name}" for name in "xyz"]
    classes_at(tmp_path, *folders)
    if other:
        classes_at(tmp_path, f"{other}/a", f"{other}/x")  # in both splits; it is ignored
    assert split(tmp_path) == (folders[:3], folders[3:])
    said = capsys.readouterr().err
    if other:
        assert f"{other}: neither learned from nor held out" in said
    elif test.endswith(("val", "validation")):
        held_out = test.rpartition("/")[2]
        assert f"has no folder called test: the classes in {held_out} are held out" in said
    else:
        assert said == ""


def test_a_single_folder_says_nothing_about_the_split(tmp_path: Path) -> None:
    train, test = split(classes_at(tmp_path, *(f"train/{name}" for name in "abcde")))
    assert len(train) == 3 and len(test) == 2


def test_class_names_that_sound_like_splits(tmp_path: Path) -> None:
    """A train can also be a vehicle."""
    train, test = split(classes_at(tmp_path, "bus", "car", "train", "tank", "test"))
    assert sorted(train + test) == ["bus", "car", "tank", "test", "train"]


@pytest.mark.parametrize(
    ("folders", "match"),
    [
        (
            ("train/cat", "train/dog", "test/cat", "test/dog"),
            "train/cat and test/cat in .* are the same class, but held-out classes must not be "
            "training classes: keep all images of a class",
        ),
        (("train/cat", "train/dog", "val/Cat", "val/owl"), "train/cat and val/Cat in"),
        (("train/cat", "train/dog", "Test/dog", "Test/owl"), "train/dog and Test/dog in"),
        (("train/big/cat", "train/dog", "test/big/cat", "test/x"), "train/big/cat and test/big/ca"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "cat/t.* and cat/t.* in"),
        (("train/a", "train/b", "Train/c", "test/d"), "has Train and train, which are both called"),
        (("train/a", "train/b", "test/c", "eval/d"), "has eval and test, which are both called"),
        (("train/a", "train/b", "others/c", "others/d"), "has a folder train but none .* test"),
        (("test/a", "test/b", "val/c", "val/d"), "has a folder val but none .* called train"),
        (("train", "train/a", "train/b", "test/c", "test/d"), "train holds files beside its cla"),
        (("train/train", "train/bus", "test/train", "test/car"), "train/train and test/train in"),
        (("a",), "2 ways need as many classes; a split has 0"),
    ],
)
def test_splits_that_are_none_are_refused(
    tmp_path: Path, folders: tuple[str, ...], match: str
) -> None:
    refused(classes_at(tmp_path, *folders), match)


def test_letters_of_both_cases_are_classes(tmp_path: Path) -> None:
    train, test = split(classes_at(tmp_path, "a", "A", "b", "B"))
    assert sorted(train + test) == ["A", "B", "a", "b"]


def test_a_class_that_a_file_holds_out_is_not_learned_from_elsewhere(tmp_path: Path) -> None:
    classes_at(tmp_path, "train/a", "train/b", "val/a", "val/c")
    (tmp_path / "held_out.txt").write_text("val/a\nval/c\n")
    refused(tmp_path, "train/a and val/a in", test_classes=tmp_path / "held_out.txt")


# -- files and links -------------------------------------------------------------------------------


def test_links_are_followed(tmp_path: Path) -> None:
    names = list("abcde")
    store = classes_at(tmp_path / "store", *names)
    plain = built(store)
    for linked in (tmp_path / "folders", tmp_path / "files"):
        linked.mkdir()
        for name in names:
            if linked.name == "folders":
                (linked / name).symlink_to(store / name)
            else:
                (linked / name).mkdir()
                for path in (store / name).iterdir():
                    (linked / name / path.name).symlink_to(path)
        assert built(linked).train.content_hash == plain.train.content_hash
    (store / "a" / "up").symlink_to(store)  # would never end
    assert built(store).test.content_hash == plain.test.content_hash
    (store / "twice").symlink_to(store / "b")
    refused(store, "/store/(b|twice) and .*/store/(b|twice) are the same folder")


def test_what_is_no_file_is_refused_and_nothing_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = classes_at(tmp_path, *"abcd")
    (root / "notes.txt").write_text("beside the classes")
    (root / "a" / "Thumbs.db").write_bytes(b"left behind")
    (root / ".git").mkdir()
    odd = root / "b" / "odd.png"

    odd.symlink_to(root / "nowhere.png")
    refused(root, "b/odd.png is a link to nothing, no image; remove it")
    odd.unlink()
    os.mkfifo(odd)
    refused(root, "b/odd.png is a pipe or device, no image; remove it")
    odd.unlink()
    odd.mkdir()
    refused(root, "the folder .*b/odd.png is empty; remove it, or put images into it")
    odd.rmdir()
    odd.write_bytes(b"")
    refused(root, "b/odd.png is no image that can be read")
    with odd.open("wb") as file:
        file.truncate(2**40)  # a sparse file
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "FILE_LIMIT", 10_000)
        refused(root, "b/odd.png is larger than 10,000 bytes")
    odd.unlink()

    def denied(path: Path, *_) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        refused(root, "cannot read .*0.png: Permission denied")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", denied)
        refused(root, "cannot read .*: Permission denied")
    assert len(built(root).train.classes.names) == 2


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    classes_at(tmp_path, *"abcd")
    os.rename(tmp_path / "a", os.fsencode(tmp_path) + b"/\xff")
    root = os.fsdecode(os.fsencode(tmp_path) + b"\xff")
    tmp_path.rename(root)
    distribution = built(Path(root))
    names = [distribution.name, *distribution.train.classes.names, *distribution.test.classes.names]
    assert "\\xff" in names
    "".join(names).encode()


def test_a_list_of_classes_as_people_write_it(tmp_path: Path) -> None:
    known = ["a/one", "a/two", "# odd", "b"]
    listed = tmp_path / "held_out.txt"

    def named(content: bytes) -> list[str]:
        listed.write_bytes(content)
        return read_class_names(listed, known)

    assert named("\ufeff# from Windows\r\na\\two\r\n\r\nb\r\na/two\r\n".encode()) == ["a/two", "b"]
    assert named(b"./a/one\n b/ \n# odd") == ["a/one", "b", "# odd"]
    for content, match in (
        (b"a/thre", r"names a/thre; there is no such class. Did you mean"),
        (b"\n# nothing\n", "names no class to hold out"),
        ("\n".join(known).encode(), "names all classes and leaves none to learn from"),
        ("b".encode("utf-16"), "cannot read .*held_out.txt"),
    ):
        with pytest.raises(UserError, match=match):
            named(content)
    with pytest.raises(UserError, match=r"no file .*nowhere.txt that names the held-out"):
        read_class_names(tmp_path / "nowhere.txt", known)
    with pytest.raises(UserError, match="cannot read"):
        read_class_names(tmp_path, known)


# -- zip files -------------------------------------------------------------------------------------


def test_hostile_zip_files_are_one_line(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_up(tree) / "images_evaluation.zip"
    whole = archive.read_bytes()
    name = "images_evaluation/Atlantean/character09/0.png"

    def refused(match: str, *, patched: Sequence[tuple[int, int]] = (), entry: str = name) -> None:
        """Adds an entry with changed bytes in its directory record, and checks the refusal."""
        archive.write_bytes(whole)
        with zipfile.ZipFile(archive, "a") as opened:
            info = zipfile.ZipInfo(entry)
            opened.writestr(info, b"0")
        content = bytearray(archive.read_bytes())
        record = content.rindex(b"PK\x01\x02")
        for place, value in patched:
            content[record + place] = value
        archive.write_bytes(bytes(content))
        with pytest.raises(UserError, match=rf"images_\w+\.zip.*{match}") as said:
            OmniglotConfig(root=tree, **SMALL).build()
        assert "\n" not in str(said.value)

    refused("0.png is encrypted; put the official file", patched=[(8, 1)])
    for method in (12, 14, 97):  # bzip2, LZMA, and an undefined one
        refused(rf"0.png uses compression method {method}, which", patched=[(10, method)])
    refused("0.png is larger than 16,777,216 bytes", patched=[(27, 2)])
    refused("leads out of the archive", entry="../../0.png")
    refused("leads out of the archive", entry="/etc/0.png")
    refused("leads out of the archive", entry="a\\..\\..\\0.png")
    refused("is truncated or no zip file", patched=[(9, 8), (46, 255)])  # invalid UTF-8
    refused("is truncated or no zip file", patched=[(16, 1)])  # another checksum
    with pytest.warns(UserWarning, match="Duplicate name"):
        again = "images_evaluation/Atlantean/character01/0031_01.png"
        refused("0031_01.png is there twice", entry=again)
    with monkeypatch.context() as patch:
        patch.setattr(omniglot, "TOTAL_LIMIT", 1000)
        refused("unpacks to more than 1,000 bytes")
    with monkeypatch.context() as patch:
        patch.setattr(omniglot, "ARCHIVE_LIMIT", 1000)
        refused("is larger than 1,000 bytes")
    refused("0.png is no image that can be read")


def test_damaged_zip_files_are_one_line_or_whole(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        omniglot, "decode", lambda files, **_: np.zeros((len(files), 1, 28, 28), np.uint8)
    )
    archive = zip_up(tree) / "images_evaluation.zip"
    whole = np.frombuffer(archive.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        damaged = whole.copy()
        # half of them in the directory, at the end
        first = 0 if rng.random() < 0.5 else int(0.7 * len(whole))
        places = rng.integers(first, len(whole), rng.choice([1, 5]))
        damaged[places] = rng.integers(0, 256, len(places))
        archive.write_bytes(damaged.tobytes())
        try:
            omniglot.read_omniglot(tree)
        except UserError as error:
            refused += 1
            assert "images_evaluation.zip" in str(error) and "\n" not in str(error)
    assert refused > 10
