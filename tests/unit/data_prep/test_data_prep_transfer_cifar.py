"""CIFAR-10 and CIFAR-100: every version holds the same images, and nothing that a pickle says is done."""

import gzip
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ilsvrc_tree import tar_of
from PIL import Image
from transfer_sets import HUNDRED, TEN, Facts, python2_pickle, write_cifar, write_files, write_tgz

from data_prep.cifar import open_cifar
from data_prep.cifar_pickle import ForeignPickleError, pixel_rows, read_pickle
from data_prep.errors import DataPrepError
from data_prep.plan import make_plan
from data_prep.sources import open_source


def pixels_of(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def check(facts: Facts, root: Path) -> str:
    """Names, labels and pixels of all images are right; returns the identity of a plan for them."""
    source = open_source(root)
    assert list(source.splits) == ["train", "val"]
    for name, split in source.splits.items():
        assert split.class_names == facts.classes
        assert dict(zip(split.names, split.labels.tolist(), strict=True)) == facts.labels[name]
        assert list(split.names) == list(facts.labels[name])
        for image in split.names:
            np.testing.assert_array_equal(pixels_of(source.read(image)), facts.pixels[image])
    return make_plan(source, root.with_name("out")).digest


@pytest.mark.parametrize("hundred", [False, True])
def test_all_versions_hold_the_same_data_set(tmp_path: Path, hundred: bool) -> None:
    found = set()
    for number, (binary, packed) in enumerate([(False, True), (False, False), (True, True), (True, False)]):
        root = tmp_path / str(number)
        facts = write_cifar(root, hundred, binary, packed)
        assert facts.classes == (HUNDRED if hundred else TEN)
        found.add(check(facts, root))
        if not packed:
            (inside,) = root.iterdir()
            found.add(check(facts, inside))
    assert len(found) == 1


def test_the_test_images_are_val_and_it_is_said(tmp_path: Path) -> None:
    write_cifar(tmp_path, per_file=3)
    source = open_source(tmp_path)
    assert [len(split.names) for split in source.splits.values()] == [15, 3]
    assert source.remarks == ("CIFAR-10: its 3 test images are the split val",)
    assert source.splits["train"].names[2:4] == ("data_batch_1/00002", "data_batch_2/00000")


def test_the_archive_goes_before_the_folder(tmp_path: Path) -> None:
    facts = write_cifar(tmp_path)
    write_files(tmp_path, [("cifar-10-batches-py/data_batch_1", b"cut off while it was unpacked")])
    check(facts, tmp_path)


def test_a_part_travels_with_its_own_pixels_and_the_whole_with_none(tmp_path: Path) -> None:
    facts = write_cifar(tmp_path, per_file=40)
    source = open_source(tmp_path)
    names = source.splits["train"].names[50:60]
    part = pickle.loads(pickle.dumps(source.only(names)))
    whole = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 2000
    assert len(pickle.dumps(part)) < 10 * 3072 + 5000
    assert list(whole.splits["val"].names) == list(facts.labels["val"])
    shutil.rmtree(tmp_path)
    for name in names:
        np.testing.assert_array_equal(pixels_of(part.read(name)), facts.pixels[name])
    with pytest.raises(KeyError):
        part.read(source.splits["train"].names[0])


def test_columns_first_is_an_order_that_numpy_may_choose() -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(4, 3)
    for order in ("C", "F"):
        for protocol in (3, 4):
            content = read_pickle(pickle.dumps({b"data": np.asarray(rows, order=order), "labels": [1]}, protocol))  # type: ignore[call-overload]
            np.testing.assert_array_equal(pixel_rows(content["data"], 3), rows)


def test_the_pickles_of_these_tests_are_python_s_own() -> None:
    rows = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    found = pickle.loads(python2_pickle({"data": rows, "labels": [3, 1], "batch_label": "one"}), encoding="bytes")
    np.testing.assert_array_equal(found.pop(b"data"), rows)
    assert found == {b"labels": [3, 1], b"batch_label": b"one"}


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n"
HOSTILE: dict[str, tuple[Callable[[str], bytes], str]] = {
    "a command": (lambda mark: pickle.dumps(Calls(os.system, f"touch {mark}")), r"names posix\.system, which has no"),
    "a command of protocol 0": (lambda mark: f"cos\nsystem\n(S'touch {mark}'\ntR.".encode(), r"names os\.system"),
    "an instance": (lambda mark: f"(S'touch {mark}'\nios\nsystem\n.".encode(), r"names os\.system"),
    "code": (lambda mark: pickle.dumps(Calls(exec, f"open({mark!r}, 'w')")), r"names builtins\.exec"),
    "a name on the stack": (
        lambda mark: pickle.dumps(Calls(exec, f"open({mark!r}, 'w')"), 4),
        r"names builtins\.exec",
    ),
    "another name of numpy's": (lambda mark: f"cnumpy\nsave\n(S'{mark}'\nI1\ntR.".encode(), r"names numpy\.save"),
    "a name below one of numpy's": (
        lambda mark: f"\x80\x04cnumpy\nndarray.tofile\n(S'{mark}'\ntR.".encode("latin1"),
        r"names numpy\.ndarray\.tofile",
    ),
    "an extension": (lambda _: b"\x80\x02\x82\x01.", "is no whole pickle"),
    "something kept elsewhere": (lambda _: b"Pmark\n.", "is no whole pickle"),
    "a changed name": (lambda _: ARRAY + b"}S'call'\nNsb.", "changes _reconstruct"),
    "an array called": (lambda _: b"cnumpy\nndarray\n(I1000000000000\ntR.", "calls ndarray as no array"),
    "a list that is itself": (lambda _: b"]q\x00h\x00a.", "holds no dictionary"),
    "a deep list": (lambda _: b"(l" * 100000 + b"a" * 99999 + b".", "holds no dictionary"),
    "much memory": (lambda _: b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".", "is no whole pickle"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_hostile_pickle_says_is_done(tmp_path: Path, kind: str) -> None:
    write, message = HOSTILE[kind]
    mark = tmp_path / "mark"
    write_cifar(tmp_path / "cifar", packed=False)
    (tmp_path / "cifar" / "cifar-10-batches-py" / "data_batch_3").write_bytes(write(str(mark)))
    with pytest.raises(DataPrepError, match=rf"cifar-10-batches-py: data_batch_3 {message}.*unpack cifar-10-python"):
        open_source(tmp_path / "cifar")
    assert not mark.exists()


def test_these_pickles_would_have_done_it(tmp_path: Path) -> None:
    for kind in ("a command", "a command of protocol 0", "an instance", "code", "another name of numpy's"):
        mark = tmp_path / f"{kind.replace(' ', '_').replace(chr(39), '')}.npy"
        pickle.loads(HOSTILE[kind][0](str(mark)))
        assert mark.exists(), kind


def test_damage_anywhere_is_an_error_of_ours_or_other_data() -> None:
    raw = python2_pickle({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "batch_label": "training"})
    generator = np.random.RandomState(0)
    structure = [*range(120), *range(len(raw) - 120, len(raw))]
    refused = 0
    for _ in range(1500):
        damaged = bytearray(raw)
        for place in generator.choice(structure, 1 + generator.randint(3)):
            damaged[place] = generator.randint(256)
        try:
            content = read_pickle(bytes(damaged[: len(raw) if generator.randint(4) else generator.randint(len(raw))]))
            assert pixel_rows(content.get("data"), 3072).shape[1] == 3072
        except ForeignPickleError:
            refused += 1
    assert refused > 500


def batch(labels: object = (0, 1), width: int = 3072, **more: object) -> bytes:
    return python2_pickle({"labels": list(labels), "data": np.zeros((2, width), np.uint8), **more})  # type: ignore[call-overload]


def object_array() -> bytes:
    return pickle.dumps({"labels": [0, 1], "data": np.array([[1, 2], [3, None]], object)}, 4)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data_batch_2", None, r"lacks the file data_batch_2; unpack cifar-10-python.tar.gz again"),
        ("test_batch", None, r"lacks the file test_batch"),
        ("batches.meta", None, r"lacks the file batches.meta"),
        ("batches.meta", python2_pickle({"label_names": []}), r"batches.meta names no classes"),
        ("batches.meta", python2_pickle({"label_names": [1]}), r"batches.meta holds something else where a text"),
        ("data_batch_2", batch([0, 10]), r"data_batch_2 has the label 10 at place 2, outside of 0 to 9"),
        ("data_batch_2", batch([-1, 1]), r"data_batch_2 has the label -1 at place 1"),
        ("data_batch_2", batch([0]), r"data_batch_2 holds 2 images and 1 labels"),
        ("data_batch_2", batch(["cat", "dog"]), r"data_batch_2 has no list of numbers as its labels"),
        ("data_batch_2", batch(width=3000), r"data_batch_2 has 6,000 bytes for 2 × 3000; rows of 3072 are expected"),
        ("data_batch_2", python2_pickle({"labels": [0, 1]}), r"data_batch_2 has no array as its data"),
        ("data_batch_2", object_array(), r"data_batch_2 has an array of something else than bytes"),
        ("data_batch_2", b"", r"data_batch_2 is no whole pickle \(EOFError"),
        ("data_batch_2", b"<html>404</html>", r"data_batch_2 is no whole pickle"),
        (
            "data_batch_2",
            python2_pickle({"labels": [], "data": np.zeros((0, 3072), np.uint8)}),
            r"data_batch_2 holds no im",
        ),
    ],
)
def test_what_is_wrong_is_told_with_the_file(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    write_cifar(tmp_path, packed=False)
    path = tmp_path / "cifar-10-batches-py" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataPrepError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("hundred", "file", "content", "message"),
    [
        (False, "data_batch_5.bin", bytes(3072), r"data_batch_5.bin has 3,072 bytes, no whole records of 3,073"),
        (True, "train.bin", bytes(3073), r"train.bin has 3,073 bytes, no whole records of 3,074"),
        (False, "test_batch.bin", bytes([10, *bytes(3072)]), r"test_batch.bin has the label 10 at place 1"),
        (True, "test.bin", bytes([0, 100, *bytes(3072)]), r"test.bin has the label 100 at place 1, outside of 0 to 99"),
        (True, "fine_label_names.txt", b"", r"fine_label_names.txt names no classes"),
        (False, "batches.meta.txt", b"caf\xe9", r"batches.meta.txt 'ascii' codec"),
        (False, "test_batch.bin", b"", r"test_batch.bin holds no images"),
    ],
)  # fmt: skip
def test_binary_files_are_checked_as_well(
    tmp_path: Path, hundred: bool, file: str, content: bytes, message: str
) -> None:
    write_cifar(tmp_path, hundred, binary=True, packed=False)
    (folder,) = tmp_path.iterdir()
    (folder / file).write_bytes(content)
    with pytest.raises(DataPrepError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-4000], r"cifar-10-python.tar.gz: damaged or cut off \(.*\); fetch or write it again"),
        (lambda raw: raw[:-6] + b"\0" + raw[-5:], r"cifar-10-python.tar.gz: damaged or cut off \(CRC check failed"),
        (lambda raw: raw[:3000] + bytes(200) + raw[3200:], r"cifar-10-python.tar.gz: damaged"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:9000]), r"cifar-10-python.tar.gz: not a whole"),
        (lambda _: b"<html>404</html>", r"cifar-10-python.tar.gz: not a whole, uncompressed tar"),
        (lambda _: b"", r"cifar-10-python.tar.gz: not a whole"),
        (lambda _: tar_of([]), r"lacks the file batches.meta; fetch cifar-10-python.tar.gz again"),
        (lambda _: tar_of([("a/batches.meta", b""), ("b/batches.meta", b"")]), r"holds batches.meta twice"),
    ],
)
def test_a_damaged_archive_is_told(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataPrepError, match=message):
        open_source(tmp_path)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.cifar._MOST_MEGABYTES", 1)
    for packed in (True, False):
        root = tmp_path / str(packed)
        write_cifar(root, packed=False)
        bomb = ("cifar-10-batches-py/data_batch_1", bytes(2**20 + 1))
        write_tgz(root / "cifar-10-python.tar.gz", [bomb]) if packed else write_files(root, [bomb])
        with pytest.raises(DataPrepError, match=r"data_batch_1 has 1,048,577 bytes, more than 1 MB"):
            open_source(root)


def test_two_data_sets_in_one_folder_are_told_apart_by_the_user(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    with pytest.raises(DataPrepError, match="has a val split"):
        open_source(tmp_path, val_share=0.1)
    with pytest.raises(DataPrepError, match="leave out --split"):
        open_source(tmp_path, split="v2")
    write_cifar(tmp_path, hundred=True, packed=False)
    with pytest.raises(DataPrepError, match="holds CIFAR-10 and CIFAR-100; put each into a folder of its own"):
        open_cifar(tmp_path)
    check(write_cifar(tmp_path, hundred=True, packed=False), tmp_path / "cifar-100-python")
