"""What recomputing activations saves and costs: every variant, every policy.

    python benchmarks/recomputation.py --out benchmarks/results/recomputation.json
    python benchmarks/recomputation.py --device cuda --precision bf16 --image-size 448 --batch 8

Bytes are those of all storages that autograd keeps from the forward to the backward pass, parameters left out, measured
at one and at two images: the difference is an image's, and beside it stands what the planner counts. Times are of
forward and backward pass, policies in turns (``timing.py``); a variant's policies share its parameters.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cait_dist.models import Cait, architecture
from cait_dist.models.zoo import VARIANTS
from cait_dist.planning.counting.activation_memory import count_activations
from cait_dist.planning.counting.numerics import numerics
from cait_dist.planning.options import likely_backend
from cait_dist.training.activation_checkpointing import apply_activation_checkpointing
from parts.circumstances import circumstances
from parts.timing import Contender, Manner, free_memory, rows, take_turns

POLICIES = ("none", "attention", "every-2", "block")


def main() -> None:
    """Measure what the command line asks for, print a table, and write JSON."""
    options = _options()
    manner = Manner(torch.device(options.device), options.precision, options.rounds)
    if manner.device.type == "cpu":
        torch.set_num_threads(manner.threads)
    record = circumstances(manner.device, manner.threads)
    found = []
    for variant in options.variants:
        arch = architecture(f"cait_{variant}_224", image_size=options.image_size, depth=options.depth)
        torch.manual_seed(0)
        with manner.device:
            network = Cait(arch)
        views = {policy: with_policy(network, policy) for policy in POLICIES}
        found += [_say(row) for row in measure_policies(variant, views, options.batch, manner)]
        del network, views
        free_memory(manner.device)
    if options.out:
        options.out.write_text(json.dumps(record | {"results": found}, indent=1) + "\n")
        print(f"wrote {options.out}")


def with_policy(network: Cait, policy: str) -> Cait:
    """The same parameters, with blocks that recompute."""
    view: Any = copy.copy(network)
    view._modules = dict(network._modules)
    view.blocks = nn.ModuleList(_apart(block) for block in network.blocks)
    apply_activation_checkpointing(view, policy)
    return view


def _apart(block: nn.Module) -> nn.Module:
    """A block whose attention, too, can be wrapped without wrapping that of others."""
    view: Any = copy.copy(block)
    view._modules = {**block._modules, "attn": copy.copy(block.get_submodule("attn"))}
    return view


def measure_policies(variant: str, views: dict[str, Cait], batch: int, manner: Manner) -> Iterator[dict[str, Any]]:
    """A row per policy, compared with the first."""
    turns = take_turns({policy: partial(_contender, view, batch) for policy, view in views.items()}, manner)
    for row in rows(f"{variant} at {views['none'].arch.image_size}", turns, manner):
        view = views[row["contender"]]
        counted = _counted(view, row["contender"], manner)
        yield {**row, "batch": batch, "kept_bytes_per_image": kept_per_image(view, manner), "counted_bytes": counted}


def kept_per_image(network: Cait, manner: Manner) -> int:
    """Bytes; what is kept once, whatever the batch, drops out."""
    one, two = (kept_bytes(network, _images(network, batch), manner) for batch in (1, 2))
    return two - one


def kept_bytes(network: nn.Module, images: Tensor, manner: Manner) -> int:
    """Of all that autograd keeps of a forward pass, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor  # alive, so that no other gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _cast(manner):
        network(images).float().sum()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _counted(network: Cait, policy: str, manner: Manner) -> int:
    device = manner.device.type
    backend = likely_backend(network.arch, device)
    return round(count_activations(network.arch, numerics(manner.precision, 0), policy, backend, device).kept_per_image)


def _contender(network: Cait, batch: int) -> Contender:
    images = _images(network, batch)
    return Contender(lambda: network(images).float().sum(), list(network.parameters()))


def _images(network: Cait, batch: int) -> Tensor:
    side = network.arch.image_size
    return torch.randn(batch, network.arch.in_chans, side, side, device=network.pos_embed.device)


def _cast(manner: Manner) -> contextlib.AbstractContextManager[object]:
    bf16 = manner.precision == "bf16"
    return torch.autocast(manner.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def _say(row: dict[str, Any]) -> dict[str, Any]:
    if row["failed"]:
        print(f"{row['what']:14} {row['contender']:10} failed: {row['failed']}", flush=True)
        return row
    slower = 1 / row["times_faster_than_none"]
    kept, counted = row["kept_bytes_per_image"] / 1e6, row["counted_bytes"] / 1e6
    print(
        f"{row['what']:14} {row['precision']} {row['contender']:10} {kept:9,.1f} MB an image (counted {counted:9,.1f})"
        f" {row['milliseconds']:10,.0f} ms  {slower:.2f} of the time without",
        flush=True,
    )
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--image-size", type=int, default=224, help="pixels; default: 224")
    parser.add_argument("--depth", type=int, help="self-attention blocks, to try the program on smaller networks")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=1, help="samples that are timed; default: 1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
