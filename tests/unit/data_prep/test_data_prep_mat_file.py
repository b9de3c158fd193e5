"""MATLAB files: what is read is what SciPy reads, and no damage does more than raise an error."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.matlab
from scipy.io import loadmat, savemat
from transfer_sets import car_annotations, mat

from data_prep.mat_file import MatError, Value, parse_mat

BY_MATLAB = Path(scipy.io.matlab.__file__).parent / "tests" / "data"
"""Files that MATLAB itself has written, on several machines in several versions; they come with SciPy."""

CONTENT: dict[str, Any] = {
    "bytes": np.arange(7, dtype=np.uint8)[None],
    "floats": np.array([[1.5, -2], [3, 4]]),
    "text": "Ram C/V Cargo Van 2012",
    "umlaut": "Größe 猫",
    "nothing": np.empty((0, 0)),
    "cell": np.array(["a", np.array([1, 2], np.int16), ""], dtype=object)[None],
}


def same(found: Value, expected: Any) -> bool:
    """Whether a value is SciPy's; SciPy makes an array of an array of texts, each a row."""
    if isinstance(found, str):
        return found == "".join(expected.ravel().tolist()) or expected.size > 1
    flat = expected.ravel(order="F")
    if isinstance(found, list):
        return len(found) == len(flat) and all(map(same, found, flat))
    if isinstance(found, dict):
        columns = {name: flat[name] for name in expected.dtype.names or ()}
        return found.keys() == columns.keys() and all(
            len(found[name]) == len(flat) and all(map(same, found[name], columns[name])) for name in found
        )
    return len(found) == len(flat) and np.array_equal(found, flat.astype(found.dtype))


@pytest.mark.parametrize("compressed", [True, False])
def test_numbers_texts_and_cells_are_read(compressed: bool) -> None:
    buffer = io.BytesIO()
    savemat(buffer, CONTENT, do_compression=compressed)
    found = parse_mat(buffer.getvalue(), CONTENT)
    assert found["bytes"].tolist() == list(range(7))  # type: ignore[union-attr]
    assert found["floats"].tolist() == [1.5, 3, -2, 4]  # type: ignore[union-attr]
    assert (found["text"], found["umlaut"]) == (CONTENT["text"], CONTENT["umlaut"])
    assert len(found["nothing"]) == 0
    cell = found["cell"]
    assert isinstance(cell, list)
    assert (cell[0], cell[1].tolist()) == ("a", [1, 2])  # type: ignore[union-attr]
    assert len(cell[2]) == 0
    assert parse_mat(buffer.getvalue(), ["text"]) == {"text": CONTENT["text"]}


def test_structs_are_read_field_by_field() -> None:
    raw = car_annotations({"train": [("car_ims/000001.jpg", 2)], "val": [("car_ims/000002.jpg", 0)]})
    fields = parse_mat(raw, ["annotations"])["annotations"]
    assert isinstance(fields, dict)
    assert list(fields) == ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    assert fields["relative_im_path"] == ["car_ims/000001.jpg", "car_ims/000002.jpg"]
    assert [value.tolist() for value in fields["class"]] == [[3], [1]]  # type: ignore[union-attr]


@pytest.mark.skipif(not BY_MATLAB.is_dir(), reason="this SciPy comes without MATLAB's own files")
def test_files_by_matlab_are_read_as_scipy_reads_them_or_refused() -> None:
    read, refused = 0, set()
    for path in sorted(BY_MATLAB.glob("*.mat")):
        raw = path.read_bytes()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = {name: value for name, value in loadmat(io.BytesIO(raw)).items() if name[:2] != "__"}
        except Exception:  # these are damaged on purpose
            expected = {}
        try:
            found = parse_mat(raw, expected)
        except MatError:
            refused.add(path.stem.split("_")[0])
            continue
        assert all(same(found[name], expected[name]) for name in expected), path.name
        read += bool(expected)
    assert read >= 60
    # Damaged ones, level 4, functions and objects, sparse and complex numbers, of which there is one in each struct.
    levels = ["matrix", "minus", "multi", "onechar", "double", "string", "stringarray", "vec"]
    exotic = ["complex", "func", "hdf5", "object", "sparse", "sparsecomplex", "sparsefloat", "struct"]
    damaged = ["broken", "corrupted", "debigged", "logical", "malformed1", "nasty", "parabola", "some", "sqr", "test"]
    assert refused <= {*damaged, *(f"test{kind}" for kind in levels + exotic)}


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(kind: int, dimensions: tuple[int, ...], content: bytes, name: bytes = b"x") -> bytes:
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(dimensions)}i", *dimensions))
    return element(14, head + element(1, name) + content)


