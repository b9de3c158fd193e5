"""Images for the comparison of loaders: seeded noise that costs a decoder about what a photograph does.

The power of photographs falls with spatial frequency about as 1/f², so that is the noise to make: its JPEGs have the
size of photographs of these dimensions (80 to 120 kB), and size is what entropy decoding takes its time for.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg

from data_prep.folder import FolderSource
from data_prep.formats import prepare
from data_prep.plan import make_plan

SPLIT = "train"
_CLASSES = 8
_QUALITY = 90
_FALLOFF = 1.2  # of the amplitude; a little steeper than photographs, which have smooth parts
_CHROMA = 0.35  # strength of colour against that of brightness


@dataclass(frozen=True)
class DataSet:
    """The same JPEG files three times.

    Attributes:
        root: folder that holds all of it.
        images: number of images.
    """

    root: Path
    images: int

    @property
    def folder(self) -> Path:
        """Files, one folder per class."""
        return self.root / "files" / SPLIT

    @property
    def shards(self) -> Path:
        """Tars and a beton, their bytes those of the files."""
        return self.root / "shards" / SPLIT

    @property
    def beton(self) -> Path:
        """The beton."""
        return self.shards / f"{SPLIT}.beton"

    def tars(self) -> list[str]:
        """The tars, in order."""
        return [str(path) for path in sorted(self.shards.glob("*.tar"))]


def make_data_set(root: Path, images: int, workers: int) -> DataSet:
    """Write the files and shards, or take those that an earlier call has finished."""
    data, note = DataSet(root, images), root / "done.json"
    if note.exists() and json.loads(note.read_text()) == images:
        return data
    for number in range(_CLASSES):
        (data.folder / f"class{number}").mkdir(parents=True)
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(partial(_write_image, data.folder), range(images), chunksize=16))
    plan = make_plan(FolderSource(root / "files"), root / "shards", shard_size=256)
    prepare(plan, "both", workers=workers, progress=False)
    note.write_text(json.dumps(images))
    return data


def warm_page_cache(data: DataSet) -> float:
    """Read everything once; the mean size of an image in kB."""
    sizes = [len(path.read_bytes()) for path in data.folder.rglob("*.jpg")]
    for path in data.shards.iterdir():
        path.read_bytes()
    return sum(sizes) / len(sizes) / 1e3


def _write_image(folder: Path, number: int) -> None:
    shape = (500, 375) if number % 4 == 0 else (375, 500)  # ImageNet has about one upright in four
    pixels = _noise(np.random.default_rng(number), *shape)
    encoded = simplejpeg.encode_jpeg(pixels, quality=_QUALITY, colorspace="RGB", colorsubsampling="420")
    (folder / f"class{number % _CLASSES}" / f"{number:06d}.jpg").write_bytes(encoded)


def _noise(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Brightness and two colour differences, each smooth noise of its own; ``(height, width, 3)``."""
    down, across = np.fft.fftfreq(height, 1 / height), np.fft.rfftfreq(width, 1 / width)
    radius = np.maximum(np.hypot(down[:, None], across), 1)
    real, imaginary = rng.standard_normal((2, 3, *radius.shape), dtype=np.float32)
    planes = np.fft.irfft2((real + 1j * imaginary) * radius**-_FALLOFF, s=(height, width))
    planes /= planes.std(axis=(1, 2), keepdims=True)
    y, blue, red = planes[0], _CHROMA * planes[1], _CHROMA * planes[2]
    rgb = 128 + rng.uniform(36, 60) * np.stack((y + red, y - (red + blue) / 2, y + blue), axis=2)
    return np.ascontiguousarray(rgb.clip(0, 255).astype(np.uint8))
