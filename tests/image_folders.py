"""Small folders of real JPEG files for tests."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.plan import make_plan
from data_prep.run import run
from data_prep.sources import FolderSource


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A smooth random picture; another one for every seed."""
    coarse = np.random.RandomState(seed).randint(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    """The picture as a file's content."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def write_image_folder(root: Path, counts: Mapping[str, int], classes: int = 5) -> Path:
    """Write ``ROOT/SPLIT/CLASS/*.jpg`` with the given number of images per split, of various sizes."""
    seed = 0
    for split, count in counts.items():
        for number in range(count):
            folder = root / split / f"class{number % classes}"
            folder.mkdir(parents=True, exist_ok=True)
            size = 24 + 7 * (seed % 5), 24 + 5 * (seed % 7)
            (folder / f"{number:05d}.jpg").write_bytes(encode(picture(seed, *size)))
            seed += 1
    return root


def write_data_set(root: Path, counts: Mapping[str, int], shard_size: int = 16) -> Path:
    """Write such a folder and prepare it; the folder of the shards is returned."""
    source = FolderSource(write_image_folder(root / "images", counts))
    run(make_plan(source, root / "shards", shard_size=shard_size), workers=1, progress=False)
    return root / "shards"
