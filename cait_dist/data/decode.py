"""From an encoded image to pixels.

libjpeg-turbo by way of simplejpeg, with its exact (not its "fast") transforms, so that pixels are those of Pillow;
whatever that does not take goes to Pillow: CMYK and other rare JPEGs, PNG, WebP. Images are not rotated by their EXIF
orientation: neither are they in the evaluation that published accuracies come from.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_prep.clean import FORMATS, MAX_PIXELS, to_rgb

from .errors import CorruptImageError

Pixels = npt.NDArray[np.uint8]


def decode_rgb(encoded: bytes) -> Pixels:
    """Decode an image of any common format.

    Args:
        encoded: content of the image file.

    Returns:
        ``(height, width, 3)`` uint8, RGB, C-contiguous.

    Raises:
        CorruptImageError: if it cannot be decoded completely or has more than 100 million pixels.
    """
    if encoded[:2] == b"\xff\xd8" and (pixels := _decode_plain_jpeg(encoded)) is not None:
        return pixels
    return _decode_with_pillow(encoded)


def _decode_plain_jpeg(encoded: bytes) -> Pixels | None:
    """An ordinary colour or grey JPEG; None for anything that is not."""
    import simplejpeg  # noqa: PLC0415 - compiled; the rest of this package works without it

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
        if colorspace not in ("YCbCr", "Gray", "RGB"):
            return None
        if height * width > MAX_PIXELS:
            raise CorruptImageError(f"{width}×{height} pixels; at most {MAX_PIXELS:,} are decoded")
        return simplejpeg.decode_jpeg(encoded, colorspace="RGB")
    except CorruptImageError:
        raise
    except ValueError:
        return None


def _decode_with_pillow(encoded: bytes) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd EXIF blocks, and sizes that are checked below
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise CorruptImageError(f"{image.width}×{image.height} pixels; at most {MAX_PIXELS:,} are decoded")
                return np.array(to_rgb(image))
    except CorruptImageError:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on damaged input
        raise CorruptImageError(f"cannot be decoded ({type(error).__name__}: {error})") from None
