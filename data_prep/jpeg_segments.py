"""Take metadata out of a JPEG without touching its pixels.

A JPEG is a row of segments (marker, length, content) up to the compressed pixels. EXIF lies in APP1 segments before
them, so it can be cut out, and every other byte stays as it was. Two sorts are worth cutting out: blocks that are
damaged, about which readers complain, and blocks that state an orientation, because some decoders turn the image by it
(OpenCV) and some do not (Pillow, libjpeg-turbo). Published accuracies are measured without turning.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from PIL import Image

_EXIF = b"Exif\0"
_APP1, _START_OF_SCAN, _END_OF_IMAGE = 0xE1, 0xDA, 0xD9
_ALONE = {0x01, *range(0xD0, 0xD9)}
_ORIENTATION = 0x0112


def without_odd_exif(encoded: bytes) -> tuple[bytes, str]:
    """Cut the EXIF out of a JPEG if it is damaged or states an orientation.

    Args:
        encoded: any bytes; what is no JPEG comes back as it is.

    Returns:
        The bytes, and what is odd about the EXIF that was cut out, or "".
    """
    blocks = list(_exif_segments(encoded))
    oddity = _oddity([encoded[begin + 10 : end] for begin, end in blocks])
    if not oddity:
        return encoded, ""
    edges = [0, *(edge for block in blocks for edge in block), len(encoded)]
    return b"".join(encoded[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True)), oddity


def _exif_segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of each EXIF segment before the pixels; the walk ends where the bytes are no JPEG's any more."""
    at = 2 if encoded[:2] == b"\xff\xd8" else len(encoded)
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        if not at + 4 <= end <= len(encoded):
            return
        if marker == _APP1 and encoded.startswith(_EXIF, at + 4, end):
            yield at, end
        at = end


def _oddity(blocks: list[bytes]) -> str:
    """What is wrong with EXIF that lies in these segments: a long block is divided among several."""
    if not blocks:
        return ""
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exif.load(b"Exif\0\0" + b"".join(blocks))
            orientation = exif.get(_ORIENTATION, 1)
    except Exception:  # the reader of a binary format fails on damaged input in any way it likes
        return "damaged"
    if not isinstance(orientation, int):
        return "damaged"
    return "" if orientation == 1 else f"orientation {orientation}"
