"""What talking-heads attention costs: each backend against timm's CaiT, in the same run and the same precision.

    python benchmarks/attention.py                      everything, on the GPU if there is one
    python benchmarks/attention.py --only step --batch 64 --out benchmarks/results/attention-h200.json

Three measurements. ``block`` is one self-attention block of M48 at 448 px and ``step`` a training step of XXS24 at 224
px (the update, the same for all, left out), both against timm's. The last line of a step also drops branches at a rate
of 0.3, which timm would compute all the same. ``crossover`` is the attention alone over the number of tokens, chunked
against eager: the rule of ``cait_dist.ops.choose_backend`` comes from it.

In every round the contenders take turns, and a ratio is the median over rounds of ratios within a round, so that a
slow minute harms all alike. A GPU is timed by the clock on the wall, a CPU by the processor time of one thread (unless
``--threads`` asks for more), which does not count what neighbours do. bf16 is autocast over float32 parameters.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cait_dist.models import Architecture, Cait, architecture
from cait_dist.models.cait import SelfAttentionBlock
from cait_dist.ops import draw_keep_mask, override_backend, talking_heads_attention
from cait_dist.tracking.code_version import describe_code

DROP_RATE = 0.3
CROSSOVER_TOKENS = (16, 49, 100, 144, 196, 256, 400, 576, 784)


@dataclass(frozen=True)
class Contender:
    """Something that computes a scalar to differentiate."""

    run: Callable[[], Tensor]
    leaves: list[Tensor]
    """where gradients arrive"""


Contenders = dict[str, Contender]
"""By name; the first is what the others are compared with."""


def main() -> None:
    """Measures what the command line asks for, prints a table, and writes JSON."""
    options = _parse()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(options.threads)
    rows = []
    for name in options.only:
        for precision in options.precisions:
            for title, contenders in MEASUREMENTS[name](device, options.batch):
                rows += _compare(f"{name} {title}", precision, contenders, device, options)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(_circumstances(device, options) | {"results": rows}, indent=1) + "\n")


def _block(device: torch.device, batch: int | None) -> Iterator[tuple[str, Contenders]]:
    """One block of M48 at 448 px, forward and backward."""
    arch = architecture("cait_m48_448")
    ours = SelfAttentionBlock(arch).to(device)
    theirs = _timm().LayerScaleBlock(arch.embed_dim, arch.num_heads, qkv_bias=True, init_values=1e-6).to(device)
    theirs.load_state_dict(ours.state_dict())
    batch = batch or (1 if device.type == "cpu" else 16)
    x = torch.randn(batch, arch.num_patches, arch.embed_dim, device=device, requires_grad=True)
    yield (
        f"M48 448px batch {batch}",
        {
            "timm": Contender(lambda: theirs(x).sum(), [x, *theirs.parameters()]),
            "eager": _ours("eager", ours, lambda: ours(x).sum(), x),
            "chunked": _ours("chunked", ours, lambda: ours(x).sum(), x),
        },
    )


def _step(device: torch.device, batch: int | None) -> Iterator[tuple[str, Contenders]]:
    """Forward, loss and backward of XXS24 at 224 px."""
    arch = architecture("cait_xxs24_224", drop_path_rate=DROP_RATE)
    ours, theirs = Cait(arch).to(device), _timm_cait(arch).to(device)
    batch = batch or (8 if device.type == "cpu" else 64)
    images = torch.randn(batch, 3, arch.image_size, arch.image_size, device=device)
    labels = torch.randint(1000, (batch,), device=device)
    everything = torch.ones(batch, arch.depth, 2, dtype=torch.bool)

    def loss(model: nn.Module, *keep: Tensor) -> Tensor:
        return F.cross_entropy(model(images, *keep).float(), labels)

    yield (
        f"XXS24 224px batch {batch}",
        {
            "timm": Contender(lambda: loss(theirs), list(theirs.parameters())),
            "eager": _ours("eager", ours, lambda: loss(ours, everything)),
            "chunked": _ours("chunked", ours, lambda: loss(ours, everything)),
            f"chunked, {DROP_RATE} dropped": _ours(
                "chunked", ours, lambda: loss(ours, draw_keep_mask(batch, arch.depth, DROP_RATE))
            ),
        },
    )


def _crossover(device: torch.device, batch: int | None) -> Iterator[tuple[str, Contenders]]:
    """The attention alone, with the heads of XXS24 and of M48."""
    batch = batch or 8
    for heads in (4, 16):
        for tokens in CROSSOVER_TOKENS:
            qkv = torch.randn(batch, tokens, 3, heads, 48, device=device, requires_grad=True)
            mixing = [torch.randn(shape, device=device, requires_grad=True) for shape in [(heads, heads), (heads,)] * 2]
            contenders = {name: _attention(name, qkv, mixing) for name in ("eager", "chunked")}
            yield f"{heads} heads {tokens} tokens batch {batch}", contenders


def _attention(backend: str, qkv: Tensor, mixing: list[Tensor]) -> Contender:
    def run() -> Tensor:
        narrow = qkv.to(torch.bfloat16) if torch.is_autocast_enabled(qkv.device.type) else qkv
        q, k, v = narrow.permute(2, 0, 3, 1, 4).unbind(0)
        y = talking_heads_attention(q, k, v, *mixing, scale=48**-0.5, backend=backend)
        return y.transpose(1, 2).flatten(2).square().sum()

    return Contender(run, [qkv, *mixing])


def _ours(backend: str, model: nn.Module, run: Callable[[], Tensor], *inputs: Tensor) -> Contender:
    return Contender(override_backend(backend)(run), [*inputs, *model.parameters()])


MEASUREMENTS = {"block": _block, "step": _step, "crossover": _crossover}


def _compare(
    title: str, precision: str, contenders: Contenders, device: torch.device, options: argparse.Namespace
) -> list[dict[str, Any]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, int] = {}
    for round_number in range(options.rounds + 1):
        for name, contender in contenders.items():
            seconds, peaks[name] = _measure(contender, precision, device, options.threads)
            if round_number:  # the first only warms up
                times[name].append(seconds)
    baseline = next(iter(contenders))
    rows = []
    for name, taken in times.items():
        ratio = statistics.median([b / t for b, t in zip(times[baseline], taken, strict=True)])
        milliseconds = 1e3 * statistics.median(taken)
        peak = f"{peaks[name] / 2**30:8.2f} GiB" if peaks[name] else ""
        print(f"{title:36} {precision}  {name:20} {milliseconds:9.1f} ms  {ratio:5.2f} x {peak}", flush=True)
        row = {"what": title, "precision": precision, "contender": name, "milliseconds": milliseconds}
        rows.append(row | {f"times_faster_than_{baseline}": ratio, "peak_bytes": peaks[name] or None})
    return rows


def _measure(contender: Contender, precision: str, device: torch.device, threads: int) -> tuple[float, int]:
    """Seconds of one forward and backward pass, and the peak of memory on a GPU; 0 elsewhere."""
    for leaf in contender.leaves:
        leaf.grad = None
    on_gpu = device.type == "cuda"
    clock = time.process_time if not on_gpu and threads == 1 else time.perf_counter
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = clock()
    with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
        result = contender.run()
    result.backward()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start, torch.cuda.max_memory_allocated() if on_gpu else 0


def _timm() -> Any:
    """``timm.models.cait``; torchvision registers operators on import that a CPU build may lack and CaiT never uses."""
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    import timm.models.cait  # noqa: PLC0415

    return timm.models.cait


def _timm_cait(arch: Architecture) -> nn.Module:
    return _timm().Cait(
        img_size=arch.image_size,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=arch.num_heads,
        init_values=arch.layer_scale_init,
    )


def _circumstances(device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": shlex.join(["python", *sys.argv]),
        **describe_code(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "torch": torch.__version__,
        "threads": options.threads if device.type == "cpu" else None,
        "load_average": os.getloadavg(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, help="samples; by default what suits the measurement and the device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--out", type=Path, help="write JSON here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
