"""Oxford Flowers-102 as a source: ``102flowers.tgz`` (or its folder ``jpg``), ``imagelabels.mat`` and ``setid.mat``.

``imagelabels.mat`` has the class, 1 to 102, of image 1, 2, …; ``setid.mat`` the numbers of the images of three sets:
``trnid`` and ``valid`` of 1,020 images each, ten a class, and ``tstid`` of 6,149. Transfer results are reported on the
last after training on the first two together, so these are train and val here. The classes have numbers for names: that
is all that the files say of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import DataPrepError
from .packed_images import PackedSource, find_store
from .published_files import PublishedFiles, read_mat, read_unpacked, require_range, whole_numbers
from .split import Split, set_aside_val

CLASSES = 102
ARCHIVES = ("102flowers.tgz", "102flowers.tar")
FOLDER = "jpg"
LABELS, SETS = "imagelabels.mat", "setid.mat"
_TITLE = "Oxford Flowers-102"
_MOST_MEGABYTES = 16


def is_flowers(root: Path) -> bool:
    """Whether a folder holds one of the files."""
    return any((root / name).is_file() for name in (*ARCHIVES, LABELS, SETS))


def open_flowers(root: Path, val_share: float = 0.0, seed: int = 0) -> PackedSource:
    """Index the data set in a folder.

    Args:
        root: holds the archive or the folder ``jpg``, and both MATLAB files.
        val_share: refused unless 0: the test images are ``val``.
        seed: of the share.

    Raises:
        DataPrepError: if a file is missing or damaged, or they do not fit together.
    """
    files = read_unpacked(root, (LABELS, SETS), _MOST_MEGABYTES)
    labels = whole_numbers(files, LABELS, "labels", read_mat(files, LABELS, ["labels"])["labels"])
    require_range(files, LABELS, "label", labels, 1, CLASSES)
    sets = _read_sets(files, len(labels))
    store = find_store(root, FOLDER, ARCHIVES)
    images = [name for name in store.names if name.lower().endswith(".jpg")]
    if len(images) != len(labels):
        raise DataPrepError(
            f"{store.place}: holds {len(images):,} images, {LABELS} states the classes of {len(labels):,}; "
            f"fetch {ARCHIVES[0]} again, or the MATLAB file"
        )
    splits = {
        "train": _split(np.concatenate([sets["trnid"], sets["valid"]]), labels),
        "val": _split(sets["tstid"], labels),
    }
    for split in splits.values():
        store.require(split.names, LABELS)
    set_aside_val(splits, val_share, seed, root)
    remark = (
        f"{_TITLE}: train is trnid and valid together ({len(sets['trnid']):,} + {len(sets['valid']):,} images), "
        f"val is tstid, the official test split ({len(sets['tstid']):,})"
    )
    return PackedSource.of(_TITLE, root, [store], splits, [remark])


def _read_sets(files: PublishedFiles, images: int) -> dict[str, npt.NDArray[np.int64]]:
    """Numbers of the images of each set."""
    names = ("trnid", "valid", "tstid")
    found = read_mat(files, SETS, names)
    sets = {name: whole_numbers(files, SETS, f"numbers in {name}", found[name]) for name in names}
    for name, numbers in sets.items():
        require_range(files, SETS, f"image number in {name}", numbers, 1, images)
    together = np.concatenate(list(sets.values()))
    if len(np.unique(together)) != len(together):
        raise files.refuse(SETS, "has an image in two sets, or twice in one")
    return sets


def _split(numbers: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> Split:
    numbers = np.sort(numbers)
    names = tuple(f"{FOLDER}/image_{number:05d}.jpg" for number in numbers)
    return Split(tuple(str(number) for number in range(1, CLASSES + 1)), names, labels[numbers - 1] - 1)
