"""Others stand in for corrupt samples: the same from every format, on any ranks, in any order, one after the other."""

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_folders import write_image_folder

from cait_dist.config.augment import AugmentConfig
from cait_dist.data.corrupt import MOST_STAND_INS, CorruptSample, stand_in, take_sound
from cait_dist.data.errors import CorruptImageError, CorruptShardError, DataError, ShardReadError
from cait_dist.data.loader import MicroBatch, TrainLoader
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_ffcv import FfcvReader
from cait_dist.data.reader_webdataset import LocalShards, WebDatasetReader
from data_prep.formats import prepare
from data_prep.plan import make_plan
from data_prep.sources import FolderSource

SAMPLES, BATCH, SEED = 96, 12, 5
Reader = WebDatasetReader | FfcvReader


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as tars and as a beton, 16 in a shard."""
    root = tmp_path_factory.mktemp("both")
    source = FolderSource(write_image_folder(root / "images", {"train": SAMPLES}))
    prepare(make_plan(source, root / "data", shard_size=16), "both", workers=1, progress=False)
    return root / "data" / "train"


@pytest.fixture
def split(sound: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "train"))


def readers(split: Path) -> dict[str, Reader]:
    return {"tars": WebDatasetReader(split, LocalShards(split, check_shards=False)), "beton": FfcvReader(split)}


def spoil(split: Path, samples: set[int]) -> None:
    """Have the images of these samples be no images any more, in both formats."""
    tars, beton = readers(split)["tars"], FfcvReader(split)
    for sample in samples:
        shard, offset, size, _ = tars._samples[sample].item()  # type: ignore[union-attr]
        at, length, *_ = beton.table[sample].item()
        for path, begin, count in ((split / tars.shards[shard].name, offset, size), (beton.beton, at, length)):  # type: ignore[union-attr]
            with path.open("r+b") as file:
                file.seek(begin + 2)
                file.write(bytes(count - 2))


def make(reader: Reader, mode: Any = "full", **changes: Any) -> TrainLoader:
    order = SampleOrder(reader.num_samples, SEED, mode, 1, reader.shard_sizes, 2)
    settings = {"image_size": 8, "seed": SEED, "global_batch": BATCH, "micro_batch": BATCH, "skip_corrupt": True}
    return TrainLoader(reader, order, AugmentConfig(), **{**settings, **changes})  # type: ignore[arg-type]


def take(loader: TrainLoader, count: int) -> list[MicroBatch]:
    with loader:
        return list(itertools.islice(loader, count))


def together(batches: list[MicroBatch]) -> tuple[list[int], torch.Tensor, list[tuple[int, int]]]:
    """Ids and images in the order of the stream, and who was corrupt at which position."""
    batches = sorted(batches, key=lambda batch: int(batch.positions[0]))
    ids = np.concatenate([batch.ids for batch in batches]).tolist()
    corrupt = [(found.position, found.sample) for batch in batches for found in batch.corrupt]
    return ids, torch.cat([batch.images for batch in batches]), corrupt


def expected(mode: Any, spoilt: set[int], reader: Reader, count: int) -> tuple[list[int], list[tuple[int, int]]]:
    """By the rule: who stands where, and who was met."""
    ids = SampleOrder(reader.num_samples, SEED, mode, 1, reader.shard_sizes, 2).ids(np.arange(count)).tolist()
    met = []
    for position in range(count):
        for trial in itertools.count():
            if ids[position] not in spoilt:
                break
            met.append((position, ids[position]))
            ids[position] = stand_in(SEED, position, trial, reader.num_samples)
    return ids, met


@pytest.mark.parametrize("mode", ["full", "block"])
def test_who_stands_in_follows_from_seed_and_position_alone(split: Path, mode: str) -> None:
    first = {7, 30, 31, 90}
    # Those that would stand in are corrupt, too: of the second that stands in, and of the third.
    order = SampleOrder(SAMPLES, SEED, mode, 1, (16,) * 6, 2)  # type: ignore[arg-type]
    places = {int(sample): position for position, sample in enumerate(order.ids(np.arange(SAMPLES)).tolist())}
    spoilt = first | {stand_in(SEED, places[7], trial, SAMPLES) for trial in (0, 1)}
    spoil(split, spoilt)
    steps = SAMPLES // BATCH + 2
    both = readers(split)
    ids, met = expected(mode, spoilt, both["tars"], steps * BATCH)
    assert [sample for position, sample in met if position == places[7]][:1] == [7]
    assert sum(position == places[7] for position, _ in met) >= 3, "one stands in after the other"
    images = None
    for reader in both.values():
        for world, workers in ((1, 0), (2, 1), (3, 0)):
            batches = [
                batch
                for rank in range(world)
                for batch in take(
                    make(reader, mode, rank=rank, world_size=world, micro_batch=BATCH // world, workers=workers), steps
                )
            ]
            found = together(batches)
            assert found[0] == ids
            assert found[2] == met
            assert images is None or torch.equal(found[1], images)
            images = found[1]
            labels = torch.cat([b.labels for b in sorted(batches, key=lambda b: int(b.positions[0]))])
            assert labels.tolist() == reader.labels[ids].tolist(), "the label is that of the sample that is shown"


def test_crop_and_flip_belong_to_the_position(split: Path) -> None:
    reader = readers(split)["tars"]
    whole = take(make(reader), SAMPLES // BATCH)
    spoilt = int(whole[0].ids[0])
    other = stand_in(SEED, 0, 0, SAMPLES)
    spoil(split, {spoilt})
    shown = take(make(readers(split)["tars"]), 1)[0]
    assert shown.ids[0] == other
    assert torch.equal(shown.images[1:], whole[0].images[1:]), "nobody else is touched"
    again = next(b.images[list(b.ids).index(other)] for b in whole if other in b.ids)
    assert not torch.equal(shown.images[0], again), "the crop of its own place is another"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_is_cut_short_while_it_is_read_costs_its_end_alone(split: Path, workers: int) -> None:
    reader = readers(split)["tars"]
    assert isinstance(reader, WebDatasetReader)
    cut = range(5, 16)
    with make(reader, workers=workers, prefetch=1) as loader:
        before = list(itertools.islice(loader, 2))
        os.truncate(split / reader.shards[0].name, int(reader._samples[cut.start]["offset"]) + 10)
        after = list(itertools.islice(loader, 2 * SAMPLES // BATCH + 2))
    assert not any(batch.corrupt for batch in before)
    found = {corrupt.sample: corrupt.reason for batch in after for corrupt in batch.corrupt}
    assert set(found) == set(cut)
    assert all("the file ends early; run `cait verify" in reason for reason in found.values())
    assert not {int(sample) for batch in after[4:] for sample in batch.ids} & set(cut)


def test_without_leave_the_first_corrupt_one_is_an_error(split: Path) -> None:
    spoil(split, {3})
    for reader in readers(split).values():
        with pytest.raises(CorruptImageError, match=r"sample 3 \("):
            take(make(reader, skip_corrupt=False), SAMPLES // BATCH)


def test_a_beton_that_ends_early_has_stand_ins_too(split: Path) -> None:
    reader = FfcvReader(split)
    last = max(range(SAMPLES), key=lambda sample: int(reader.table[sample].item()[0]))
    offset, size, *_ = reader.table[last].item()
    os.truncate(reader.beton, offset + size // 2)
    found = {corrupt.sample for batch in take(make(reader), SAMPLES // BATCH) for corrupt in batch.corrupt}
    assert last in found


def test_data_that_are_gone_are_an_error_and_what_passes_is_none_of_ours() -> None:
    tried: list[int] = []

    def gone(row: int, sample: int) -> None:
        tried.append(sample)
        raise CorruptShardError(f"sample {sample} is gone")

    def failing(row: int, sample: int) -> None:
        raise ShardReadError("the server does not answer")

    ids, positions = np.array([4]), np.array([77])
    with pytest.raises(DataError, match=r"the 33th corrupt sample in a row: the data are damaged or gone"):
        take_sound(ids, positions, SEED, 1000, gone)
    assert tried == [4, *(stand_in(SEED, 77, trial, 1000) for trial in range(MOST_STAND_INS))]
    assert len(set(tried)) > 25, "each time somebody else"
    with pytest.raises(ShardReadError, match="does not answer"):
        take_sound(np.array([4]), positions, SEED, 1000, failing)


def test_the_last_that_may_stand_in_still_does() -> None:
    left = MOST_STAND_INS

    def take_last(row: int, sample: int) -> None:
        nonlocal left
        if left:
            left -= 1
            raise CorruptImageError(f"sample {sample} is broken")

    ids = np.array([4])
    found = take_sound(ids, np.array([77]), SEED, 1000, take_last)
    assert len(found) == MOST_STAND_INS
    assert found[0] == CorruptSample(77, 4, "sample 4 is broken")
    assert ids[0] == stand_in(SEED, 77, MOST_STAND_INS - 1, 1000)
