"""Measures the rates of this machine at the shapes of one configuration; :mod:`.calibration` says what is kept.

Every part is the real one, forward and backward apart: torch's linear layer, the attention of the model, its norm and
its residual. Steps without tokens need an engine, and come from where there is one. On a CPU with one thread seconds
are those of the processor, since a neighbour's work does not count then.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cait_dist.augment.pipeline import BatchAugmentation, Purpose
from cait_dist.config import RunConfig
from cait_dist.data.randomness import Stream, uniform
from cait_dist.models import Architecture
from cait_dist.models.attention import SelfAttention
from cait_dist.models.layers import BranchLinear, StreamNorm
from cait_dist.models.residual import add_branch
from cait_dist.ops import override_backend
from cait_dist.ops.gelu import gelu, gelu_and_gradient

from .calibration import AttentionTime, BareStep, Both, Calibration, ProductTime, Rates

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_FEWEST_ROUNDS = 3


class StepBench:
    """Measures on one device.

    Args:
        device: to measure.
        seconds: to spend on each part.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device, self._seconds = device, seconds
        self._by_processor = device.type == "cpu" and torch.get_num_threads() == 1

    @property
    def clock(self) -> str:
        """What its seconds are."""
        return "processor" if self._by_processor else "wall"

    def measure(
        self,
        config: RunConfig,
        arch: Architecture,
        images: int,
        backends: Sequence[str],
        bare: tuple[BareStep, ...],
        commit: str | None,
    ) -> Calibration:
        """Measure all parts.

        Args:
            config: of the run, for its precision and augmentation.
            arch: whose shapes.
            images: micro-batch.
            backends: of the attention; ``plain`` without talking heads.
            bare: steps without tokens in that precision.
            commit: of this project.
        """
        precision = config.training.precision
        return Calibration(
            hardware=_hardware(self._device),
            device=self._device.type,
            threads=torch.get_num_threads() if self._device.type == "cpu" else 1,
            torch=torch.__version__,
            commit=commit,
            date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            clock=self.clock,
            rates={precision: self._rates(arch, images, backends, bare, _DTYPES[precision])},
            augment=self._augment(config, arch, images),
        )

    def _rates(
        self,
        arch: Architecture,
        images: int,
        backends: Sequence[str],
        bare: tuple[BareStep, ...],
        dtype: torch.dtype,
    ) -> Rates:
        d, m, rows = arch.embed_dim, arch.mlp_hidden, images * arch.num_patches
        shapes = [(rows, d, 3 * d), (rows, d, d), (rows, d, m), (rows, m, d), (images, d, d)]
        stream = self._stream(arch, images, dtype)
        hidden = self._random(images, arch.num_patches, m, dtype=dtype)
        return Rates(
            products=tuple(ProductTime(*shape, self._product(*shape, dtype)) for shape in shapes),
            attention=tuple(self._attention(arch, images, backend, dtype) for backend in backends),
            stream=stream * (1 / (rows * d)),
            gelu=self._gelu(hidden) * (1 / hidden.numel()),
            bare=self._without_products(bare, arch, dtype),
        )

    def _without_products(
        self, bare: tuple[BareStep, ...], arch: Architecture, dtype: torch.dtype
    ) -> tuple[BareStep, ...]:
        """Takes out what the products of the self-attention blocks read and write of weights, which the tokens' have.

        Not on a GPU, where a bare step's time is that of its launches, nor of narrow networks, which have next to none.
        """
        wide = [step for step in bare if step.dim == arch.embed_dim]
        if self._device.type == "cuda" or not wide:
            return bare
        d, m, tokens = arch.embed_dim, arch.mlp_hidden, wide[0].tokens
        block = Both(0.0, 0.0)
        for shape in ((d, 3 * d), (d, d), (d, m), (m, d)):
            block += self._product(tokens, *shape, dtype)
        return tuple(_less(step, block * (step.blocks - arch.class_blocks)) if step in wide else step for step in bare)

    def _product(self, rows: int, inner: int, outer: int, dtype: torch.dtype) -> Both:
        layer = BranchLinear(inner, outer, device=self._device, dtype=dtype)
        return self._both(layer, self._random(1, rows, inner, dtype=dtype), list(layer.parameters()))

    def _attention(self, arch: Architecture, images: int, backend: str, dtype: torch.dtype) -> AttentionTime:
        """The attention without the two linear layers around it."""
        tokens, heads, width = arch.num_patches, arch.num_heads, arch.head_dim
        layer = SelfAttention(arch.embed_dim, heads, talking_heads=backend != "plain").to(self._device, dtype)
        qkv = self._random(images, tokens, 3 * arch.embed_dim, dtype=dtype)

        def attend(x: Tensor) -> Tensor:
            qkv = x.view(images, tokens, 3, heads, width).permute(2, 0, 3, 1, 4)
            return layer.attend(qkv).transpose(1, 2).reshape(images, tokens, -1)

        mixing = [p for name, p in layer.named_parameters() if name.startswith(("proj_l", "proj_w"))]
        with override_backend("eager" if backend == "plain" else backend):
            seconds = self._both(attend, qkv, mixing)
        return AttentionTime(backend, heads, tokens, width, images, seconds)

    def _stream(self, arch: Architecture, images: int, dtype: torch.dtype) -> Both:
        """A branch that consists of its norm alone."""
        norm = StreamNorm(arch.embed_dim).to(self._device, dtype)
        x = self._random(images, arch.num_patches, arch.embed_dim, dtype=torch.float32)
        return self._both(lambda t: add_branch(t, lambda s, _: norm(s), None, None, 0.0), x, list(norm.parameters()))

    @torch.no_grad()
    def _gelu(self, x: Tensor) -> Both:
        """It is computed again in the backward pass."""
        grad = torch.ones_like(x)
        return Both(*self._medians(lambda: gelu(x), lambda: gelu_and_gradient(x, grad)))

    def _augment(self, config: RunConfig, arch: Architecture, images: int) -> float:
        """What happens to a batch on the device before the network sees it, per pixel."""

        def look_up(purpose: Purpose, positions: npt.NDArray[np.int64], draws: int) -> npt.NDArray[np.float64]:
            return uniform(config.seed, Stream[purpose], positions, draws)

        augment = BatchAugmentation(config.augment, arch.num_classes, look_up, self._device)
        side = arch.image_size
        batch = torch.zeros((images, side, side, 3), dtype=torch.uint8, device=self._device).permute(0, 3, 1, 2)
        labels, positions = torch.zeros(images, dtype=torch.int64, device=self._device), np.arange(images)
        return self._median(lambda: augment(batch, labels, positions)) / (images * side**2)

    def _both(self, run: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor] = ()) -> Both:
        x.requires_grad_()
        gradient = torch.ones_like(run(x))
        kept: list[Tensor] = []

        def forward() -> None:
            kept[:] = [run(x)]

        def backward() -> None:
            torch.autograd.grad(kept[0], [x, *parameters], gradient, allow_unused=True)

        return Both(*self._medians(forward, backward))

    def _median(self, run: Callable[[], object]) -> float:
        return self._medians(run)[0]

    def _medians(self, *runs: Callable[[], object]) -> list[float]:
        """Of each, run in turns for a while; the first turn only warms up."""
        times: list[list[float]] = [[] for _ in runs]
        began = time.perf_counter()
        while len(times[0]) <= _FEWEST_ROUNDS or time.perf_counter() - began < self._seconds:
            for run, taken in zip(runs, times, strict=True):
                taken.append(self._timed(run))
        return [statistics.median(taken[1:]) for taken in times]

    def _timed(self, run: Callable[[], object]) -> float:
        clock = time.process_time if self._by_processor else time.perf_counter
        began = clock()
        run()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return clock() - began

    def _random(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, device=self._device, dtype=dtype)


def _less(step: BareStep, products: Both) -> BareStep:
    seconds = step.seconds
    forward = max(0.0, seconds.forward - products.forward)
    backward = max(0.0, seconds.backward - products.backward)
    return replace(step, seconds=replace(seconds, forward=forward, backward=backward))


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
