"""What talking-heads attention costs: each backend against timm's CaiT, in the same run and the same precision.

    python benchmarks/attention.py                      everything, on the GPU if there is one
    python benchmarks/attention.py --only step --batch 64 --out benchmarks/results/attention-h200.json

Three measurements. ``block`` is one self-attention block of M48 at 448 px and ``step`` a training step of XXS24 at 224
px, both against timm's; its last line also skips branches at a rate of 0.3, which timm would compute all the same.
``crossover`` is the attention alone over the number of tokens, all backends against eager: the rule of
``cait_dist.ops.choose_backend`` comes from it.

How it is timed stands in ``parts/timing.py``. ``peers.py`` compares with more peers, and more than time.
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cait_dist.models import architecture
from cait_dist.ops import available_backends, talking_heads_attention
from parts.circumstances import circumstances
from parts.peers.contenders import AtBatch, Case, block_contenders, step_contenders
from parts.timing import Contender, Makers, Manner, rows, take_turns, tell

DROP_RATE = 0.3
CROSSOVER_TOKENS = (16, 49, 100, 144, 196, 256, 400, 576, 784)


def main() -> None:
    """Measures what the command line asks for, prints a table, and writes JSON."""
    options = _parse()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(options.threads)
    results: list[dict[str, Any]] = []
    for name in options.only:
        for precision in options.precisions:
            manner = Manner(device, precision, options.rounds, options.threads)
            for title, makers in MEASUREMENTS[name](device, options.batch):
                found = rows(f"{name} {title}", take_turns(makers, manner), manner)
                tell(found)
                results += found
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        record = circumstances(device, options.threads) | {"results": results}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def _block(device: torch.device, batch: int | None) -> Iterator[tuple[str, Makers]]:
    """One block of M48 at 448 px, forward and backward."""
    batch = batch or (1 if device.type == "cpu" else 16)
    made = block_contenders(Case(architecture("cait_m48_448"), device, compiled=False))
    yield f"M48 448px batch {batch}", _timm_and_backends(made, batch)


def _step(device: torch.device, batch: int | None) -> Iterator[tuple[str, Makers]]:
    """A training step of XXS24 at 224 px."""
    batch = batch or (8 if device.type == "cpu" else 64)
    arch = architecture("cait_xxs24_224", drop_path_rate=DROP_RATE)
    made = step_contenders(Case(arch, device, compiled=False))
    yield f"XXS24 224px batch {batch}", _timm_and_backends(made, batch)


def _timm_and_backends(made: AtBatch, batch: int) -> Makers:
    return {name: partial(make, batch) for name, make in made.items() if "recomputed" not in name}


def _crossover(device: torch.device, batch: int | None) -> Iterator[tuple[str, Makers]]:
    """The attention alone, with the heads of XXS24 and of M48."""
    batch = batch or 8
    for heads in (4, 16):
        for tokens in CROSSOVER_TOKENS:
            qkv = torch.randn(batch, tokens, 3, heads, 48, device=device, requires_grad=True)
            mixing = [torch.randn(shape, device=device, requires_grad=True) for shape in [(heads, heads), (heads,)] * 2]
            makers = {name: partial(_attention, name, qkv, mixing) for name in available_backends(device)}
            yield f"{heads} heads {tokens} tokens batch {batch}", makers


def _attention(backend: str, qkv: Tensor, mixing: list[Tensor]) -> Contender:
    def run() -> Tensor:
        narrow = qkv.to(torch.bfloat16) if torch.is_autocast_enabled(qkv.device.type) else qkv
        y = talking_heads_attention(narrow.permute(2, 0, 3, 1, 4), *mixing, scale=48**-0.5, backend=backend)
        return y.transpose(1, 2).flatten(2).square().sum()

    return Contender(run, [qkv, *mixing])


MEASUREMENTS = {"block": _block, "step": _step, "crossover": _crossover}


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
