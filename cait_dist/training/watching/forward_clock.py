"""How long this rank was busy by itself in a step: waiting for its images, and in its forward passes.

All ranks of a step end together, because they exchange gradients, so the length of a step tells nothing about who was
late. What a rank does before the first exchange does (at ZeRO stage 3, forward passes exchange parameters, too).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class ForwardClock:
    """Adds up forward passes; on a GPU by events in its stream, which cost no waiting until they are read."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a forward pass."""
        if self._on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
            return
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    def seconds(self) -> float:
        """The sum; on a GPU only after the step's loss has been read, which proves that the events have passed."""
        return self._seconds + sum(begin.elapsed_time(end) for begin, end in self._events) / 1e3
