"""Colours, metadata and sizes: what cleaning makes of images that are sound but odd."""

import io
import random
import struct

import numpy as np
import pytest
from ilsvrc_tree import COLOURS, cmyk_jpeg, exif_segment, plain, with_exif, ycck_jpeg
from image_folders import encode, picture
from PIL import Image

from cait_dist.data.decode import decode_rgb
from data_prep.clean import clean
from data_prep.jpeg_segments import without_odd_exif

JPEG = encode(picture(0))


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("make", [cmyk_jpeg, ycck_jpeg])
def test_adobes_inverted_inks_become_the_right_colour(make, colour) -> None:
    encoded = make(colour)
    assert encoded[encoded.index(b"Adobe") + 11] == (2 if make is ycck_jpeg else 0)
    # libjpeg hands out what is stored, which Adobe defines to be 255 minus the ink: for no black, the colour itself.
    simplejpeg = pytest.importorskip("simplejpeg")
    stored = simplejpeg.decode_jpeg(encoded, colorspace="CMYK").astype(int)
    assert np.abs(stored[..., :3] - colour).max() <= 4
    assert stored[..., 3].min() >= 252
    outcome = clean(encoded)
    assert outcome.change == "JPEG CMYK encoded anew as JPEG RGB, quality 95"
    assert np.abs(pixels(outcome.jpeg) - colour).max() <= 6
    assert simplejpeg.decode_jpeg_header(outcome.jpeg)[2] == "YCbCr"


def test_transparency_is_dropped_and_not_blended() -> None:
    image = plain((200, 100, 50))
    image.putalpha(0)
    assert np.abs(pixels(clean(encode(image, "PNG")).jpeg)[20, 30] - (200, 100, 50)).max() <= 4
    indexed = plain((200, 100, 50)).quantize(8)
    outcome = clean(encode(indexed, "PNG", transparency=indexed.getpixel((30, 20))))
    assert outcome.change.startswith("PNG P ")
    assert np.abs(pixels(outcome.jpeg)[20, 30] - (200, 100, 50)).max() <= 4


def test_sixteen_bit_grey_is_scaled() -> None:
    grey = np.full((20, 30), 100 * 257, np.uint16)
    assert np.abs(pixels(clean(encode(Image.fromarray(grey), "PNG")).jpeg) - 100).max() <= 2


def test_several_pictures_in_one_file_count_as_the_first() -> None:
    stereo = encode(picture(0), "MPO", save_all=True, append_images=[picture(1)])
    outcome = clean(stereo)
    assert (outcome.jpeg, outcome.change) == (stereo, "")
    np.testing.assert_array_equal(decode_rgb(stereo), decode_rgb(encode(picture(0))))
    moving = clean(encode(picture(0), "GIF", save_all=True, append_images=[picture(1)]))
    assert np.abs(pixels(moving.jpeg) - pixels(encode(picture(0), "GIF"))).mean() < 8


@pytest.mark.parametrize("orientation", [0, 2, 3, 6, 8])
def test_an_orientation_is_cut_out_and_nothing_else(orientation: int) -> None:
    outcome = clean(with_exif(JPEG, orientation))
    assert (outcome.jpeg, outcome.change) == (JPEG, f"EXIF cut out (orientation {orientation})")


@pytest.mark.parametrize("cut", [1, 30, 60])
def test_damaged_exif_is_cut_out(cut: int) -> None:
    outcome = clean(with_exif(JPEG, cut=cut))
    assert (outcome.jpeg, outcome.change) == (JPEG, "EXIF cut out (damaged)")


def test_sound_exif_and_other_segments_stay() -> None:
    upright = with_exif(JPEG, orientation=1)
    assert clean(upright).jpeg == upright
    other = b"\xff\xe1\x00\x1dhttp://ns.adobe.com/xap/1.0/"[:31]
    comment = b"\xff\xfe\x00\x05abc"
    start = 4 + int.from_bytes(JPEG[4:6], "big")
    rest = JPEG[start:]
    outcome = clean(JPEG[:start] + other + b"\xff" + exif_segment(6) + comment + rest)
    assert outcome.jpeg == JPEG[:start] + other + b"\xff" + comment + rest
    assert not outcome.broken


def test_a_block_divided_among_segments_goes_as_a_whole() -> None:
    whole = exif_segment(6)[4:]
    parts = [whole[:40], b"Exif\0\0" + whole[40:]]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
    assert without_odd_exif(JPEG[:2] + segments + JPEG[2:]) == (JPEG, "orientation 6")


def test_bytes_that_look_like_exif_within_the_pixels_are_none() -> None:
    trailing = JPEG + exif_segment(6)
    assert without_odd_exif(trailing) == (trailing, "")
    scan = b"\xff\xd8\xff\xda\x00\x02" + exif_segment(6)
    assert without_odd_exif(scan) == (scan, "")


def test_no_input_upsets_the_walk() -> None:
    generator = random.Random(0)
    turned = with_exif(JPEG, 6)
    for _ in range(2000):
        damaged = bytearray(turned[: generator.randrange(len(turned))])
        for _ in range(generator.randrange(4)):
            if damaged:
                damaged[generator.randrange(min(len(damaged), 200))] = generator.randrange(256)
        plainer, oddity = without_odd_exif(bytes(damaged))
        assert len(plainer) < len(damaged) if oddity else plainer == damaged
        clean(bytes(damaged))


@pytest.mark.parametrize(
    ("size", "expected"), [((40, 30), (40, 30)), ((30, 90), (30, 90)), ((100, 80), (38, 30)), ((31, 62), (30, 60))]
)
def test_only_what_is_too_large_is_resized(size: tuple[int, int], expected: tuple[int, int]) -> None:
    encoded = encode(picture(3, *size))
    outcome = clean(encoded, 30)
    assert Image.open(io.BytesIO(outcome.jpeg)).size == expected
    assert (outcome.jpeg == encoded) == (size == expected)
    assert (f"{size[0]}×{size[1]} resized to" in outcome.change) == (size != expected)


def test_resizing_has_antialiasing() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    small = pixels(clean(encode(Image.fromarray(stripes), "PNG"), 32).jpeg)
    assert np.abs(small - 127.5).max() < 8


@pytest.mark.parametrize("encoded", [b"", b"<html>", b"\xff\xd8\xff\xe1\x00\x00"])
def test_reasons_are_the_same_each_time(encoded: bytes) -> None:
    assert clean(encoded).broken in ("empty", "no image of a known format")
