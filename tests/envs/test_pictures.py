"""Pictures in any format are decoded as a person sees them; damaged ones give one line."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.few_shot.pictures import as_seen, decode, note_blank
from metarl.errors import UserError

SIZE = 16
SHADES = np.arange(256, dtype=np.uint8).reshape(SIZE, SIZE)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, *, depth: int, color_type: int, rows: bytes = b"") -> bytes:
    """A PNG file made by hand, as Pillow writes neither all depths nor impossible sizes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def grey(content: bytes) -> np.ndarray:
    (image,) = decode([("it", content)], size=SIZE, color=False)
    return image[0]


def rgb(content: bytes) -> np.ndarray:
    (image,) = decode([("it", content)], size=SIZE, color=True)
    return image


# -- shades ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(
            (kind, mode)
            for kind in ("PNG", "GIF", "TIFF", "BMP")
            for mode in ("1", "L", "P", "RGB")
        ),
        *((kind, mode) for kind in ("TIFF", "JPEG") for mode in ("CMYK", "YCbCr")),
    ],
)
def test_plain_pictures_are_what_pillow_makes_of_them(kind: str, mode: str) -> None:
    """Equal to the bit, so that the hashes of splits in stored results stay valid."""
    content = saved(Image.fromarray(SHADES).convert("RGB").convert(mode), kind)
    for color, target in ((False, "L"), (True, "RGB")):
        with Image.open(io.BytesIO(content)) as image:
            expected = np.asarray(image.convert(target))
        (seen,) = decode([("it", content)], size=SIZE, color=color)
        np.testing.assert_array_equal(seen[0] if not color else seen.transpose(1, 2, 0), expected)


WIDE = SHADES.astype(np.uint16) * 257
"""The same shades in 16 bits."""


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (WIDE, "PNG"),
        (WIDE, "TIFF"),
        (WIDE.astype(">u2"), "TIFF"),
        (WIDE, "PPM"),
        (WIDE.astype(np.int32), "TIFF"),
        (SHADES.astype(np.int32), "TIFF"),
        (SHADES.astype(np.float32), "TIFF"),
        (SHADES.astype(np.float32) / 255, "TIFF"),
        (WIDE.astype(np.float32), "TIFF"),
        (SHADES.astype(np.float32) * 1000 - 70_000, "TIFF"),
    ],
)
def test_shades_of_more_than_eight_bits(values: np.ndarray, kind: str) -> None:
    np.testing.assert_array_equal(grey(saved(Image.fromarray(values), kind)), SHADES)


def test_measurements_that_are_missing_are_black() -> None:
    values = SHADES.astype(np.float32)
    values[:2] = np.nan
    values[2:4] = np.inf
    seen = grey(saved(Image.fromarray(values), "TIFF"))
    assert not seen[:4].any()
    np.testing.assert_array_equal(seen[4:], SHADES[4:])
    assert not grey(saved(Image.fromarray(np.full_like(values, np.nan)), "TIFF")).any()
    assert not grey(saved(Image.fromarray(np.full_like(values, -7)), "TIFF")).any()


# -- paper -----------------------------------------------------------------------------------------


INK = np.zeros((SIZE, SIZE), bool)
INK[4:9, 3:12] = True


def drawn(mode: str) -> bytes:
    """Black ink on a transparent background whose colour is black too."""
    alpha = Image.fromarray(np.uint8(255) * INK)
    if mode == "16 bit":
        pixels = np.zeros((SIZE, SIZE, 2), ">u2")
        pixels[..., 1] = 65535 * INK
        rows = b"".join(b"\0" + row.tobytes() for row in pixels)
        return png(SIZE, SIZE, depth=16, color_type=4, rows=rows)
    if mode in ("LA", "RGBA"):
        image = Image.new(mode, (SIZE, SIZE))
        image.putalpha(alpha)
        return saved(image)
    image = Image.fromarray(np.where(INK, 0, 7).astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette([0, 0, 0] * 256)
    if mode == "RGB":
        return saved(image.convert("RGB"), transparency=(7, 7, 7))
    return saved(image, "GIF" if mode == "GIF" else "PNG", transparency=7)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "16 bit", "P", "L", "RGB", "I;16", "GIF"])
