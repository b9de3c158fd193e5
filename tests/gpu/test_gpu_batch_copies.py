"""Copies to a real GPU beside its work. Not yet run on any GPU. Needs nothing but torch and pytest."""

import time

import pytest
import torch

from cait_dist.training.batch_copies import BatchCopies

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")


def work(seconds: float) -> torch.Tensor:
    """Queue about as much on the GPU; returns what it leaves behind."""
    x = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    _ = x @ x
    torch.cuda.synchronize()
    for _ in range(max(1, round(seconds / (time.perf_counter() - began)))):
        y = x @ x
    return y


def test_batches_arrive_whole_and_in_their_layout() -> None:
    copies, device = BatchCopies(torch.device("cuda")), torch.device("cuda")
    images = torch.randint(0, 256, (64, 224, 224, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.arange(64)
    for number in range(20):
        there = copies.bring([(images + number).pin_memory(), (labels + number).pin_memory()])
        work(0.002)  # so that memory is given away and taken again while steps are behind
        assert there[0].stride() == images.stride()
        assert there[0].device.type == device.type
        torch.testing.assert_close(there[0].cpu(), images + number, rtol=0, atol=0)
        torch.testing.assert_close(there[1].cpu(), labels + number, rtol=0, atol=0)


def test_neither_the_host_nor_the_copy_waits_for_the_work_before_it() -> None:
    copies = BatchCopies(torch.device("cuda"))
    images = torch.zeros(64, 3, 448, 448, dtype=torch.uint8).pin_memory()
    copies.bring([images])  # the first one makes stream and memory
    torch.cuda.synchronize()
    work(0.5)
    busy = torch.cuda.Event()
    busy.record()
    began = time.perf_counter()
    copies.bring([images])
    copies._stream.synchronize()  # type: ignore[union-attr]
    assert not busy.query(), "the work was too short to tell"
    assert time.perf_counter() - began < 0.25
