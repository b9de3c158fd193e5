"""What products of 8 bits (`training.float8`) cost in precision, and on a GPU what they gain in time.

    python benchmarks/float8.py --only error --out float8.json
    python benchmarks/float8.py --device cuda --batch 64

Error: logits and gradients of a freshly drawn network, in bf16 and with products of 8 bits, beside the same in fp32:
the norm of the difference over that of the fp32 result; of the gradients the median and the largest over all
parameters of the self-attention blocks. LayerScale starts at --layer-scale, not at the millionth that would leave the
blocks no say. Time: forward and backward pass of a self-attention block, plain and with compiled branches, in turns
(``timing.py``). A CPU computes such products in software, so its times say nothing of a GPU's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cait_dist.models import Architecture, Cait, architecture
from cait_dist.models.cait import SelfAttentionBlock
from cait_dist.models.float8 import use_float8
from cait_dist.training.compilation import compile_branches
from parts.circumstances import circumstances
from parts.timing import Contender, Manner, rows, take_turns, tell

NOTHING = 1e-6
"""Of the largest gradient: what is smaller is none."""
Found = list[Tensor]
"""Logits, then the gradient by every parameter of the self-attention blocks, in float64."""


def main() -> None:
    """Measure what the command line asks for, print it, and write JSON."""
    options = _options()
    manner = Manner(torch.device(options.device), "bf16", options.rounds)
    if manner.device.type == "cpu":
        torch.set_num_threads(manner.threads)
    record = circumstances(manner.device, manner.threads)
    arch = architecture(options.model, image_size=options.image_size, layer_scale_init=options.layer_scale)
    if options.only in (None, "error"):
        record["error"] = _say(errors(arch, options.batch, manner.device))
    if options.only in (None, "time"):
        record["time"] = times(arch, options.batch, manner)
        tell(record["time"])
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
        print(f"wrote {options.out}")


def errors(arch: Architecture, batch: int, device: torch.device) -> dict[str, dict[str, float]]:
    """By precision, how far its results are from those in fp32."""
    torch.manual_seed(0)
    with device:
        network = Cait(arch)
        images = torch.randn(batch, arch.in_chans, arch.image_size, arch.image_size)
        labels = torch.randint(arch.num_classes, (batch,))
    exact = _pass_through(network, images, labels, narrow=False)
    found = {"bf16": _distances(_pass_through(network, images, labels, narrow=True), exact)}
    use_float8(network, device)
    found["float8"] = _distances(_pass_through(network, images, labels, narrow=True), exact)
    return found


def times(arch: Architecture, batch: int, manner: Manner) -> list[dict[str, Any]]:
    """A row per way to compute a block, compared with bf16."""
    makers = {
        name: partial(_contender, arch, batch, manner.device, float8="float8" in name, compiled="compiled" in name)
        for name in ("bf16", "float8", "bf16 compiled", "float8 compiled")
    }
    return rows(f"block of width {arch.embed_dim}, {arch.num_patches} tokens", take_turns(makers, manner), manner)


def _pass_through(network: Cait, images: Tensor, labels: Tensor, *, narrow: bool) -> Found:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=narrow):
        logits = network(images)
    gradients = torch.autograd.grad(F.cross_entropy(logits.float(), labels), list(network.blocks.parameters()))
    return [t.detach().double() for t in (logits, *gradients)]


def _distances(found: Found, exact: Found) -> dict[str, float]:
    away = [float((a - b).norm()) for a, b in zip(found, exact, strict=True)]
    sizes = [float(b.norm()) for b in exact]
    # A gradient that is zero but for rounding, as that of b_l always is, has no relative error.
    gradients = [a / b for a, b in zip(away[1:], sizes[1:], strict=True) if b > NOTHING * max(sizes[1:])]
    return {
        "logits": away[0] / sizes[0],
        "median_gradient": statistics.median(gradients),
        "worst_gradient": max(gradients),
    }


def _contender(arch: Architecture, batch: int, device: torch.device, *, float8: bool, compiled: bool) -> Contender:
    torch.manual_seed(0)
    block: nn.Module = SelfAttentionBlock(arch).to(device)
    alone: Any = SimpleNamespace(blocks=[block])
    if float8:
        use_float8(alone, device)
    if compiled:
        compile_branches(alone)
    x = torch.randn(batch, arch.num_patches, arch.embed_dim, device=device, requires_grad=True)
    return Contender(lambda: block(x).sum(), [x, *block.parameters()])


def _say(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    for precision, row in found.items():
        print(f"{precision:8}", *(f"{name} {value:.2%} from fp32" for name, value in row.items()), sep="  ", flush=True)
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="cait_m48_448", help="variant, as a configuration names it")
    parser.add_argument("--image-size", type=int, help="pixels; default: the variant's")
    parser.add_argument("--batch", type=int, default=8, help="images; default: 8")
    parser.add_argument("--layer-scale", type=float, default=1.0, help="to start from; default: 1")
    parser.add_argument("--only", choices=("error", "time"), help="leave the other out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
