"""Read CIFAR's pickles without trusting them.

A pickle is a program: it names any function of any package and has it called. CIFAR's need three names, those by which
NumPy writes an array. Here they stand for records of this module that only remember what they are given, so that not
even NumPy's own code runs on what a file says; every other name is refused before anything is called. The array is made
at the end, when it is known to be rows of bytes.

The published files were written by Python 2, whose texts are bytes to Python 3.
"""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


class ForeignPickleError(ValueError):
    """A pickle is damaged or holds what CIFAR's do not."""


@dataclass
class _Array:
    """Stands for an array: what NumPy would have been told to fill it with."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


@dataclass
class _Dtype:
    """Stands for a type of elements."""

    code: object

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which bytes do not have."""


class _Name:
    """Stands for one of NumPy's names within a pickle; a new one each time, as a pickle may write into what it gets."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: object) -> object:
        if self._name == "_reconstruct":
            return _Array()
        if self._name == "dtype" and arguments:
            return _Dtype(arguments[0])
        raise ForeignPickleError(f"calls {self._name} as no array of NumPy's does")

    def __setstate__(self, state: object) -> None:
        raise ForeignPickleError(f"changes {self._name}")


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise ForeignPickleError(f"names {module}.{name}, which has no place in it; do not use this file")
        return _Name(name)


def read_pickle(raw: bytes) -> dict[str, object]:
    """The dictionary that a pickle holds: numbers, texts and lists of them; arrays for `pixel_rows`.

    Raises:
        ForeignPickleError: if it is damaged, no dictionary, or names anything but arrays.
    """
    try:
        content = _Reader(io.BytesIO(raw), encoding="bytes").load()
    except ForeignPickleError:
        raise
    except Exception as error:  # the machine that a pickle drives fails on damaged input in any way it likes
        raise ForeignPickleError(f"is no whole pickle ({type(error).__name__}: {error})") from None
    if not isinstance(content, dict):
        raise ForeignPickleError("holds no dictionary")
    return {text(key): value for key, value in content.items()}


def text(value: object) -> str:
    """A text, as Python 2 or 3 has written it.

    Raises:
        ForeignPickleError: if it is none.
    """
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise ForeignPickleError("holds something else where a text belongs")
    return value


def pixel_rows(value: object, width: int) -> npt.NDArray[np.uint8]:
    """The array ``(n, width)`` of bytes that a value of a pickle stands for.

    Raises:
        ForeignPickleError: if it is anything else.
    """
    state = value.state if isinstance(value, _Array) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise ForeignPickleError("has no array as its data")
    _, shape, dtype, fortran, content = state
    code = dtype.code if isinstance(dtype, _Dtype) else None
    if code not in ("u1", b"u1", "uint8", b"uint8") or not isinstance(content, bytes):
        raise ForeignPickleError("has an array of something else than bytes as its data")
    if not isinstance(shape, tuple) or len(shape) != 2 or any(type(side) is not int for side in shape):
        raise ForeignPickleError("has an array without rows as its data")
    if shape[1] != width or shape[0] < 0 or math.prod(shape) != len(content):
        raise ForeignPickleError(
            f"has {len(content):,} bytes for {shape[0]} × {shape[1]}; rows of {width} are expected"
        )
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")
