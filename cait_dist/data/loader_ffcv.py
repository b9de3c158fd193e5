"""Training batches from FFCV's own loader: its threads and its decoder, our order, crops and flips.

The contract is that of `loader.TrainLoader`: an endless, exactly resumable stream of micro-batches in which everything
follows from positions. FFCV knows epochs over a file; it is given one "epoch" after the other that is nothing but the
next few micro-batches of our stream. So there is no drop_last, no padding and no generator of FFCV's in play.

Compared with `TrainLoader` it needs no processes and copies nothing between them; but it decodes with libjpeg's fast
transforms and resizes by area averages instead of an antialiased bicubic filter, so pixels differ. A run must keep to
one of the two.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from .batches import Ids, MicroBatch, Reader
from .corrupt import CorruptSample, take_sound
from .crop import CROP_DRAWS, CropSettings, random_resized_crop_box, train_view, view_uniforms
from .errors import CorruptImageError, DataError
from .loader import TrainLoader, check_micro_batch
from .order import SampleOrder, rank_positions
from .reader_ffcv import FfcvReader

if TYPE_CHECKING:
    from ffcv.loader.epoch_iterator import EpochIterator

_MICRO_BATCHES_AT_ONCE = 64
_POLL_SECONDS = 0.0005


class FfcvTrainLoader:
    """An endless iterator over one rank's micro-batches, in order.

    Args:
        reader: the beton.
        order: which sample stands where in the stream.
        augment: ranges of the crop, probability of the flip.
        image_size: side of the images in pixels.
        seed: of crops and flips.
        global_batch: samples per step over all ranks.
        micro_batch: samples per item; must divide the rank's share of the global batch.
        rank: this rank.
        world_size: number of ranks.
        start_step: first step; to resume, the number of steps done.
        workers: decoding threads.
        prefetch: micro-batches kept ready.
        reuse_memory: a batch's images are needed only until the next batch is asked for; spares a copy.
        skip_corrupt: let others stand in for corrupt samples, instead of an error. They are decoded exactly.

    Raises:
        DataError: if the global batch cannot be cut evenly into micro-batches.
    """

    def __init__(
        self,
        reader: FfcvReader,
        order: SampleOrder,
        augment: CropSettings,
        *,
        image_size: int,
        seed: int,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        workers: int = 1,
        prefetch: int = 4,
        reuse_memory: bool = False,
        skip_corrupt: bool = False,
    ) -> None:
        self.micro_batches = check_micro_batch(reader, order, global_batch, micro_batch, rank, world_size)
        self._reader, self._order, self._augment, self._seed = reader, order, augment, seed
        self._share = (global_batch, rank, world_size)
        self._micro_batch, self._start_step, self._reuse_memory = micro_batch, start_step, reuse_memory
        self._image_size, self._skip_corrupt = image_size, skip_corrupt
        self._loader, self._plan = self._make(image_size, max(workers, 1), prefetch)
        self._batches: Iterator[MicroBatch] | None = self._stream()

    def __iter__(self) -> FfcvTrainLoader:
        return self

    def __next__(self) -> MicroBatch:
        if self._batches is None:
            raise DataError("this loader was closed; make a new one with start_step set")
        return next(self._batches)

    def close(self) -> None:
        """Stop the threads; harmless if done twice."""
        if self._batches is not None:
            self._batches.close()  # type: ignore[attr-defined]
            self._batches = None

    def __enter__(self) -> FfcvTrainLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self, image_size: int, threads: int, prefetch: int) -> tuple[Any, npt.NDArray[np.void]]:
        """FFCV's loader, and the plan that its decoder reads."""
        from ffcv.loader import Loader, OrderOption  # noqa: PLC0415 - seconds, and only where it is installed

        from .ffcv_decoder import PLAN, PlannedCrop, use_threads  # noqa: PLC0415

        use_threads(threads)
        plan = np.zeros(_MICRO_BATCHES_AT_ONCE * self._micro_batch, PLAN)
        loader = Loader(
            str(self._reader.beton),
            batch_size=self._micro_batch,
            num_workers=threads,
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            batches_ahead=prefetch,
            pipelines={"image": [PlannedCrop(image_size, plan)], "label": None},
        )
        return loader, plan

    def _stream(self) -> Iterator[MicroBatch]:
        slots = ((step, micro) for step in itertools.count(self._start_step) for micro in range(self.micro_batches))
        while True:
            chunk = list(itertools.islice(slots, _MICRO_BATCHES_AT_ONCE))
            positions = np.concatenate([self._positions(*slot) for slot in chunk])
            ids = self._order.ids(positions)
            epoch = self._begin(ids, positions)
            try:
                for number, slot in enumerate(chunk):
                    _wait_for(epoch)
                    rows = slice(number * self._micro_batch, (number + 1) * self._micro_batch)
                    yield self._finish(slot, positions[rows], ids[rows], next(epoch)[0], rows)
            finally:
                epoch.close()

    def _positions(self, step: int, micro: int) -> Ids:
        start = rank_positions(step, *self._share).start + micro * self._micro_batch
        return np.arange(start, start + self._micro_batch, dtype=np.int64)

    def _begin(self, ids: Ids, positions: Ids) -> EpochIterator:
        """Fill in the plan, and have FFCV decode by it."""
        from .ffcv_decoder import pack  # noqa: PLC0415

        uniforms = view_uniforms(self._seed, positions)
        shapes = self._reader.table[["width", "height"]][ids].tolist()
        scale, ratio = self._augment.crop_scale, self._augment.crop_ratio
        for row, (draws, (width, height)) in enumerate(zip(uniforms, shapes, strict=True)):
            box = random_resized_crop_box(width, height, draws[:CROP_DRAWS], scale, ratio)
            self._plan[row] = (*box, draws[CROP_DRAWS] < self._augment.hflip, 0)
        order = pack(ids, np.arange(len(ids)))
        self._loader.first_traversal_order = order  # the length of an epoch, to FFCV
        self._loader.next_traversal_order = lambda: order
        return iter(self._loader)

    def _finish(self, slot: tuple[int, int], positions: Ids, ids: Ids, pixels: Any, rows: slice) -> MicroBatch:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        failed = np.flatnonzero(self._plan["error"][rows])
        corrupt = self._replace(failed, positions, ids, images) if failed.size else ()
        if not self._reuse_memory:
            images = images.clone()  # FFCV will use the buffer again
        batch = MicroBatch(*slot, positions, ids, images, torch.from_numpy(self._reader.labels[ids]), corrupt)
        return batch.pin_memory() if torch.cuda.is_available() else batch

    def _replace(self, failed: Ids, positions: Ids, ids: Ids, images: torch.Tensor) -> tuple[CorruptSample, ...]:
        """Fill the rows that FFCV could not decode with samples that stand in, and their ids likewise."""
        first = [CorruptSample(int(positions[row]), int(ids[row]), self._told(int(ids[row]))) for row in failed]
        if not self._skip_corrupt:
            raise CorruptImageError(first[0].reason)
        uniforms = view_uniforms(self._seed, positions)

        def take(number: int, index: int) -> None:
            if index == first[number].sample:
                raise CorruptImageError(first[number].reason)
            row = failed[number]
            try:
                train_view(self._reader.read(index), self._image_size, uniforms[row], self._augment, out=images[row])
            except CorruptImageError as error:
                raise CorruptImageError(f"{self._reader.locate(index)}: {error}; run `cait verify`") from None

        replaced = ids[failed]
        found = take_sound(replaced, positions[failed], self._seed, self._reader.num_samples, take)
        ids[failed] = replaced
        return found

    def _told(self, index: int) -> str:
        return f"{self._reader.locate(index)}: cannot be decoded by FFCV; run `cait verify` on the data"


