"""Read MATLAB files (level 5, as MATLAB 5 to 7.2 save by default) without trusting them.

SciPy reads them, too, but is written in C for files that one made oneself: a damaged or hostile one can crash it. Lists
of labels need little of the format: numbers, texts, cells and structs. Here they are read in Python, where a wrong
length is an error and no more. Nothing is allocated on the word of a number in the file.

Shapes are of no interest for lists, so every array comes as a row, columns first, as MATLAB stores it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Value: TypeAlias = "npt.NDArray[Any] | str | list[Value] | dict[str, list[Value]]"
"""An array ``(n,)`` of numbers; a text; a cell's content; or an array of structs: for each field, a value of each."""

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_IS_COMPLEX = 0x800
_HEADER = 128
_DEEPEST = 16
# The largest published file of those read here is cars_annos.mat, whose 16,185 structs take some 15 MB.
_MOST_DECOMPRESSED = 256 * 2**20


class MatError(ValueError):
    """A MATLAB file is damaged, or holds what is not read here."""


def parse_mat(raw: bytes, names: Collection[str]) -> dict[str, Value]:
    """The variables of the given names, as far as a file has them; others are passed over.

    Args:
        raw: content of the file.
        names: of the variables.

    Raises:
        MatError: if the file is damaged or of another version, or such a variable holds anything but numbers, texts,
            cells and structs.
    """
    order = {b"IM": "<", b"MI": ">"}.get(raw[126:_HEADER])
    if order is None:
        raise MatError("is no MATLAB file of level 5")
    if raw[124:126] != (b"\0\1" if order == "<" else b"\1\0"):
        raise MatError("is a MATLAB file of version 7.3 or of none that is known; save it with -v7")
    found: dict[str, Value] = {}
    for kind, data in _Elements(memoryview(raw)[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, data = _Elements(_decompressed(data), order).take()  # noqa: PLW2901
        if kind != _MATRIX:
            raise MatError(f"holds an element of type {kind} where a variable belongs")
        matrix = _Matrix(data, order)
        if matrix.name in names:
            found[matrix.name] = matrix.value(0)
    return found


def _decompressed(data: memoryview) -> memoryview:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, _MOST_DECOMPRESSED)
    except zlib.error as error:
        raise MatError(f"is damaged ({error})") from None
    if not inflater.eof:
        raise MatError("is cut off, or has a variable that is far too large")
    return memoryview(content)


class _Elements:
    """Walks through data elements, each with a type and a size."""

    def __init__(self, data: memoryview, order: str) -> None:
        self._data, self._order, self._at = data, order, 0

    def __iter__(self) -> Iterator[tuple[int, memoryview]]:
        while self._at < len(self._data):
            yield self.take()

    def take(self) -> tuple[int, memoryview]:
        """Type and content of the next element."""
        if self._at + 8 > len(self._data):
            raise MatError("ends early")
        first, size = np.frombuffer(self._data, f"{self._order}u4", 2, self._at).tolist()
        start = self._at + 8
        if first >> 16:  # a small element: its size and content share the eight bytes
            first, size, start = first & 0xFFFF, first >> 16, self._at + 4
            if size > 4:
                raise MatError("has an element of an impossible size")
        end = start + size
        if end > len(self._data):
            raise MatError("ends early, or has an element of an impossible size")
        # Compressed elements are not filled up to eight bytes.
        self._at = end if first == _COMPRESSED else max(end + -end % 8, self._at + 8)
        return first, self._data[start:end]

    def numbers(self) -> npt.NDArray[Any]:
        """The next element, which must hold numbers."""
        kind, data = self.take()
        if kind not in _NUMBERS:
            raise MatError(f"holds an element of type {kind} where numbers belong")
        dtype = np.dtype(f"{self._order}{_NUMBERS[kind]}")
        if len(data) % dtype.itemsize:
            raise MatError("has an element of an impossible size")
        return np.frombuffer(data, dtype)

    def text(self) -> str:
        """The next element, which must hold a text."""
        kind, data = self.take()
        if kind not in _TEXTS:
            raise MatError(f"holds an element of type {kind} where a text belongs")
        ending = {"<": "-le", ">": "-be"}[self._order] if kind in (4, 17, 18) else ""
        try:
            return str(data, _TEXTS[kind] + ending)
        except UnicodeDecodeError as error:
            raise MatError(f"has a text that is none ({error})") from None


class _Matrix:
    """An array of any class. An element without content is an empty one."""

    def __init__(self, data: memoryview, order: str) -> None:
        self._order, self._elements = order, _Elements(data, order)
        self._class, self._is_complex, self._count, self.name = _NUMERIC[0], False, 0, ""
        self._is_empty = not len(data)
        if self._is_empty:
            return
        flags = self._elements.numbers()
        dimensions = self._elements.numbers().tolist()
        if not len(flags) or flags.dtype.kind != "u" or any(type(side) is not int or side < 0 for side in dimensions):
            raise MatError("has an array without a class or a size")
        self._class, self._is_complex = int(flags[0]) & 0xFF, bool(int(flags[0]) & _IS_COMPLEX)
        self._count = math.prod(dimensions)
        self.name = self._elements.text()

    def value(self, depth: int) -> Value:
        """Its content."""
        if self._is_empty:
            return np.empty(0)
        if depth > _DEEPEST:
            raise MatError("has arrays within arrays too deeply")
        if self._class == _CELL:
            return [self._inner(depth) for _ in range(self._count)]
        if self._class == _STRUCT:
            return self._fields(depth)
        if self._class == _CHAR:
            return self._elements.text() if self._count else ""
        if self._class not in _NUMERIC or self._is_complex:
            raise MatError(f"has an array of class {self._class}{' of complex numbers' if self._is_complex else ''}")
        found = self._elements.numbers()
        if len(found) != self._count:
            raise MatError(f"has {len(found):,} numbers in an array of {self._count:,}")
        return found

    def _inner(self, depth: int) -> Value:
        kind, data = self._elements.take()
        if kind != _MATRIX:
            raise MatError(f"holds an element of type {kind} where an array belongs")
        return _Matrix(data, self._order).value(depth + 1)

    def _fields(self, depth: int) -> dict[str, list[Value]]:
        lengths = self._elements.numbers()
        _, packed = self._elements.take()
        length = int(lengths[0]) if len(lengths) == 1 and lengths.dtype.kind in "iu" else 0
        if length < 1 or len(packed) % length:
            raise MatError("has structs without names of their fields")
        raw = bytes(packed)
        names = [raw[at : at + length].partition(b"\0")[0].decode("latin1") for at in range(0, len(raw), length)]
        fields: dict[str, list[Value]] = {name: [] for name in names}
        if len(fields) != len(names):
            raise MatError("has structs with two fields of one name")
        # Without fields there is nothing to walk through, however many structs there are said to be.
        for _ in range(self._count if names else 0):
            for name in names:
                fields[name].append(self._inner(depth))
        return fields
