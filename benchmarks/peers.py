"""Ours against its peers, timm's CaiT and the authors' own: same batch, same precision, same machine, in one call.

    python benchmarks/peers.py                                    everything, on the GPU if there is one
    python benchmarks/peers.py --only block step --no-compile     two of the measurements, without torch.compile
    python benchmarks/peers.py --out benchmarks/results/peers.json --plot docs/images/peers.svg
    python benchmarks/peers.py --redraw benchmarks/results/peers.json --plot docs/images/peers.svg

block          one self-attention block of M48 at 448 px, forward and backward; and the same with three tenths of its
               branches dropped, which ours leaves out and timm computes all the same
step           a whole training step with AdamW, of M48 at 448 px on a GPU, of XXS24 at 224 px on a CPU
memory         how much a block and a step add to the peak of memory: of the allocator on a GPU, of the process (a fresh
               one for each contender) on a CPU
largest-batch  on a GPU: the largest batch of a training step that fits, and the batch at which a contender is fastest;
               in bf16 if that is among the precisions

How it is timed stands in ``parts/timing.py``, who takes part in ``parts/peers/contenders.py``. MFU is the share of the
device's peak that the network's own arithmetic reaches: what is recomputed is not counted twice, what is skipped is
counted. A GPU's peak is that of its datasheet in dense bf16, a CPU's is measured: the rate of a square product of
matrices.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cait_dist.models import Architecture, architecture
from parts.circumstances import circumstances
from parts.peak_rate import block_flops, peak_flops, step_flops
from parts.peers.batches import search_batches
from parts.peers.contenders import (
    AtBatch,
    Case,
    block_contenders,
    dropping_contenders,
    recipe_drop_rate,
    step_contenders,
)
from parts.peers.memory import grow_here, measure_in_fresh_processes
from parts.timing import Manner, Precision, free_memory, rows, take_turns, tell

Rows = list[dict[str, Any]]
BLOCK_MODEL = "cait_m48_448"
STEP_MODEL = {"cpu": "cait_xxs24_224", "cuda": "cait_m48_448"}
BATCHES = {"cpu": {"block": 1, "dropping": 8, "step": 8}, "cuda": {"block": 16, "dropping": 16, "step": 8}}


def main() -> None:
    """Measure what the command line asks for, print it, and write JSON and a picture."""
    options = parse()
    _refuse_unknown_contenders(options)
    if options.memory_of:
        torch.set_num_threads(options.threads)
        print(json.dumps(_grow(options.kind, options.memory_of, options, _manner(options))))
        return
    if options.redraw:
        _draw(json.loads(options.redraw.read_text()), options)
        return
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    record: dict[str, Any] = {**circumstances(device, options.threads), "results": []}
    if options.deit is None:
        print("the authors' own code is left out: name a checkout of facebookresearch/deit by --deit", flush=True)
    for name in options.only:
        for precision in options.precisions:
            for found in MEASUREMENTS[name](options, precision):
                tell(found)
                record["results"] += [{"measurement": name, **row} for row in found]
                _write(record, options)  # what is there by now, should the machine be taken away
    _draw(record, options)


def _block(options: argparse.Namespace, precision: Precision) -> Iterator[Rows]:
    for kind in ("block", "dropping"):
        if contenders(kind, options):
            yield _race(kind, options, precision, block_flops(arch_of(kind, options)))


def _step(options: argparse.Namespace, precision: Precision) -> Iterator[Rows]:
    if contenders("step", options):
        yield _race("step", options, precision, step_flops(arch_of("step", options)))


def _race(kind: str, options: argparse.Namespace, precision: Precision, flops_per_image: float) -> Rows:
    manner, batch = _manner(options, precision), _batch(kind, options)
    makers = {name: partial(make, batch) for name, make in contenders(kind, options).items()}
    turns = take_turns(makers, manner)
    peak, source = peak_flops(manner.device, precision)

    def more(seconds: float) -> dict[str, Any]:
        return {
            "batch": batch,
            "images_per_second": batch / seconds,
            "mfu": flops_per_image * batch / seconds / peak if peak else None,
            "peak_flops": peak,
            "peak_source": source,
        }

    return rows(_title(kind, options, batch), turns, manner, more)


def _memory(options: argparse.Namespace, precision: Precision) -> Iterator[Rows]:
    manner = _manner(options, precision)
    for kind in ("block", "step"):
        batch, names = _batch(kind, options), list(contenders(kind, options))
        if manner.device.type == "cuda":
            grown = {name: _grow(kind, name, options, manner) for name in names}
        else:
            grown = measure_in_fresh_processes(kind, names, precision)
        yield _memory_rows(f"memory {_title(kind, options, batch)}", precision, grown)


def _grow(kind: str, name: str, options: argparse.Namespace, manner: Manner) -> dict[str, Any]:
    grown = grow_here(partial(contenders(kind, options)[name], _batch(kind, options)), manner)
    free_memory(manner.device)
    return grown


def _memory_rows(what: str, precision: Precision, grown: dict[str, dict[str, Any]]) -> Rows:
    base = grown.get("timm", {}).get("growth_bytes")
    found = []
    for name, result in grown.items():
        growth = result.get("growth_bytes")
        share = growth / base if growth and base else None
        row = {"what": what, "precision": precision, "contender": name, "failed": None, **result}
        found.append(row | {"share_of_timm": share})
    return found


def _largest_batch(options: argparse.Namespace, precision: Precision) -> Iterator[Rows]:
    manner = _manner(options, precision)
    if manner.device.type != "cuda" and not options.at_most:
        print("largest-batch needs a GPU", flush=True)
        return
    if precision == "fp32" and "bf16" in options.precisions:
        return  # nobody trains so by choice, and it takes as long again
    arch = arch_of("step", options)
    peak, source = peak_flops(manner.device, precision)
    for name in contenders("step", options):
        row = search_batches(contenders("step", options)[name], manner, options.at_most or 4096, options.seconds)
        free_memory(manner.device)
        speed = row.get("images_per_second")
        row["mfu"] = step_flops(arch) * speed / peak if speed and peak else None
        row |= {"peak_flops": peak, "peak_source": source}
        yield [{"what": f"largest batch {_name(options, 'step')}", "precision": precision, "contender": name, **row}]


MEASUREMENTS: dict[str, Callable[[argparse.Namespace, Precision], Iterator[Rows]]] = {
    "block": _block,
    "step": _step,
    "memory": _memory,
    "largest-batch": _largest_batch,
}


def contenders(kind: str, options: argparse.Namespace) -> AtBatch:
    """Who takes part in a kind of measurement: block, dropping or step."""
    case = Case(arch_of(kind, options), torch.device(options.device), options.compile, options.deit)
    made = {"block": block_contenders, "dropping": dropping_contenders, "step": step_contenders}[kind](case)
    return {name: make for name, make in made.items() if options.contenders is None or name in options.contenders}


def _refuse_unknown_contenders(options: argparse.Namespace) -> None:
    kinds = ("block", "dropping", "step")
    known = {
        name for kind in kinds for name in contenders(kind, argparse.Namespace(**{**vars(options), "contenders": None}))
    }
    for name in options.contenders or ():
        if name not in known:
            sys.exit(f"--contenders: nobody is called {name!r} here; there are {', '.join(sorted(known))}")


def arch_of(kind: str, options: argparse.Namespace) -> Architecture:
    """The network of a kind of measurement, smaller where that is asked for."""
    model = _model(kind, options)
    arch = architecture(model, image_size=options.image_size, depth=options.depth)
    return replace(arch, drop_path_rate=recipe_drop_rate(model)) if kind == "step" else arch


def _model(kind: str, options: argparse.Namespace) -> str:
    return str(options.model or (STEP_MODEL[torch.device(options.device).type] if kind == "step" else BLOCK_MODEL))


def _name(options: argparse.Namespace, kind: str) -> str:
    arch = arch_of(kind, options)
    depth = f" depth {options.depth}" if options.depth and kind == "step" else ""
    return f"{_model(kind, options).split('_')[1].upper()} {arch.image_size}px{depth}"


def _title(kind: str, options: argparse.Namespace, batch: int) -> str:
    return f"{kind} {_name(options, kind)} batch {batch}"


def _batch(kind: str, options: argparse.Namespace) -> int:
    return int(options.batch or BATCHES[torch.device(options.device).type][kind])


def _manner(options: argparse.Namespace, precision: Precision | None = None) -> Manner:
    device = torch.device(options.device)
    return Manner(device, precision or options.precisions[0], options.rounds, options.threads, options.compile_seconds)


def _write(record: dict[str, Any], options: argparse.Namespace) -> None:
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def _draw(record: dict[str, Any], options: argparse.Namespace) -> None:
    if options.plot is None:
        return
    try:
        from parts.peers.picture import draw  # noqa: PLC0415

        picture = draw(record["results"], record["hardware"])
    except ImportError as error:
        print(f"no picture without matplotlib ({error}); --redraw draws it from the JSON elsewhere", flush=True)
        return
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    options.plot.write_text(picture)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--contenders", nargs="+", help="by name, timm among them; by default all")
    parser.add_argument("--model", help="of all measurements, for example cait_s24_224")
    parser.add_argument("--image-size", type=int, help="pixels, to try the program on a smaller network")
    parser.add_argument("--depth", type=int, help="self-attention blocks, to try the program on a smaller network")
    parser.add_argument("--batch", type=int, help="samples; by default what suits the measurement and the device")
    parser.add_argument("--at-most", type=int, help="samples that largest-batch tries; by default 4096, on a GPU alone")
    parser.add_argument("--seconds", type=float, default=120.0, help="that largest-batch takes for a contender, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--compile-seconds", type=float, default=300.0, help="bound on a contender's first run")
    parser.add_argument("--deit", type=Path, help="checkout of facebookresearch/deit, to compare with that, too")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--plot", type=Path, help="draw an SVG here")
    parser.add_argument("--redraw", type=Path, metavar="JSON", help="measure nothing, draw what was written before")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # how a fresh process is asked
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