HEADER = b"MATLAB 5.0".ljust(124) + b"\0\1IM"
DEEP = matrix(6, (1, 1), element(9, bytes(8)))
for _ in range(40):
    DEEP = matrix(1, (1, 1), DEEP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (element(9, bytes(8)), "type 9 where a variable belongs"),
        (matrix(6, (1, 2), element(9, bytes(8))), "1 numbers in an array of 2"),
        (matrix(6, (1, 2), element(9, bytes(7))), "an element of an impossible size"),
        (matrix(6, (1, -1), element(9, bytes(8))), "an array without a class or a size"),
        (matrix(6, (2**30, 2**30, 2**30), element(9, bytes(8))), "8 numbers|1 numbers in an array of 1,237,"),
        (matrix(1, (2**30, 2**30), b""), "ends early"),
        (matrix(1, (1, 1), element(9, bytes(8))), "type 9 where an array belongs"),
        (matrix(2, (1, 1), element(5, struct.pack("<i", 0)) + element(1, b"abc")), "structs without names"),
        (matrix(2, (1, 1), element(5, struct.pack("<i", -4)) + element(1, b"abcd")), "structs without names"),
        (matrix(2, (1, 1), element(5, struct.pack("<i", 2)) + element(1, b"a\0a\0")), "two fields of one name"),
        (matrix(4, (1, 1), element(17, b"\0\xd8")), "a text that is none"),
        (matrix(4, (1, 1), element(9, bytes(8))), "type 9 where a text belongs"),
        (matrix(17, (1, 1), b""), "an array of class 17"),
        (DEEP, "too deeply"),
        (struct.pack("<II", 14, 2**32 - 1), "ends early, or has an element of an impossible size"),
        (struct.pack("<II", 5 << 16 | 14, 0), "an element of an impossible size"),
        (struct.pack("<I", 14), "ends early"),
        (element(15, b"no zlib"), "is damaged"),
        (element(15, zlib.compress(matrix(6, (1, 1), element(9, bytes(8))))[:-2]), "cut off"),
        (element(15, zlib.compress(b"")), "ends early"),
    ],
)
def test_what_the_numbers_in_a_file_say_is_not_believed(content: bytes, message: str) -> None:
    with pytest.raises(MatError, match=message):
        parse_mat(HEADER + content, ["x"])


def test_structs_without_fields_are_not_counted_through() -> None:
    empty = matrix(2, (2**30, 2**20), element(5, struct.pack("<i", 1)) + element(1, b""))
    assert parse_mat(HEADER + empty, ["x"]) == {"x": {}}


def test_a_variable_is_not_decompressed_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.mat_file._MOST_DECOMPRESSED", 1000)
    with pytest.raises(MatError, match="far too large"):
        parse_mat(HEADER + element(15, zlib.compress(matrix(6, (1, 1000), element(9, bytes(8000))))), ["x"])


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_anywhere_is_an_error_of_ours_or_other_data(compressed: bool) -> None:
    buffer = io.BytesIO()
    savemat(buffer, CONTENT, do_compression=compressed)
    raws = [buffer.getvalue(), mat({"s": np.array([[(1, "a")]], dtype=[("n", object), ("t", object)])})]
    generator = np.random.RandomState(0)
    refused = 0
    for raw in raws:
        for _ in range(700):
            damaged = bytearray(raw)
            for place in generator.randint(120, len(raw), size=1 + generator.randint(3)):
                damaged[place] = generator.randint(256)
            try:
                parse_mat(bytes(damaged), [*CONTENT, "s"])
            except MatError:
                refused += 1
    assert refused > 500
