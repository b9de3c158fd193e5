"""Images of 32 pixels, as CIFAR has them, are stored without loss from the source to the loss."""

import io
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from image_folders import encode, picture
from PIL import Image, PngImagePlugin

from cait_dist.data.decode import decode_rgb
from cait_dist.data.reader_ffcv import FfcvReader
from cait_dist.data.reader_webdataset import open_split
from data_prep.beton import JPG, RAW
from data_prep.clean import clean
from data_prep.formats import prepare
from data_prep.plan import make_plan
from data_prep.sources import open_source
from data_prep.verify import verify


@pytest.mark.parametrize(("mode", "size"), [("RGB", (32, 32)), ("L", (28, 28)), ("RGB", (64, 16))])
def test_a_png_of_a_thumbnail_is_kept_to_the_byte(mode: str, size: tuple[int, int]) -> None:
    encoded = encode(picture(0, *size).convert(mode), "PNG")
    outcome = clean(encoded)
    assert (outcome.jpeg, outcome.change, outcome.broken) == (encoded, "", "")


def test_a_png_is_no_thumbnail_if_it_is_larger_or_odd() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    small = picture(0, 32, 32)
    odd = {
        "larger": encode(picture(0, 33, 32), "PNG"),
        "turned": encode(small, "PNG", exif=turned),
        "transparent colour": encode(small, "PNG", transparency=(0, 0, 0)),
        "alpha": encode(small.convert("RGBA"), "PNG"),
        "palette": encode(small.quantize(16), "PNG"),
        "16 bits": encode(Image.fromarray(np.full((32, 32), 40000, np.uint16)), "PNG"),
    }
    for kind, encoded in odd.items():
        assert "encoded anew as JPEG" in clean(encoded).change, kind
    assert "resized to 16×16 and encoded anew" in clean(encode(small, "PNG"), resize=16).change
    assert clean(encode(small, "PNG")[:-40]).broken


def thumbnails() -> list[Image.Image]:
    """Photographs as small as CIFAR's: pieces of 32 × 32 pixels of two that come with scikit-learn, in three sizes."""
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 - takes seconds to import

    pieces = []
    for photograph in map(Image.fromarray, load_sample_images().images):
        for factor in (2, 4, 8):
            small = photograph.reduce(factor)
            corners = product(range(0, small.width - 31, 32), range(0, small.height - 31, 32))
            pieces += [small.crop((x, y, x + 32, y + 32)) for x, y in corners]
    return pieces


def test_a_jpeg_would_change_it_or_be_larger() -> None:
    pieces = thumbnails()
    bytes_of, change = {}, {}
    for kind, options in (
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("JPEG", {"quality": 100, "subsampling": 0, "keep_rgb": True}),
    ):
        encoded = [encode(piece, kind, **options) for piece in pieces]
        differences = [
            np.abs(decode_rgb(content).astype(int) - np.asarray(piece))
            for content, piece in zip(encoded, pieces, strict=True)
        ]
        name = f"{kind} {', '.join(f'{key} {value}' for key, value in options.items())}".strip()
        bytes_of[name] = np.mean([len(content) for content in encoded])
        change[name] = np.max(differences)
        print(
            f"{name}: {bytes_of[name]:.0f} bytes, pixels change by {np.mean(differences):.2f}, at most {change[name]}"
        )
    plain, usual, best, best_rgb = bytes_of
    assert change[plain] == 0
    assert change[usual] > 25
    assert change[best] > change[best_rgb] >= 1
    assert bytes_of[plain] < min(bytes_of[best], bytes_of[best_rgb])


def test_text_in_a_thumbnail_does_no_harm() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 100)
    assert not clean(encode(picture(0, 32, 32), "PNG", pnginfo=text)).change


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thumbnails as PNGs and photographs as JPEGs, in tars and in a beton that stores JPEGs."""
    root = tmp_path_factory.mktemp("thumbnails")
    for number in range(12):
        folder = root / "images" / "train" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        if number % 2:
            picture(number).save(folder / f"{number:02d}.jpg")
        else:
            picture(number, 32, 32).save(folder / f"{number:02d}.png")
    prepare(make_plan(open_source(root / "images"), root / "out"), "both", "jpg", workers=1, progress=False)
    return root


def test_tars_hold_it_as_png_and_betons_hold_its_pixels(mixed: Path) -> None:
    tars, beton = (open_split(mixed / "out", "train", kind) for kind in ("webdataset", "ffcv"))
    assert isinstance(beton, FfcvReader)
    for index in range(12):
        name, stored = tars.source_name(index), tars.read(index)
        assert stored == (mixed / "images" / name).read_bytes()
        found, mode = beton.read(index), beton.table["mode"][index]
        if name.endswith(".png"):
            assert mode == RAW
            assert isinstance(found, np.ndarray)
            with Image.open(mixed / "images" / name) as image:
                np.testing.assert_array_equal(found, np.asarray(image))
            assert isinstance(stored, bytes)
            np.testing.assert_array_equal(found, decode_rgb(stored))
        else:
            assert (mode, found) == (JPG, stored)


def test_members_are_named_by_what_they_are(mixed: Path) -> None:
    with tarfile.open(mixed / "out" / "train" / "train-000000.tar") as tar:
        for member in tar.getmembers():
            if member.name.endswith(".cls"):
                continue
            content = tar.extractfile(member)
            assert content is not None
            with Image.open(io.BytesIO(content.read())) as image:
                assert member.name.endswith({"PNG": ".png", "JPEG": ".jpg"}[str(image.format)])


def test_verification_takes_both_and_finds_a_damaged_thumbnail(mixed: Path, tmp_path: Path) -> None:
    assert verify(mixed / "out").ok
    reader = open_split(mixed / "out", "train", "webdataset")
    row = next(i for i in range(12) if reader.source_name(i).endswith(".png"))
    tar = mixed / "out" / "train" / "train-000000.tar"
    content = tar.read_bytes()
    stored = reader.read(row)
    assert isinstance(stored, bytes)
    try:
        tar.write_bytes(content.replace(stored, stored[:60] + bytes(len(stored) - 60)))
        assert any(
            f"sample {row} " in problem and "cannot be decoded" in problem for problem in verify(tar.parent).problems
        )
    finally:
        tar.write_bytes(content)
