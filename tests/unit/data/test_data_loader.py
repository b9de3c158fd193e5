import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from cait_dist.config.augment import AugmentConfig
from cait_dist.data.errors import CorruptImageError, DataError, WorkerKilledError
from cait_dist.data.loader import EvalLoader, MicroBatch, TrainLoader, _told_plainly, death_of_worker
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_webdataset import WebDatasetReader, open_split
from cait_dist.errors import is_for_user

SIZE, BATCH = 16, 24


@pytest.fixture(scope="module")
def reader(shards: Path) -> WebDatasetReader:
    return open_split(shards, "train")


def make(reader: WebDatasetReader, **changes) -> TrainLoader:
    arguments = {"image_size": SIZE, "seed": 5, "global_batch": BATCH, "micro_batch": 2, "prefetch": 2, **changes}
    order = arguments.pop("order", None) or SampleOrder(reader.num_samples, 5)
    return TrainLoader(reader, order, AugmentConfig(), **arguments)


def take(loader: TrainLoader, count: int) -> list[MicroBatch]:
    with loader:
        return list(itertools.islice(loader, count))


def steps_of(reader: WebDatasetReader, steps: int, world_size: int, **changes) -> list[dict[str, torch.Tensor]]:
    """The global batches of some steps, put together from all ranks in stream order."""
    per_rank = []
    for rank in range(world_size):
        loader = make(reader, rank=rank, world_size=world_size, **changes)
        per_rank.append(take(loader, steps * loader.micro_batches))
    batches = []
    for step in range(steps):
        mine = [
            b for batches_of_rank in per_rank for b in batches_of_rank if b.step == step + changes.get("start_step", 0)
        ]
        batches.append(
            {
                "positions": torch.cat([torch.from_numpy(b.positions) for b in mine]),
                "ids": torch.cat([torch.from_numpy(b.ids) for b in mine]),
                "images": torch.cat([b.images for b in mine]),
                "labels": torch.cat([b.labels for b in mine]),
            }
        )
    return batches


def assert_same(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for key in a:
            assert torch.equal(a[key], b[key]), key


@pytest.fixture(scope="module")
def reference(reader: WebDatasetReader) -> list[dict[str, torch.Tensor]]:
    """One pass and a bit, on one rank, in one piece, without workers."""
    return steps_of(reader, 7, 1, micro_batch=BATCH)


def test_micro_batches_are_as_promised(reader: WebDatasetReader) -> None:
    batches = take(make(reader, rank=1, world_size=2, micro_batch=4, start_step=3), 6)
    assert [(b.step, b.micro) for b in batches] == [(3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2)]
    for batch in batches:
        start = batch.step * BATCH + 12 + 4 * batch.micro
        assert batch.positions.tolist() == list(range(start, start + 4))
        assert batch.positions.dtype == batch.ids.dtype == np.int64
        assert batch.images.shape == (4, 3, SIZE, SIZE)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == torch.int64
        assert batch.labels.tolist() == reader.labels[batch.ids].tolist()


def test_reference_holds_each_sample_once_per_pass(reference: list[dict[str, torch.Tensor]]) -> None:
    ids = torch.cat([batch["ids"] for batch in reference])
    assert sorted(ids[:120].tolist()) == list(range(120))
    assert not torch.equal(reference[0]["images"], reference[5]["images"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_batches_are_the_same_on_any_ranks_and_workers(
    reader: WebDatasetReader, reference: list[dict[str, torch.Tensor]], world_size: int, workers: int
) -> None:
    assert_same(steps_of(reader, 7, world_size, workers=workers), reference)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 12])
def test_batches_are_the_same_in_any_pieces(
    reader: WebDatasetReader, reference: list[dict[str, torch.Tensor]], micro_batch: int
) -> None:
    assert_same(steps_of(reader, 7, 2, micro_batch=micro_batch), reference)


@pytest.mark.parametrize(("start", "workers"), [(1, 0), (3, 2), (5, 0), (6, 1)])
def test_a_resumed_loader_goes_on_where_another_would_be(
    reader: WebDatasetReader, reference: list[dict[str, torch.Tensor]], start: int, workers: int
) -> None:
    assert_same(steps_of(reader, 7 - start, 3, start_step=start, workers=workers), reference[start:])


def test_block_order_and_repeats_reach_the_loader(reader: WebDatasetReader) -> None:
    order = SampleOrder(reader.num_samples, 5, "block", 3, reader.shard_sizes, 2)
    ids = torch.cat([batch["ids"] for batch in steps_of(reader, 15, 2, order=order, image_size=4)])
    assert torch.bincount(ids, minlength=120).tolist() == [3] * 120


def test_copies_of_a_sample_are_cropped_differently(reader: WebDatasetReader) -> None:
    order = SampleOrder(reader.num_samples, 5, repeats=3)
    batch = take(make(reader, order=order, global_batch=360, micro_batch=360), 1)[0]
    for sample in set(batch.ids.tolist()):
        views = batch.images[torch.from_numpy(batch.ids == sample)]
        assert len(views) == 3
        assert not torch.equal(views[0], views[1])


def test_loader_leaves_the_global_generator_alone(reader: WebDatasetReader) -> None:
    before = torch.get_rng_state()
    take(make(reader, workers=1), 2)
    list(EvalLoader(reader, image_size=SIZE, crop_ratio=1.0, batch=50))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_that_cannot_be_cut_are_refused(reader: WebDatasetReader) -> None:
    with pytest.raises(
        DataError, match="share of 8 samples cannot be cut into micro-batches of 3; possible are 1, 2, 4, 8"
    ):
        make(reader, world_size=3, micro_batch=3)
    with pytest.raises(DataError, match="24 cannot be shared by 5 ranks"):
        make(reader, world_size=5)
    with pytest.raises(DataError, match="order is of 7 samples"):
        make(reader, order=SampleOrder(7, 0))


def test_a_closed_loader_says_so(reader: WebDatasetReader) -> None:
    loader = make(reader)
    loader.close()
    loader.close()
    with pytest.raises(DataError, match="closed"):
        next(loader)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 5, 50])
