"""Pictures as bytes, as a person sees them: upright, on white paper, from black to white."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from metarl.errors import UserError, note, printable

FILE_LIMIT = 256 * 2**20
"""Bytes of a picture's file; photographs have a twentieth of it."""
FAINT = 16
"""Shades of 256; where a picture's darkest and lightest are not so far apart, one sees nothing."""


def contents(files: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """The name and content of each file.

    Raises:
        UserError: it cannot be read, or is too large for a picture.
    """
    for path in files:
        try:
            with path.open("rb") as file:
                content = file.read(FILE_LIMIT + 1)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        if len(content) > FILE_LIMIT:
            raise UserError(f"{path} is larger than {FILE_LIMIT:,} bytes; make it smaller")
        yield str(path), content


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
            with warnings.catch_warnings(action="ignore"):  # of what decoders make good
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content)) as image:
                    image = as_seen(image).convert("RGB" if color else "L")
                    if image.size != (size, size):
                        image = image.resize((size, size), Image.Resampling.BILINEAR)
                    decoded.append(np.asarray(image, np.uint8))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise UserError(
                f"{name} has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels; make it smaller"
            ) from None
        except Exception as error:  # What damaged files make decoders raise is of every kind.
            raise UserError(
                f"{name} is no image that can be read ({type(error).__name__}); remove it"
            ) from None
    pixels = np.stack(decoded)
    return pixels.transpose(0, 3, 1, 2) if color else pixels[:, None]


def as_seen(image: Image.Image) -> Image.Image:
    """The picture (of an animation the first one) as viewers show it: turned as its camera was
    held, what is transparent on white, and more than 8 bits brought to 8.

    Raises:
        ValueError: it is a program that draws (PostScript), which is not run.
    """
    if image.format == "EPS":
        raise ValueError("PostScript")
    with suppress(Exception):  # Viewers show pictures whose EXIF data is damaged, too.
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(image))
    if image.has_transparency_data:
        ink = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", ink.size, "white"), ink)
    return image


def _eight_bits(image: Image.Image) -> UInt8[np.ndarray, "Y X"]:
    """Grey of 16 or 32 bits, or of floats.

    Formats of 16 bits say what white is. Where none does, it is the least of 1 (floats), 255 and
    65535 that no value exceeds; values beyond all these go from the darkest to the lightest, as
    viewers of measurements show them. NaN is black.
    """
    values = np.asarray(image).astype(np.float64)
    known = np.isfinite(values)
    low, high = values.min(where=known, initial=np.inf), values.max(where=known, initial=-np.inf)
    black = 0.0
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        white = 65535.0
    elif low >= 0 and high <= 65535:
        white = min(w for w in (1.0, 255.0, 65535.0) if high <= w and (w > 1 or image.mode == "F"))
    else:
        black, white = low, max(high, np.nextafter(low, np.inf))
    shades = 255 * (np.where(known, values, black) - black) / (white - black)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        shades[values == transparent] = 255
    return np.round(shades).astype(np.uint8)


def note_blank(images: UInt8[np.ndarray, "M C Y X"], names: Iterable[str]) -> None:
    """Notes on which images nothing is to be seen, such as white ink on nothing; `names` are those
    of their files, in the same order."""
    pixels = images.reshape(*images.shape[:2], -1)
    blank = (pixels.max(-1) - pixels.min(-1)).max(-1) < FAINT
    if blank.any():
        count, total = int(blank.sum()), len(blank)
        first = next(name for name, empty in zip(names, blank, strict=True) if empty)
        which = f"{count} of {total} images are" if count > 1 else f"1 of {total} images is"
        note(
            f"{which} of one shade or nearly so, the first {printable(first)}: nothing is to be "
            "seen on white ink without paper, nor on values that use little of the range"
        )
