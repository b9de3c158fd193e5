"""Decide what to do with the bytes of one image: keep them, encode them anew, or put them aside.

A sound JPEG is kept byte for byte: encoding it again would only lose quality. Everything that a JPEG decoder might
trip over (PNG named ``.JPEG``, CMYK colours: ImageNet has both) is decoded by Pillow and written as an RGB JPEG. What
Pillow cannot decode to the last row is broken. The decision looks at the content, never at the name.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

JPEG_QUALITY = 95
# Twice what a 100-megapixel camera writes by mistake would still be a decompression bomb for a training machine.
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Cleaned:
    """The outcome for one image.

    Attributes:
        jpeg: the bytes to store; empty if the image is broken.
        change: why the bytes differ from the original's, or "".
        broken: why the image was put aside, or "".
    """

    jpeg: bytes = b""
    change: str = ""
    broken: str = ""


def clean(encoded: bytes) -> Cleaned:
    """Check one image file's bytes and bring them into the form that shards hold."""
    if len(encoded) > MAX_BYTES:
        return Cleaned(broken=f"{len(encoded):,} bytes; at most {MAX_BYTES:,} are taken")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd EXIF blocks and sizes that are checked below
            with Image.open(io.BytesIO(encoded)) as image:
                if image.width * image.height > MAX_PIXELS:
                    return Cleaned(broken=f"{image.width}×{image.height} pixels; at most {MAX_PIXELS:,} are taken")
                file_format, mode = image.format, image.mode
                image.load()
                if file_format in ("JPEG", "MPO") and mode in ("RGB", "L"):
                    return Cleaned(jpeg=encoded)
                buffer = io.BytesIO()
                to_rgb(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    except Exception as error:  # Pillow's plugins raise almost anything on crafted input
        return Cleaned(broken=f"{type(error).__name__}: {error}")
    return Cleaned(
        jpeg=buffer.getvalue(), change=f"{file_format} {mode} encoded anew as JPEG RGB, quality {JPEG_QUALITY}"
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to 8-bit RGB; 16-bit greys are scaled, where Pillow's own conversion would clip them."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
