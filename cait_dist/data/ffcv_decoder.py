"""A decoder for FFCV's loader that crops and flips as it is told, instead of as it likes.

FFCV's own random crop draws from a generator that cannot be seeded, so no run could be repeated or resumed. Here the
boxes are worked out beforehand, by the same code as for any other format, and the decoder looks them up. An FFCV
pipeline hands its operations nothing but sample numbers; so the number of the plan's row travels in their upper half.

FFCV ignores when an image cannot be decoded, and leaves whatever the buffer held before. This decoder notes it.

This module imports FFCV, and is therefore imported only where FFCV is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.libffcv import imdecode, resize_crop
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.state import State
from ffcv.utils import cast_int_to_byte_ptr

from data_prep.beton import JPG

ROW_SHIFT = 32
_ID_MASK = (1 << ROW_SHIFT) - 1

PLAN = np.dtype(
    [("left", "<i4"), ("top", "<i4"), ("width", "<i4"), ("height", "<i4"), ("flip", "<i4"), ("error", "<i4")]
)


def pack(ids: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sample numbers with the rows of the plan that are meant for them."""
    return (rows << ROW_SHIFT) | ids


def use_threads(count: int) -> None:
    """Let FFCV compile for, and run with, this many threads of its own.

    FFCV's own function sets torch's threads as well, which are the trainer's business; so it is replaced.
    """
    count = min(count, numba.config.NUMBA_NUM_THREADS)

    def set_num_threads(_: int) -> None:
        Compiler.num_threads = count
        numba.set_num_threads(count)

    Compiler.set_num_threads = set_num_threads
    set_num_threads(count)


class PlannedCrop(SimpleRGBImageDecoder):
    """Decode, crop, resize and flip by a plan.

    It inherits nothing that it uses: FFCV puts a decoder of this class before anything that is none.

    Args:
        image_size: side of the result in pixels.
        plan: ``(rows,)`` array of `PLAN`, C-contiguous; filled anew by its owner between epochs, and never moved.
    """

    def __init__(self, image_size: int, plan: npt.NDArray[np.void]) -> None:
        super().__init__()
        self._size, self._plan = image_size, plan

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """What comes out: ``(b, image_size, image_size, 3)`` uint8."""
        shape = (self._size, self._size, 3)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype("u1")), AllocationQuery(shape, "u1")

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV compiles."""
        read, batch_range = self.memory_read, Compiler.get_iterator()
        imdecode_c, resize_crop_c = Compiler.compile(imdecode), Compiler.compile(resize_crop)
        mirror = Compiler.compile(_mirror)
        # Compiled functions freeze the arrays they refer to; through its address, this one is seen as it is.
        address, shape = self._plan.ctypes.data, (len(self._plan), PLAN.itemsize)

        def decode(indices, destination, metadata, storage):  # type: ignore[no-untyped-def]
            # Two-dimensional, because FFCV declares the very type of one-dimensional bytes to be read-only.
            plan = numba.carray(cast_int_to_byte_ptr(address), shape).view(np.int32)
            for slot in batch_range(len(indices)):
                field, row = metadata[indices[slot] & _ID_MASK], plan[indices[slot] >> ROW_SHIFT]
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                stored = read(field["data_ptr"], storage)
                if field["mode"] == JPG:
                    pixels = np.empty((height, width, 3), np.uint8)
                    row[5] = imdecode_c(
                        stored, pixels.reshape(-1), height, width, height, width, 0, 0, 1, 1, False, False
                    )
                else:
                    pixels = stored.reshape(height, width, 3)
                resize_crop_c(pixels, row[1], row[1] + row[3], row[0], row[0] + row[2], destination[slot])
                if row[4]:
                    mirror(destination[slot])
            return destination[: len(indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


def _mirror(image: npt.NDArray[np.uint8]) -> None:
    """Swap left and right in place."""
    height, width, channels = image.shape
    for y in range(height):
        for x in range(width // 2):
            for channel in range(channels):
                left = image[y, x, channel]
                image[y, x, channel] = image[y, width - 1 - x, channel]
                image[y, width - 1 - x, channel] = left
