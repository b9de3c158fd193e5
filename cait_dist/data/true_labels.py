"""What is right in an evaluation set, where the labels of its samples do not say it: files beside the shards, or lists.

Nothing here loads torch, so that wrong files are known before any process starts.
"""

from __future__ import annotations

from pathlib import Path

from cait_dist.config.data import RemoteConfig
from cait_dist.config.section import is_url
from data_prep.errors import DataPrepError
from data_prep.files import read_plain
from data_prep.real_labels import MAX_BYTES, REAL_FILE, parse_labels

from .errors import DataError, RemoteError
from .remote import remote_folder

_REMEDY = "`cait prep … --real FILE` writes it from ReaL's own list; or leave kind: real out"
MAX_SUBSET_BYTES = 2**20


def read_real_labels(
    data_path: Path | str, split: str, num_samples: int, num_classes: int, remote: RemoteConfig | None = None
) -> tuple[tuple[int, ...], ...]:
    """The labels that `cait prep --real` wrote beside a split; entry i belongs to sample i.

    Args:
        data_path: folder that holds the splits' folders, or its URL.
        split: which.
        num_samples: that the split has.
        num_classes: that its labels distinguish.
        remote: how to read what lies beyond a URL.

    Raises:
        DataError: if there is no such file, or it does not fit the split.
    """
    place = f"{data_path}/{split}/{REAL_FILE}"
    raw = _read(data_path, split, remote or RemoteConfig())
    try:
        labels = parse_labels(raw, place, num_classes)
    except DataPrepError as error:
        raise DataError(f"{error}; {_REMEDY}") from None
    if len(labels) != num_samples:
        raise DataError(f"{place}: has {len(labels):,} entries for {num_samples:,} samples; {_REMEDY}")
    if not any(labels):
        raise DataError(f"{place}: has no label for any sample; {_REMEDY}")
    return labels


def _read(data_path: Path | str, split: str, remote: RemoteConfig) -> bytes:
    try:
        if is_url(data_path):
            folder = remote_folder(f"{data_path}/{split}", remote.retries, remote.timeout)
            return folder.read_file(REAL_FILE, MAX_BYTES)
        return read_plain(Path(data_path) / split / REAL_FILE, MAX_BYTES)
    except OSError as error:
        place = Path(data_path) / split / REAL_FILE
        raise DataError(f"{place}: cannot be read ({error.strerror or error}); {_REMEDY}") from None
    except RemoteError as error:
        raise RemoteError(f"{error}; {_REMEDY}") from None


def read_subset(path: Path, num_classes: int) -> tuple[int, ...]:
    """The model's outputs that are the classes of a set, in the order of the set's own numbering.

    Such lists are published with the sets (or with timm): a whole number per line.

    Args:
        path: the file.
        num_classes: that the set's labels distinguish.

    Raises:
        DataError: if the file is no such list, or has not a line for each class.
    """
    expected = "expected a file with a line per class of the set: the number of the model's output, counted from 0"
    try:
        words = read_plain(path, MAX_SUBSET_BYTES).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); {expected}, or leave subset out") from None
    if wrong := next((word for word in words if not (word.isascii() and word.isdigit() and len(word) < 10)), None):
        raise DataError(f"{path}: {wrong[:40]!r} is no number; {expected}")
    outputs = tuple(map(int, words))
    if len(set(outputs)) != len(outputs):
        twice = next(output for output in outputs if outputs.count(output) > 1)
        raise DataError(f"{path}: names output {twice} twice; {expected}")
    if len(outputs) != num_classes:
        raise DataError(f"{path}: has {len(outputs):,} numbers for the {num_classes:,} classes of the set; {expected}")
    return outputs