def test_what_is_transparent_is_paper(mode: str) -> None:
    np.testing.assert_array_equal(grey(drawn(mode)), np.where(INK, 0, 255))
    assert (rgb(drawn(mode)) == np.where(INK, 0, 255)).all()


def test_half_transparent_ink_is_half_as_dark() -> None:
    image = Image.merge("LA", [Image.new("L", (SIZE, SIZE), 0), Image.fromarray(SHADES)])
    np.testing.assert_array_equal(grey(saved(image)), 255 - SHADES)


# -- how it is held, and which ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_pictures_are_upright(kind: str) -> None:
    """Orientation 6: the camera was turned, so the left edge of the file is the top."""
    page = np.full((SIZE, SIZE), 255, np.uint8)
    page[:, :5] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    seen = grey(saved(Image.fromarray(page), kind, exif=exif))
    assert seen[:4].max() < 60 and seen[6:].min() > 200
    damaged = saved(Image.fromarray(page), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(grey(damaged), page)


def test_the_first_picture_of_an_animation() -> None:
    first, second = (Image.new("L", (SIZE, SIZE), shade) for shade in (40, 200))
    for kind in ("GIF", "PNG", "TIFF"):
        content = saved(first, kind, save_all=True, append_images=[second])
        assert (grey(content) == 40).all()


def test_postscript_is_not_run() -> None:
    content = saved(Image.new("L", (SIZE, SIZE)), "EPS")
    with pytest.raises(UserError, match=r"it is no image that can be read \(ValueError\)"):
        grey(content)
    with Image.open(io.BytesIO(content)) as image, pytest.raises(ValueError, match="PostScript"):
        as_seen(image)


# -- what cannot be read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no image"),
        (b"\0" * 500, "no image"),
        (png(9, 9, depth=8, color_type=0), "no image"),
        (png(0, 9, depth=8, color_type=0), "no image"),
        (png(9_000, 11_000, depth=8, color_type=0), "more than 89,478,485 pixels"),
        (png(50_000, 50_000, depth=8, color_type=0), "more than 89,478,485 pixels"),
        (png(2**31 - 1, 2**31 - 1, depth=8, color_type=0), "more than 89,478,485 pixels"),
    ],
    ids=["empty", "zeros", "cut", "no width", "large", "bomb", "impossible"],
)
def test_what_cannot_be_read_is_one_line(
    content: bytes, message: str, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(UserError, match=rf"^here/it\.png (is|has) .*{message}.*$"):
        decode([("here/it.png", content)], size=SIZE, color=False)
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "ICO", "TGA"])
def test_damage_is_one_line_or_still_a_picture(kind: str) -> None:
    rng = np.random.default_rng(0)
    whole = saved(Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)), kind)
    refused = 0
    for _ in range(60):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, rng.choice([30, len(whole)]), rng.choice([1, 3, 20]))
        damaged[places] = rng.integers(0, 256, len(places))
        kept = len(whole) if rng.random() < 0.7 else int(rng.integers(len(whole)))
        try:
            assert grey(damaged[:kept].tobytes()).shape == (SIZE, SIZE)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5


def test_pictures_on_which_nothing_is_seen_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    images = np.stack([SHADES, np.full_like(SHADES, 9), SHADES % 8, SHADES % 32])[:, None]
    note_blank(images, ["seen.png", "one\nshade.png", "dark.png", "dim.png"])
    said = capsys.readouterr().err
    assert said.startswith("note: 2 of 4 images are of one shade or nearly so, the first one shade")
    assert said.count("\n") == 1
    note_blank(images[[0, 3]], ["seen.png", "dim.png"])
    assert capsys.readouterr().err == ""
    red = np.zeros((1, 3, SIZE, SIZE), np.uint8)
    red[:, 0] = 200  # channels differ, but the picture is blank
    note_blank(red, ["red.png"])
    assert "1 of 1 images is" in capsys.readouterr().err
