import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_folders import write_data_set

from data_prep.errors import DataPrepError
from data_prep.manifest_checks import own_checksum
from data_prep.verify import verify


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), {"train": 30, "val": 10}, shard_size=10)


@pytest.fixture
def shards(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "shards"))


def flip(path: Path, offset: int, bits: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= bits
    path.write_bytes(content)


def place(shards: Path, row: int) -> tuple[int, int]:
    entry = np.load(shards / "train/samples.npy")[row]
    return int(entry["offset"]), int(entry["size"])


def restate_checksum(shards: Path, **shard_values: object) -> None:
    """As somebody would do who knows the format: the first shard's checksum is made to fit again."""
    path = shards / "train/manifest.json"
    manifest = json.loads(path.read_text())
    checksum = hashlib.sha256((shards / "train/train-000000.tar").read_bytes()).hexdigest()
    manifest["shards"][0] = {**manifest["shards"][0], "sha256": checksum, **shard_values}
    path.write_text(json.dumps({**manifest, "content_sha256": own_checksum(manifest)}))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sound_data_set_has_no_problems(original: Path, workers: int) -> None:
    report = verify(original, workers=workers)
    assert report.ok
    assert [(split.name, split.samples, split.shards, split.classes) for split in report.splits] == [
        ("train", 30, 3, 5),
        ("val", 10, 1, 5),
    ]
    assert report.splits[0].entropy == pytest.approx(np.log2(5))
    assert 1 < report.splits[0].lowest_entropy <= report.splits[0].entropy
    assert str(report).endswith("all is well")
    assert verify(original / "val").splits[0].samples == 10


def test_a_flipped_bit_is_found_wherever_it_is(shards: Path) -> None:
    tar = shards / "train/train-000001.tar"
    for offset in (0, 700, tar.stat().st_size // 2, tar.stat().st_size - 1):
        flip(tar, offset)
        problems = verify(shards, decode=False).problems
        assert "train-000001.tar: the checksum is not that of the manifest; fetch the shard again" in problems[0] or (
            "train-000001.tar: cannot be read" in problems[0]
        )
        flip(tar, offset)
    assert verify(shards).ok


def overwrite_image(shards: Path) -> None:
    offset, size = place(shards, 4)
    tar = shards / "train/train-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[: offset + 30] + bytes(size - 30) + content[offset + size :])
    restate_checksum(shards)


def change_label(shards: Path) -> None:
    tar = shards / "train/train-000000.tar"
    offset, _ = place(shards, 0)
    # The label's member lies before the image's: a header of 512 bytes and one block of content each.
    label_at = offset - 1024
    flip(tar, label_at, 1)
    restate_checksum(shards)


def cut(shards: Path) -> None:
    tar = shards / "train/train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-5000])


def lose_members(shards: Path) -> None:
    tar = shards / "train/train-000000.tar"
    offset, size = place(shards, 3)
    tar.write_bytes(tar.read_bytes()[: offset + size].ljust(tar.stat().st_size, b"\0"))
    restate_checksum(shards)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overwrite_image, "train-000000.tar: sample 4 of the shard .* cannot be decoded"),
        (change_label, "train-000000.tar: sample 0 of the shard .* has label b'.' in the tar, . in the manifest"),
        (cut, "train-000000.tar: .* bytes, the manifest states"),
        (lose_members, "train-000000.tar: the tar holds 4 images, the manifest states 10"),
        (lambda s: restate_checksum(s, class_counts=[[0, 10]]), "class counts in the manifest are not those"),
        (lambda s: (s / "train/train-000002.tar").unlink(), "train-000002.tar: cannot be read .*No such file"),
        (lambda s: (s / "train/stray.tar").touch(), "stray.tar: not in the manifest"),
        (lambda s: (s / "train/manifest.json").unlink(), "train/manifest.json: no such file"),
        (lambda s: (s / "train/sources.txt.gz").unlink(), "sources.txt.gz: cannot be read"),
        (lambda s: flip(s / "train/samples.npy", 300), "samples.npy: does not have the checksum"),
    ],
)
def test_damage_is_listed_and_the_rest_still_checked(
    shards: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(shards)
    (shards / "val/stray.tar").touch()
    report = verify(shards)
    assert not report.ok
    text = "\n".join(report.problems)
    assert re.search(message, text), text
    assert "val/stray.tar: not in the manifest" in text
    assert f"{len(report.problems)} problems" in str(report)


def test_many_problems_of_one_shard_are_cut_short(shards: Path) -> None:
    tar = shards / "train/train-000000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    problems = [problem for problem in verify(shards).problems if "train-000000" in problem]
    assert 1 <= len(problems) <= 11


def test_wrong_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataPrepError, match="no such folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(DataPrepError, match="holds no prepared split"):
        verify(tmp_path)
