"""Decide what to do with the bytes of one image: keep them, encode them anew, or put them aside.

A sound JPEG is kept byte for byte: encoding it again would only lose quality. All that is ever cut out of one is an
EXIF block that is damaged or states an orientation (see `jpeg_segments`). Everything that a JPEG decoder might trip
over (PNG named ``.JPEG``, CMYK colours: ImageNet has both) is decoded by Pillow and written as an RGB JPEG. What Pillow
cannot decode to the last row is broken. The decision looks at the content, never at the name.

A PNG of a thumbnail (CIFAR's 32 pixels, MNIST's 28) is kept, too. As a JPEG it would lose what it can least afford,
since training enlarges it; at the quality at which little is lost, it would be larger than the PNG.

Colours become what timm and torchvision see, Pillow's ``convert("RGB")``: CMYK and YCCK are read inverted, as Adobe
writes them; palettes are looked up; transparency is dropped and not blended with anything, so the colour that lies
under a transparent pixel shows. The one exception is 16-bit grey, which that conversion would clip.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from .jpeg_segments import without_odd_exif

JPEG_QUALITY = 95
# Twice what a 100-megapixel camera writes by mistake would still be a decompression bomb for a training machine.
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 2**20
LARGEST_KEPT_PNG = 32 * 32
FORMATS = ("JPEG", "JPEG2000", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "AVIF")
"""What photographs come as. Pillow knows more, and has EPS painted by another program, which runs what it says."""


@dataclass(frozen=True)
class Cleaned:
    """The outcome for one image.

    Attributes:
        jpeg: the bytes to store, a JPEG or the PNG of a thumbnail; empty if the image is broken.
        change: why the bytes differ from the original's, or "".
        broken: why the image was put aside, or "".
    """

    jpeg: bytes = b""
    change: str = ""
    broken: str = ""


def clean(encoded: bytes, resize: int | None = None) -> Cleaned:
    """Check one image file's bytes and bring them into the form that shards hold.

    Args:
        encoded: content of the file.
        resize: longest that the shorter side may be, in pixels; larger images are made smaller. None for any length.
    """
    if not 0 < len(encoded) <= MAX_BYTES:
        return Cleaned(broken=f"{len(encoded):,} bytes; at most {MAX_BYTES:,} are taken" if encoded else "empty")
    plain, oddity = without_odd_exif(encoded)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata of other formats, and sizes that are checked below
            with Image.open(io.BytesIO(plain), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    return Cleaned(broken=f"{image.width}×{image.height} pixels; at most {MAX_PIXELS:,} are taken")
                image.load()
                target = _smaller(image.size, resize)
                if target == image.size and _is_kept(image):
                    return Cleaned(plain, change=f"EXIF cut out ({oddity})" if oddity else "")
                return _encoded_anew(image, target)
    except UnidentifiedImageError:
        # Pillow's own words hold an address in memory, and the list of broken images must come out the same again.
        return Cleaned(broken="no image of a known format")
    except Exception as error:  # Pillow's plugins raise almost anything on crafted input
        return Cleaned(broken=f"{type(error).__name__}: {error}")


def is_png(encoded: bytes) -> bool:
    """Whether what is stored for an image is a PNG and no JPEG."""
    return encoded.startswith(b"\x89PNG")


def _is_kept(image: Image.Image) -> bool:
    if image.mode not in ("RGB", "L"):
        return False
    if image.format == "PNG":
        # Decoders agree about plain colours alone.
        odd = {"transparency", "exif"} & set(image.info)
        return image.width * image.height <= LARGEST_KEPT_PNG and not odd
    return image.format in ("JPEG", "MPO")


def _smaller(size: tuple[int, int], resize: int | None) -> tuple[int, int]:
    """The size with a shorter side of at most ``resize`` pixels."""
    short = min(size)
    if resize is None or short <= resize:
        return size
    width, height = (round(side * resize / short) for side in size)
    return width, height


def _encoded_anew(image: Image.Image, target: tuple[int, int]) -> Cleaned:
    rgb, was = to_rgb(image), f"{image.format} {image.mode}"
    if target != image.size:
        was += f" {image.width}×{image.height} resized to {target[0]}×{target[1]} and"
        # The filter that training and evaluation crop with; for smaller images Pillow's has antialiasing.
        rgb = rgb.resize(target, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Cleaned(buffer.getvalue(), change=f"{was} encoded anew as JPEG RGB, quality {JPEG_QUALITY}")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to 8-bit RGB; 16-bit greys are scaled, where Pillow's own conversion would clip them."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.clip(np.asarray(image), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
