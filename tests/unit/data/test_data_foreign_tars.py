import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from image_folders import encode, picture

from cait_dist.data import index_webdataset
from cait_dist.data.errors import ShardIndexError
from cait_dist.data.reader_webdataset import WebDatasetReader, open_split

JPEG = encode(picture(0))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_tar(path: Path, members: list[tuple[str, bytes]], **options) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(count: int, start: int = 0, image_format: str = "jpg") -> list[tuple[str, bytes]]:
    pairs = []
    for number in range(start, start + count):
        pillow_format = {"jpg": "JPEG", "jpeg": "JPEG", "JPEG": "JPEG"}.get(image_format, image_format)
        pairs.append((f"dir/{number:06d}.{image_format}", encode(picture(number), pillow_format)))
        pairs.append((f"dir/{number:06d}.cls", str(number % 7).encode()))
    return pairs


@pytest.mark.parametrize("image_format", ["jpg", "jpeg", "JPEG", "png", "webp"])
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_others_are_read_byte_for_byte(tmp_path: Path, image_format: str, tar_format: int) -> None:
    members = samples(9, 0, image_format), samples(4, 9, image_format)
    for number, group in enumerate(members):
        write_tar(tmp_path / "train" / f"part{number}.tar", group, format=tar_format)
    reader = open_split(tmp_path, "train")
    assert reader.shard_sizes == (9, 4)
    assert [reader.read(index) for index in range(13)] == [content for name, content in members[0] + members[1]][::2]
    np.testing.assert_array_equal(reader.labels, np.arange(13) % 7)
    assert reader.class_names == tuple("0123456")
    assert reader.source_name(10) == f"part1.tar/dir/000010.{image_format}"


def test_labels_in_json_and_other_members_are_understood(tmp_path: Path) -> None:
    members = [
        ("a.jpg", JPEG),
        ("a.json", json.dumps({"label": 3, "width": 40}).encode()),
        ("a.txt", b"a caption"),
        ("b.json", json.dumps({"cls": 1}).encode()),
        ("b.seg.png", b"a mask"),
        ("b.jpg", JPEG),
        ("c.json", b"4"),
        ("c.cls", b" 2\n"),
        ("c.jpg", JPEG),
        ("README", b"no dot, no sample"),
    ]
    write_tar(tmp_path / "x.tar", members)
    assert WebDatasetReader(tmp_path).labels.tolist() == [3, 1, 2]


def test_long_names_are_understood(tmp_path: Path) -> None:
    name = "/".join(["folder" * 8] * 4) + "/0"
    write_tar(tmp_path / "x.tar", [(name + ".cls", b"0"), (name + ".jpg", JPEG)], format=tarfile.PAX_FORMAT)
    assert WebDatasetReader(tmp_path).read(0) == JPEG


def test_index_is_kept_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "train" / "a.tar", samples(5))
    write_tar(tmp_path / "train" / "empty.tar", [])
    first = open_split(tmp_path, "train").digest
    assert (tmp_path / "train" / ".cait-index" / "manifest.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(index_webdataset, "_build", lambda *_: pytest.fail("indexed again"))
        assert open_split(tmp_path, "train").digest == first
    write_tar(tmp_path / "train" / "b.tar", samples(2, 5))
    assert open_split(tmp_path, "train").num_samples == 7
    os.utime(tar, ns=(0, 0))
    assert open_split(tmp_path, "train").num_samples == 7
    write_tar(tar, samples(3))
    assert open_split(tmp_path, "train").num_samples == 5
    tar.unlink()
    assert open_split(tmp_path, "train").num_samples == 2


def test_index_of_a_folder_that_may_not_be_written_lies_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "train" / "a.tar", samples(5))
    # A file where the folder should be refuses even the superuser.
    (tmp_path / "train" / ".cait-index").touch()
    assert open_split(tmp_path, "train").num_samples == 5
    assert list((tmp_path / "cache").rglob("manifest.json"))
    monkeypatch.setattr(index_webdataset, "_build", lambda *_: pytest.fail("indexed again"))
    assert open_split(tmp_path, "train").num_samples == 5


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    write_tar(tmp_path / "train" / "a.tar", samples(5))
    digest = open_split(tmp_path, "train").digest
    (tmp_path / "train" / ".cait-index" / "samples.npy").write_bytes(b"junk")
    assert open_split(tmp_path, "train").digest == digest


def special(kind: bytes, name: str = "a.jpg") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(special(kind))
    with pytest.raises(ShardIndexError, match=r"x\.tar: the member 'a\.jpg' is a link"):
        WebDatasetReader(tmp_path)


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "x.tar", [(name, JPEG)])
    with pytest.raises(ShardIndexError, match="points out of the archive"):
        WebDatasetReader(tmp_path)


def test_folders_in_a_tar_are_fine(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(special(tarfile.DIRTYPE, "./"))
        for name, content in samples(1):
            member = tarfile.TarInfo("./" + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert WebDatasetReader(tmp_path).num_samples == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", JPEG)], "'a' has no label"),
        ([("a.cls", b"1")], "'a' has no image"),
        ([("a.jpg", JPEG), ("a.cls", b"cat")], "'a.cls' holds no label"),
        ([("a.jpg", JPEG), ("a.cls", b"-1")], "'a.cls' holds no label"),
        ([("a.jpg", JPEG), ("a.cls", b"99999999")], "'a.cls' holds no label"),
        ([("a.jpg", JPEG), ("a.cls", b"1" * 100)], "too many for a label"),
        ([("a.jpg", JPEG), ("a.json", b"[" * 100_000)], "'a.json' holds no label"),
        ([("a.jpg", JPEG), ("a.json", b'{"label": true}')], "'a.json' holds no label"),
        ([("a.jpg", JPEG), ("a.json", b'{"label": "1"}')], "'a.json' holds no label"),
        ([("a.jpg", JPEG), ("a.png", JPEG), ("a.cls", b"1")], "two images"),
        ([("a.jpg", b""), ("a.cls", b"1")], "has 0 bytes"),
        ([("a.jpg", JPEG), ("b.jpg", JPEG), ("a.cls", b"1"), ("b.cls", b"1")], "'a' has no label"),
        ([*samples(1), *samples(2)], "do not lie side by side|two images|no"),
        ([("README.md", b"hello")], "has no image"),
        ([], "hold no images with labels"),
    ],
)
def test_what_is_no_set_of_labelled_images_is_refused(tmp_path: Path, members, message: str) -> None:
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(ShardIndexError, match=message):
        WebDatasetReader(tmp_path)


def test_a_damaged_tar_never_passes_for_a_shorter_one(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", samples(6))
    whole = tar.read_bytes()
    with tarfile.open(tar) as opened:
        members = opened.getmembers()
    cuts = [member.offset for member in members[1:]] + [member.offset_data + 5 for member in members]
    for cut in [*cuts, members[-1].offset_data + members[-1].size, 100, 0]:
        tar.write_bytes(whole[:cut])
        with pytest.raises(ShardIndexError, match=r"x\.tar"):
            WebDatasetReader(tmp_path)
    for member in members:
        tar.write_bytes(whole[: member.offset] + b"\x01" * 512 + whole[member.offset + 512 :])
        with pytest.raises(ShardIndexError, match=r"x\.tar"):
            WebDatasetReader(tmp_path)


def test_compressed_tars_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ShardIndexError, match="uncompressed"):
        WebDatasetReader(tmp_path)
