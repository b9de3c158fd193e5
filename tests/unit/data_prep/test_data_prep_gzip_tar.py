"""Compressed tars are walked through as plain ones are, decompressed once, and checked to the end."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from ilsvrc_tree import tar_of

from data_prep.errors import DataPrepError
from data_prep.gzip_tar import Decompressed, is_gzip, opened_tar
from data_prep.tar_walk import walk


def listed(path: Path) -> list[tuple[str, bytes]]:
    found = []
    with opened_tar(path) as tar:
        for member in walk(path, tar):
            tar.seek(member.offset_data)
            found.append((member.name, tar.read(member.size)))
    return found


def test_it_holds_what_the_plain_one_holds_wherever_a_chunk_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The walk looks back over the end mark, which is to lie across the border of two chunks some of the times.
    monkeypatch.setattr("data_prep.gzip_tar._CHUNK", 1999)
    for size in range(0, 6000, 300):
        members = [("a/one", bytes(range(256)) * 3), ("two", bytes(size)), ("three", b"")]
        tar = tar_of(members).rstrip(b"\0")
        tar = tar.ljust(-(-len(tar) // 512) * 512, b"\0") + bytes(1024)
        for name, content in (("plain.tgz", tar), ("packed.tgz", gzip.compress(tar))):
            (tmp_path / name).write_bytes(content)
            assert is_gzip(tmp_path / name) == (name == "packed.tgz")
            assert listed(tmp_path / name) == members


def test_it_is_decompressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.gzip_tar._CHUNK", 2048)
    members = [(f"{number}", np.random.RandomState(number).bytes(3000)) for number in range(30)]
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(tar_of(members)))
    read = []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            read.append(super().read(size))
            return read[-1]

    names = [member.name for member in walk(path, Decompressed(path, Counting(path.read_bytes())))]  # type: ignore[arg-type]
    assert names == [name for name, _ in members]
    assert len(b"".join(read)) == path.stat().st_size


def test_it_is_only_read_forwards(tmp_path: Path) -> None:
    content = np.random.RandomState(0).bytes(5 << 20)
    packed = Decompressed(tmp_path, io.BytesIO(gzip.compress(content, 1)))
    assert packed.readable()
    assert packed.seekable()
    packed.seek(3 << 20)
    assert packed.read(10) == content[3 << 20 :][:10]
    packed.seek((3 << 20) - 600_000)
    assert packed.read(1_000_000) == content[(3 << 20) - 600_000 :][:1_000_000]
    assert packed.tell() == (3 << 20) + 400_000
    with pytest.raises(ValueError, match="only read forwards"):
        packed.seek(100)
    assert packed.read() == content[(3 << 20) + 400_000 :]
    assert packed.read(5) == b""


@pytest.mark.parametrize("place", [12, 40, -6, -1])
def test_damage_is_found_even_behind_the_last_member(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.tgz"
    raw = bytearray(gzip.compress(tar_of([("a", np.random.RandomState(0).bytes(3000))])))
    raw[place] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataPrepError, match=r"a.tgz: damaged or cut off .*; fetch or write it again"):
        listed(path)
