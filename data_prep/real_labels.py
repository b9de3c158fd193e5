"""ReaL labels of ImageNet's validation images, brought into the order of the samples.

"Are we done with ImageNet?" (Beyer et al. 2020) gives each validation image all labels that fit, in a JSON list: entry
i belongs to the image whose name has the number i + 1, an empty entry to an image that is not counted. Shards are
shuffled, so the list is rearranged here once: entry i of ``real.json`` belongs to sample i of ``val``, and whoever
evaluates need know nothing of names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DataPrepError, some_text
from .files import read_plain, write_whole
from .manifest import read_source_names
from .plan import Plan

REAL_FILE = "real.json"
SPLIT = "val"
MAX_BYTES = 64 * 2**20
_EXPECTED = "expected a JSON list with a list of labels per image"
_NUMBER = re.compile(r".*ILSVRC2012_val_(\d{8})", re.DOTALL)


@dataclass(frozen=True)
class RealLabels:
    """Labels by the number in an image's name.

    Attributes:
        labels: entry i belongs to image i + 1.
    """

    labels: tuple[tuple[int, ...], ...]

    def write(self, plan: Plan) -> Path:
        """Write the labels beside the manifest of a plan that was carried out; the file comes out the same each time.

        Returns:
            The file.
        """
        folder = plan.out / SPLIT
        numbers = _numbers(folder, read_source_names(folder))
        lines = ",\n".join(json.dumps(self.labels[number - 1]) for number in numbers)
        write_whole(folder / REAL_FILE, f"[\n{lines}\n]\n".encode())
        return folder / REAL_FILE


def read_real_labels(path: Path, plan: Plan) -> RealLabels:
    """Read a list of labels and hold it against a plan, before any work is done.

    Args:
        path: the JSON file.
        plan: must have the split ``val``, of images named ``ILSVRC2012_val_XXXXXXXX``.

    Raises:
        DataPrepError: if the file is no such list or does not fit the images.
    """
    if SPLIT not in plan.splits:
        raise DataPrepError(f"{path}: ReaL labels belong to a split {SPLIT}, and there is none; leave out --real")
    images = plan.splits[SPLIT].images
    real = RealLabels(_parse(path, len(images.class_names)))
    numbers = _numbers(plan.source.place, images.names)
    # Sorted, they must be 1, 2, … without gap: then the list cannot be that of other images.
    if len(real.labels) != len(numbers) or sorted(numbers) != list(range(1, len(numbers) + 1)):
        raise DataPrepError(
            f"{path}: has {len(real.labels):,} entries, but {SPLIT} has {len(numbers):,} images with numbers from "
            f"{min(numbers):,} to {max(numbers):,}; both must be whole"
        )
    entries = [(set(real.labels[number - 1]), label) for number, label in zip(numbers, images.labels, strict=True)]
    told = [label in entry for entry, label in entries if entry]
    if 2 * sum(told) < len(told):
        raise DataPrepError(
            f"{path}: fits the labels of only {sum(told):,} of {len(told):,} images of {SPLIT}; the two number the "
            "classes differently: ReaL counts the sorted wnids from 0"
        )
    return real


def _parse(path: Path, num_classes: int) -> tuple[tuple[int, ...], ...]:
    try:
        return parse_labels(read_plain(path, MAX_BYTES), path, num_classes)
    except OSError as error:
        raise DataPrepError(f"{path}: cannot be read ({error.strerror or error}); {_EXPECTED}") from None


def parse_labels(raw: bytes, place: Path | str, num_classes: int) -> tuple[tuple[int, ...], ...]:
    """The labels in the content of such a file.

    Args:
        raw: JSON.
        place: where it comes from, for messages.
        num_classes: labels are below it.

    Raises:
        DataPrepError: if it is something else.
    """
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataPrepError(f"{place}: cannot be read ({error}); {_EXPECTED}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, list) for entry in entries):
        raise DataPrepError(f"{place}: is something else; {_EXPECTED}")
    for number, entry in enumerate(entries):
        if not all(type(label) is int and 0 <= label < num_classes for label in entry):
            raise DataPrepError(
                f"{place}: entry {number} is {some_text(entry)}; labels are numbers from 0 to {num_classes - 1}"
            )
    return tuple(map(tuple, entries))


def _numbers(place: object, names: Sequence[str]) -> list[int]:
    """The number in each name."""
    matches = [_NUMBER.match(name) for name in names]
    if None in matches:
        name = names[matches.index(None)]
        raise DataPrepError(
            f"{place}: ReaL labels go by names like ILSVRC2012_val_00000001, and {name!r} is none; leave out --real"
        )
    return [int(match[1]) for match in matches if match]
