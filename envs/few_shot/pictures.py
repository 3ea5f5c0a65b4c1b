"""Decoding of pictures to bytes as a viewer shows them: upright, on white, from black to white."""

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
"""Largest picture file (bytes); photographs have a twentieth of that."""
FAINT = 16
"""Smallest visible difference between a picture's darkest and lightest pixel, in shades of 256."""


def contents(files: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file.

    Raises:
        UserError: a file cannot be read, or is too large for a picture.
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
    """Pixels of images, given by name and content, scaled to `size` × `size`.

    Raises:
        UserError: a file is no image, or is damaged; the message names it.
    """
    decoded = []
    for name, content in files:
        try:
            with warnings.catch_warnings(action="ignore"):  # decoders warn of flaws they repair
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
        except Exception as error:  # Damaged files make decoders raise any kind of exception.
            raise UserError(
                f"{name} is no image that can be read ({type(error).__name__}); remove it"
            ) from None
    pixels = np.stack(decoded)
    return pixels.transpose(0, 3, 1, 2) if color else pixels[:, None]


def as_seen(image: Image.Image) -> Image.Image:
    """The picture (an animation's first frame) as viewers show it: upright by its EXIF data,
    transparent parts on white, and depths beyond 8 bits reduced to 8.

    Raises:
        ValueError: the file is a PostScript program, which is not run.
    """
    if image.format == "EPS":
        raise ValueError("PostScript")
    with suppress(Exception):  # Viewers also show pictures with damaged EXIF data.
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(image))
    if image.has_transparency_data:
        ink = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", ink.size, "white"), ink)
    return image


def _eight_bits(image: Image.Image) -> UInt8[np.ndarray, "Y X"]:
    """8-bit grey from a grey image of 16 or 32 bits, or of floats.

    16-bit formats define white. Elsewhere white is the smallest of 1 (floats only), 255 and 65535
    that no value exceeds; values beyond all of these are scaled from the darkest to the lightest,
    as viewers of measurements do. NaN is black.
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
    """Prints a note about images that show nothing, such as white ink on a transparent ground.

    `names` are the names of the images' files, in the same order.
    """
    pixels = images.reshape(*images.shape[:2], -1)
    blank = (pixels.max(-1) - pixels.min(-1)).max(-1) < FAINT
    if blank.any():
        count, total = int(blank.sum()), len(blank)
        first = next(name for name, empty in zip(names, blank, strict=True) if empty)
        which = f"{count} of {total} images are" if count > 1 else f"1 of {total} images is"
        note(
            f"{which} of one shade or nearly so, the first {printable(first)}: white ink on a "
            "transparent ground and values that span little of the range show nothing"
        )
