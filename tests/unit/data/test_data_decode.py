import io

import numpy as np
import pytest
from image_folders import encode, picture
from PIL import Image

import data_prep.clean
from cait_dist.data import decode
from cait_dist.data.decode import decode_rgb
from cait_dist.data.errors import CorruptImageError


def by_pillow(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_are_those_of_pillow(subsampling: int, progressive: bool) -> None:
    encoded = encode(picture(1, 101, 67), quality=90, subsampling=subsampling, progressive=progressive)
    found = decode_rgb(encoded)
    np.testing.assert_array_equal(found, by_pillow(encoded))
    assert found.shape == (67, 101, 3)
    assert found.flags.c_contiguous


@pytest.mark.parametrize(
    ("mode", "image_format", "options"),
    [
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
        ("1", "PNG", {}),
        ("L", "PNG", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "BMP", {}),
    ],
)
def test_other_formats_are_decoded_by_pillow(mode: str, image_format: str, options: dict[str, object]) -> None:
    encoded = encode(picture(2).convert(mode), image_format, **options)
    np.testing.assert_array_equal(decode_rgb(encoded), by_pillow(encoded))


def test_sixteen_bit_greys_are_scaled_and_not_clipped() -> None:
    grey = (np.arange(64 * 4, dtype=np.uint16) * 256 + 17).reshape(16, 16)
    found = decode_rgb(encode(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(found[..., 0], grey >> 8)


def test_orientation_in_the_metadata_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_rgb(encode(picture(3, 40, 30), exif=exif)).shape == (30, 40, 3)


@pytest.mark.parametrize("keep", [0, 1, 2, 20, 300, -20])
def test_a_truncated_jpeg_is_an_error(keep: int) -> None:
    encoded = encode(picture(4, 120, 90))
    with pytest.raises(CorruptImageError, match="cannot be decoded"):
        decode_rgb(encoded[:keep])


def test_garbage_is_an_error() -> None:
    with pytest.raises(CorruptImageError):
        decode_rgb(b"\xff\xd8" + bytes(1000))
    with pytest.raises(CorruptImageError):
        decode_rgb(b"no image at all")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_absurdly_large_images_are_refused_before_they_are_decoded(
    image_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decode.MAX_PIXELS == data_prep.clean.MAX_PIXELS == 100_000_000
    monkeypatch.setattr(decode, "MAX_PIXELS", 40 * 30 - 1)
    with pytest.raises(CorruptImageError, match="40×30 pixels"):
        decode_rgb(encode(picture(5), image_format))
