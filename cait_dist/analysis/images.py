"""Images to watch the model with: files of the user's, or samples of the run's own evaluation set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cait_dist.data.crop import eval_view
from cait_dist.data.errors import CorruptImageError
from cait_dist.data.reader_webdataset import open_split

from .errors import AnalysisError
from .subject import Subject

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Shown:
    """An image as the model is shown it.

    Attributes:
        name: a file's name, or the number of a sample and the name of its class.
        pixels: (3, S, S) uint8.
    """

    name: str
    pixels: Tensor


def choose_images(subject: Subject, places: Sequence[Path], count: int, image_size: int) -> list[Shown]:
    """The images to look at.

    Args:
        subject: says how they are shown, and where its own lie
        places: files, and folders of files; empty for samples of the run's first evaluation set, evenly spread over it
        count: most images
        image_size: side in pixels

    Raises:
        AnalysisError: if there are none
        DataError: if the set cannot be read
    """
    if places:
        return [_from_file(path, subject, image_size) for path in _files(places)[:count]]
    if subject.config is None or not subject.config.evaluation.sets:
        raise AnalysisError("there are no images to look at: pass files or folders with --images")
    config, chosen = subject.config, subject.config.evaluation.sets[0]
    reader = open_split(chosen.path or config.data.path, chosen.split, config.data.format, config.data.remote)
    numbers = np.unique(np.linspace(0, reader.num_samples - 1, count).round().astype(int)).tolist()
    return [
        Shown(
            f"{number}: {reader.class_names[int(reader.labels[number])]}",
            eval_view(reader.read(number), image_size, subject.crop_ratio),
        )
        for number in numbers
    ]


def in_batches(images: Sequence[Shown], subject: Subject, size: int, device: torch.device) -> Iterator[Tensor]:
    """Normalised images (b, 3, S, S), float32."""
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (subject.mean, subject.std))
    for start in range(0, len(images), size):
        pixels = torch.stack([image.pixels for image in images[start : start + size]])
        yield (pixels.to(device).float() / 255 - mean) / std


def _files(places: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise AnalysisError(f"--images {place}: holds no image ({', '.join(SUFFIXES)})")
            found += inside
        else:
            found.append(place)
    return found


def _from_file(path: Path, subject: Subject, image_size: int) -> Shown:
    try:
        return Shown(path.name, eval_view(path.read_bytes(), image_size, subject.crop_ratio))
    except OSError as error:
        raise AnalysisError(f"--images {path}: cannot be read ({error.strerror or error})") from None
    except CorruptImageError as error:
        raise AnalysisError(f"--images {path}: is no image ({error})") from None