def test_evaluation_sees_everything_once(shards: Path, world_size: int, workers: int) -> None:
    val = open_split(shards, "val")
    seen: dict[int, torch.Tensor] = {}
    rounds = set()
    most = 0
    for rank in range(world_size):
        if workers and rank % 7:
            continue
        loader = EvalLoader(
            val, image_size=SIZE, crop_ratio=0.9, batch=4, rank=rank, world_size=world_size, workers=workers
        )
        rounds.add(loader.rounds)
        batches = list(loader)
        most = max(most, len(batches))
        for batch in batches:
            assert batch.labels.tolist() == val.labels[batch.ids].tolist()
            assert not seen.keys() & set(batch.ids.tolist())
            seen.update(zip(batch.ids.tolist(), batch.images, strict=True))
        assert sum(len(batch.ids) for batch in batches) == loader.num_samples
    if not workers:
        assert sorted(seen) == list(range(37))
        assert rounds == {most}


def test_evaluation_can_be_repeated_and_left_early(shards: Path) -> None:
    loader = EvalLoader(open_split(shards, "val"), image_size=SIZE, crop_ratio=1.0, batch=8, workers=2)
    first = [batch.images for batch in loader]
    for batch in loader:
        assert torch.equal(batch.images, first[0])
        break
    assert all(torch.equal(a.images, b) for a, b in zip(loader, first, strict=True))
    assert not decoding_workers()


def decoding_workers() -> list[psutil.Process]:
    gone_soon = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    alive = psutil.wait_procs(gone_soon, timeout=1)[1]
    # Python's own helpers, started by whichever test needed them first, live as long as the session.
    helpers = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
    return [p for p in alive if not any(helper in " ".join(p.cmdline()) for helper in helpers)]


class Broken:
    """A reader whose sample 77 is damaged."""

    def __init__(self, reader: WebDatasetReader) -> None:
        self._reader = reader
        self.num_samples, self.labels, self.locate = reader.num_samples, reader.labels, reader.locate

    def read(self, index: int) -> bytes:
        return self._reader.read(index)[: 100 if index == 77 else None]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_is_named_and_no_worker_is_left(reader: WebDatasetReader, workers: int) -> None:
    broken = Broken(reader)
    with (
        pytest.raises(CorruptImageError, match=r"sample 77 \(.*train-00000\d.tar, offset \d+.*cait verify"),
        TrainLoader(
            broken,
            SampleOrder(120, 5),
            AugmentConfig(),
            image_size=SIZE,
            seed=0,
            global_batch=BATCH,
            micro_batch=2,
            workers=workers,
        ) as loader,
    ):
        take(loader, 60)
    assert not decoding_workers()


