"""WebDataset tars that others have written as a source.

Training reads such tars as they are. Preparing them anew is worth it where they are sorted by class, hold what must be
cleaned or is too large, or where checksums are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from .errors import DataPrepError, some
from .foreign_tars import foreign_samples
from .manifest import MANIFEST_FILE, load_manifest
from .split import Split, set_aside_val, share_in_words
from .split_names import files_by_split
from .tar_source import Places, TarSource

CLASSES_FILE = "classes.txt"
_MAX_CLASSES_BYTES = 64 * 2**20
_EXPECTED = "one class's name a line is expected, in UTF-8"


def open_tars(root: Path, val_share: float = 0.0, seed: int = 0, split: str = "train") -> TarSource:
    """Index the tars in a folder, or in its folders train, val and test.

    Labels are those in the tars. Their names stand in ``classes.txt``, one a line; without that file (or a manifest of
    `cait prep`) a class is called by its number.

    Args:
        root: the folder.
        val_share: with train only, the share of it to set aside as ``val``.
        seed: chooses which images are set aside.
        split: what to call the only split, if the tars' names do not tell.

    Raises:
        DataPrepError: if a tar is damaged or holds no labelled images, naming it.
    """
    by_split = files_by_split(root, "tar", split)
    tars = [path for paths in by_split.values() for path in paths]
    names: dict[str, list[str]] = {name: [] for name in by_split}
    labels: dict[str, list[int]] = {name: [] for name in by_split}
    places = Places.gather(tars, _found(root, by_split, names, labels))
    for name, found in labels.items():
        if not found:
            raise DataPrepError(f"{root}: the tars of {name} hold no images with labels (KEY.jpg and KEY.cls)")
    classes = _class_names(root, by_split, 1 + max(max(found) for found in labels.values()))
    splits = {name: Split(classes, tuple(names[name]), np.asarray(labels[name], np.int64)) for name in by_split}
    splits, remarks = set_aside_val(splits, val_share, seed, root)
    kind = "WebDataset tars" + share_in_words(val_share, seed)
    return TarSource(kind, root, places, splits, tuple(remarks))


def _found(
    root: Path, by_split: Mapping[str, Sequence[Path]], names: dict[str, list[str]], labels: dict[str, list[int]]
) -> Iterator[tuple[str, int, int, int]]:
    """The place of every image; its name and label are noted by the way."""
    number = 0
    for split, tars in by_split.items():
        for tar in tars:
            for sample in foreign_samples(tar):
                name = f"{tar.relative_to(root)}/{sample.name}"
                names[split].append(name)
                labels[split].append(sample.label)
                yield name, number, sample.offset, sample.size
            number += 1


def _class_names(root: Path, by_split: Mapping[str, Sequence[Path]], needed: int) -> tuple[str, ...]:
    path, names = root / CLASSES_FILE, None
    manifests = {tar.parent for tars in by_split.values() for tar in tars if (tar.parent / MANIFEST_FILE).exists()}
    if path.is_file():
        names = _read_classes(path)
    elif manifests:
        path = sorted(manifests)[0]
        names = load_manifest(path, check_shards=False).class_names
    if names is None:
        return tuple(str(label) for label in range(needed))
    if len(names) < needed:
        raise DataPrepError(f"{path}: names {len(names):,} classes, the tars hold label {needed - 1}; name them all")
    return names


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        if path.stat().st_size > _MAX_CLASSES_BYTES:
            raise DataPrepError(f"{path}: has more than {_MAX_CLASSES_BYTES:,} bytes; {_EXPECTED}")
        names = tuple(path.read_text("utf-8").rstrip("\n").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataPrepError(f"{path}: cannot be read ({error}); {_EXPECTED}") from None
    if empty := [number + 1 for number, name in enumerate(names) if not name.strip()]:
        raise DataPrepError(f"{path}: line {some(empty)} is empty; {_EXPECTED}")
    return tuple(name.strip() for name in names)
