"""What talking-heads attention costs: each backend against timm's CaiT, in the same run and the same precision.

    python benchmarks/attention.py                      everything, on the GPU if there is one
    python benchmarks/attention.py --only step --batch 64 --out benchmarks/results/attention-h200.json

Three measurements. ``block`` is one self-attention block of M48 at 448 px and ``step`` a training step of XXS24 at 224
px (the update, the same for all, left out), both against timm's. The last line of a step also drops branches at a rate
of 0.3, which timm would compute all the same. ``crossover`` is the attention alone over the number of tokens, chunked
against eager: the rule of ``cait_dist.ops.choose_backend`` comes from it.

How it is timed stands in ``timing.py``. ``peers.py`` compares more, and whole training steps.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from circumstances import circumstances
from timing import Contender, Manner, rows, take_turns, tell
from timm_peer import timm_block, timm_cait
from torch import Tensor, nn

from cait_dist.models import Cait, architecture
from cait_dist.models.cait import SelfAttentionBlock
from cait_dist.ops import available_backends, draw_keep_mask, override_backend, talking_heads_attention

DROP_RATE = 0.3
CROSSOVER_TOKENS = (16, 49, 100, 144, 196, 256, 400, 576, 784)

Contenders = dict[str, Contender]
"""By name; the first is what the others are compared with."""


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
            for title, contenders in MEASUREMENTS[name](device, options.batch):
                makers = {contender: lambda made=made: made for contender, made in contenders.items()}
                found = rows(f"{name} {title}", take_turns(makers, manner), manner)
                tell(found)
                results += found
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps(circumstances(device, options.threads) | {"results": results}, indent=1) + "\n"
        )


def _block(device: torch.device, batch: int | None) -> Iterator[tuple[str, Contenders]]:
    """One block of M48 at 448 px, forward and backward."""
    arch = architecture("cait_m48_448")
    ours = SelfAttentionBlock(arch).to(device)
    theirs = timm_block(arch).to(device)
    theirs.load_state_dict(ours.state_dict())
    batch = batch or (1 if device.type == "cpu" else 16)
    x = torch.randn(batch, arch.num_patches, arch.embed_dim, device=device, requires_grad=True)
    yield (
        f"M48 448px batch {batch}",
        {
            "timm": Contender(lambda: theirs(x).sum(), [x, *theirs.parameters()]),
            **{backend: _ours(backend, ours, lambda: ours(x).sum(), x) for backend in available_backends()},
        },
    )


def _step(device: torch.device, batch: int | None) -> Iterator[tuple[str, Contenders]]:
    """Forward, loss and backward of XXS24 at 224 px."""
    arch = architecture("cait_xxs24_224", drop_path_rate=DROP_RATE)
    ours, theirs = Cait(arch).to(device), timm_cait(arch).to(device)
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
            **{backend: _ours(backend, ours, lambda: loss(ours, everything)) for backend in available_backends()},
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
            contenders = {name: _attention(name, qkv, mixing) for name in available_backends()}
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
