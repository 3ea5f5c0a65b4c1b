"""Images from folders and from Omniglot's official files: what is read, and what is refused."""

import shutil
import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import envs.few_shot.omniglot as omniglot
from envs.few_shot import FoldersConfig, OmniglotConfig
from metarl.errors import UserError

ALPHABETS = {"images_background": ["Greek", "Tengwar"], "images_evaluation": ["Atlantean"]}


def number_of(part: str, alphabet: str, character: int) -> int:
    return 10 * (1 + [*chain(*ALPHABETS.values())].index(alphabet)) + character


def draw(path: Path, number: int, size: int = 105) -> None:
    """A page of Omniglot: dark on light, of one bit; here all of one shade in its middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page = np.full((size, size), 255, np.uint8)
    rows = slice(size // 4, size // 4 + number)
    page[rows, size // 4 : -size // 4] = 0
    Image.fromarray(page).convert("1").save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Omniglot's shape: part/alphabet/character/image, 4 characters of each alphabet, 20 images."""
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
    """The official zip files in place of the folders."""
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
    # ink is high, paper is 0, and more ink is in characters of a higher number
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

    refused(r"nowhere has neither images_background.zip nor", root=tmp_path / "nowhere")
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
    # folders that are called train and test say what is held out
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
