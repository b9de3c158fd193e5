"""What is known of a beton besides its bytes: ``train.beton.json``, beside ``train.beton``.

The beton holds images and labels. The record holds what a manifest holds for tars: names of the classes, checksum,
where it all came from. It is written after the beton, so a beton with a record is finished.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .files import write_whole
from .manifest import ManifestError
from .manifest_checks import MAX_MANIFEST_BYTES, Lie, get_entry, read_bounded, text_entries

RECORD_VERSION = 1


@dataclass(frozen=True)
class BetonRecord:
    """About one beton.

    Attributes:
        split: name of the split.
        source: where the images came from, for people.
        mode: how images are stored: jpg, proportion or raw.
        class_names: name of each label.
        shard_sizes: samples of each tar that it was made from; the block order shuffles by them.
        bytes: size of the file.
        sha256: its checksum in hexadecimal.
        content: digest of the tars' manifest that it was made from; equal for equal samples in the same order.
        plan: digest of the plan of those tars.
    """

    split: str
    source: str
    mode: str
    class_names: tuple[str, ...]
    shard_sizes: tuple[int, ...]
    bytes: int
    sha256: str
    content: str
    plan: str

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(self.shard_sizes)


def record_of(beton: Path) -> Path:
    """Where the record of a beton lies."""
    return beton.with_name(beton.name + ".json")


def write_beton_record(beton: Path, record: BetonRecord) -> None:
    """Vouch for a beton."""
    content = {"record_version": RECORD_VERSION, **asdict(record)}
    write_whole(record_of(beton), (json.dumps(content, indent=1) + "\n").encode())


def read_beton_record(beton: Path) -> BetonRecord:
    """What the record says, with types checked.

    Raises:
        ManifestError: if it is missing or damaged.
    """
    path = record_of(beton)
    try:
        content = json.loads(read_bounded(path, MAX_MANIFEST_BYTES))
        if not isinstance(content, dict) or get_entry(content, "record_version", int) != RECORD_VERSION:
            raise Lie(f"is not a record of version {RECORD_VERSION}")
        return BetonRecord(
            split=get_entry(content, "split", str),
            source=get_entry(content, "source", str),
            mode=get_entry(content, "mode", str),
            class_names=text_entries(get_entry(content, "class_names", list), "class_names"),
            shard_sizes=_sizes(get_entry(content, "shard_sizes", list)),
            bytes=get_entry(content, "bytes", int),
            sha256=get_entry(content, "sha256", str),
            content=get_entry(content, "content", str),
            plan=get_entry(content, "plan", str),
        )
    except (ValueError, RecursionError):
        raise ManifestError(f"{path}: is not JSON; restore it from its origin, or prepare the data again") from None
    except Lie as lie:
        raise ManifestError(f"{path}: {lie}; restore it from its origin, or prepare the data again") from None


def _sizes(values: list[object]) -> tuple[int, ...]:
    sizes = tuple(value for value in values if type(value) is int and value > 0)
    if len(sizes) != len(values):
        raise Lie("shard_sizes holds something that is not a positive integer")
    return sizes