def _wait_for(epoch: EpochIterator) -> None:
    """Wait for a batch, but not for a thread that is dead, as FFCV would: for ever."""
    while epoch.output_queue.empty():
        if not epoch.is_alive() and epoch.output_queue.empty():
            raise DataError("FFCV's decoding thread died; its error is printed above. data.decoder=exact does without")
        time.sleep(_POLL_SECONDS)


def make_train_loader(
    decoder: Literal["exact", "ffcv"], reader: Reader, order: SampleOrder, augment: CropSettings, **settings: Any
) -> TrainLoader | FfcvTrainLoader:
    """The loader that decodes in the way asked for; the rest is as for `TrainLoader`.

    Raises:
        DataError: see `check_ffcv_decoder` and `TrainLoader`.
    """
    if decoder == "exact":
        return TrainLoader(reader, order, augment, **settings)
    return FfcvTrainLoader(check_ffcv_decoder(reader), order, augment, **settings)


def check_ffcv_decoder(reader: Reader) -> FfcvReader:
    """Check that FFCV can be used, and on these data.

    Raises:
        DataError: if it cannot, saying how to mend that.
    """
    if not isinstance(reader, FfcvReader):
        raise DataError(
            "data.decoder is ffcv, which reads betons only: set data.format=ffcv, or write a beton with"
            " `cait prep … --format both`, or set data.decoder=exact"
        )
    try:
        import ffcv.loader  # noqa: F401, PLC0415
    except ImportError as error:
        raise DataError(
            f"data.decoder is ffcv, but FFCV cannot be imported ({error}): install it with `pip install"
            " 'cait-dist[ffcv]'` (needs the headers of OpenCV and libjpeg-turbo, see docs/data.md), or set"
            " data.decoder=exact, which reads betons without it"
        ) from None
    return reader