PROGRAM = """
import itertools, signal, sys
from cait_dist.config.augment import AugmentConfig
from cait_dist.data.loader import TrainLoader, death_of_worker
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_webdataset import WebDatasetReader

mode = sys.argv[2]
stop = []
reader = WebDatasetReader(sys.argv[1])
loader = TrainLoader(reader, SampleOrder(reader.num_samples, 5), AugmentConfig(), image_size=16, seed=0,
                     global_batch=4, micro_batch=2, workers=2)
next(loader), next(loader)  # one from each worker, so both are ready
if mode == "handles":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda *_: stop.append(1))
print("ready", flush=True)
if mode == "raises":
    raise RuntimeError("something else went wrong")
try:
    while len(stop) < 3:
        next(loader)
except RuntimeError as error:  # a worker's death is raised wherever this process is just then
    raise death_of_worker(error) or error
print(sum(1 for _ in itertools.islice(loader, 100)), flush=True)
loader.close()
"""


@contextlib.contextmanager
def program(shards: Path, mode: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A training loop in a process group of its own, with its workers."""
    command = [sys.executable, "-c", PROGRAM, str(shards / "train"), mode]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with contextlib.suppress(psutil.NoSuchProcess):
                workers = psutil.Process(process.pid).children(recursive=True)
            yield process, workers
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_memory_that_is_used_again_holds_each_batch_until_the_next(reader: WebDatasetReader, workers: int) -> None:
    expected = take(make(reader, workers=workers), 60)
    rooms = set()
    with make(reader, workers=workers, reuse_memory=True) as loader:
        for batch in expected:
            found = next(loader)
            time.sleep(0.002)  # for the workers to run as far ahead as they may
            assert torch.equal(found.images, batch.images)
            rooms.add(found.images.data_ptr())
    if workers == 0:
        assert len(rooms) == 4  # two are kept ready, one is in use, one is being filled


def test_signals_to_the_whole_group_are_left_to_the_parent(shards: Path) -> None:
    with program(shards, "handles") as (process, workers):
        assert len(workers) >= 2
        for number in (signal.SIGUSR2, signal.SIGINT, signal.SIGTERM):
            os.killpg(process.pid, number)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "100\n"), errors
        assert not psutil.wait_procs(workers, timeout=10)[1]


def test_workers_do_not_outlive_a_killed_parent(shards: Path) -> None:
    with program(shards, "runs") as (first, some), program(shards, "runs") as (second, others):
        assert len(some) >= 2 <= len(others)
        first.kill()
        second.terminate()
        assert (first.wait(timeout=10), second.wait(timeout=10)) == (-signal.SIGKILL, -signal.SIGTERM)
        # Nor hold what they have inherited, a run's lock for one, until torch has noticed, which looks every 5 s.
        assert not psutil.wait_procs(some + others, timeout=3)[1]


def test_a_program_that_fails_without_closing_ends_at_once(shards: Path) -> None:
    with program(shards, "raises") as (process, workers):
        started = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "something else went wrong" in errors
        assert time.monotonic() - started < 4.9  # torch by itself waits five seconds for every worker
        assert not psutil.wait_procs(workers, timeout=1)[1]


def test_a_second_sigterm_kills_a_worker_which_is_told(shards: Path) -> None:
    with program(shards, "runs") as (process, workers):
        workers[0].terminate()
        time.sleep(0.5)
        assert workers[0].is_running()
        workers[0].terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "WorkerKilledError: a decoding worker was killed" in errors, errors


def test_of_a_dying_worker_torch_says_nothing_any_more_once_it_was_told() -> None:
    """A worker's connections close before it has ended, and only then does torch hear of it, by a signal."""
    heard = []

    def as_torch_does(*_: object) -> None:
        if not heard:
            heard.append(worker.exitcode)
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    worker = multiprocessing.get_context("fork").Process(target=_die_slowly)
    before = signal.signal(signal.SIGCHLD, as_torch_does)
    try:
        worker.start()
        batches = SimpleNamespace(_workers=[worker])
        with pytest.raises(WorkerKilledError, match=r"a decoding worker was killed.*reset"), _told_plainly(batches):
            raise ConnectionResetError("reset")
        assert worker.exitcode == -signal.SIGKILL
        assert heard
    finally:
        signal.signal(signal.SIGCHLD, before)


def _die_slowly() -> None:
    os.closerange(3, 1024)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_was_killed_is_no_reason_to_give_a_run_up() -> None:
    """What memory ran out for may have gone when the job is requeued."""
    told = death_of_worker(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert isinstance(told, WorkerKilledError)
    assert not is_for_user(told)


def test_a_worker_error_shows_where_it_came_from(reader: WebDatasetReader) -> None:
    with pytest.raises(CorruptImageError, match=r"^sample .*run `cait verify` on the data$") as caught:
        take(make(Broken(reader), workers=1, global_batch=120, micro_batch=120), 1)  # type: ignore[arg-type]
    assert "Original Traceback" in str(caught.value.__cause__)
    assert "_read_images" in str(caught.value.__cause__)
