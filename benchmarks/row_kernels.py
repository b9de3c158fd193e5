"""Which tile and how many warps make the row kernels fastest on this GPU: the lines for the table in ops/talking_heads.

    python benchmarks/row_kernels.py                          the sizes of M48 at 448 px and XXS24 at 224 px
    python benchmarks/row_kernels.py --out row_kernels.json

Every candidate is timed beside the floor, a copy that reads and writes the same bytes; all take turns in every round,
and the numbers are medians over rounds. "of the floor" is how much of the memory's speed a kernel reaches.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cait_dist.ops.talking_heads.tuning import CANDIDATES, Tile, launch_for, runs_on, tile_for

SIZES = {"M48 at 448 px": (16, 784, 48), "M36 at 384 px": (16, 576, 48), "XXS24 at 224 px": (4, 196, 48)}
MAPS_BYTES = 512 * 2**20


def main() -> None:
    """Times what the command line asks for, prints a table, and writes JSON."""
    options = _parse()
    if not runs_on(torch.device("cuda")):
        raise SystemExit("row_kernels: needs an Nvidia GPU of compute capability 8.0 or newer, and Triton")
    rows = []
    for title, (heads, tokens, width) in SIZES.items():
        for dtype in (torch.bfloat16, torch.float32):
            for kernel in CANDIDATES:
                rows += _compare(title, kernel, heads, tokens, width, dtype, options.rounds)
    if options.out:
        options.out.write_text(json.dumps({"device": torch.cuda.get_device_name(), "results": rows}, indent=1) + "\n")


def _compare(
    title: str, kernel: str, heads: int, tokens: int, width: int, dtype: torch.dtype, rounds: int
) -> list[dict[str, Any]]:
    batch = max(1, MAPS_BYTES // (heads * tokens * tokens * dtype.itemsize))
    maps, grads = (torch.randn(batch * heads, tokens, tokens, device="cuda", dtype=dtype) for _ in range(2))
    contenders: dict[Any, Callable[[], None]] = {"floor": _copies(kernel, maps, grads)}
    contenders |= {tile: _launcher(kernel, maps, grads, heads, width, tile) for tile in CANDIDATES[kernel]}
    times: dict[Any, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, run in contenders.items():
            seconds = _seconds(run)
            if round_number:
                times[name].append(seconds)
    floor = statistics.median(times["floor"])
    major, minor = torch.cuda.get_device_capability()
    chosen = tile_for(kernel, 10 * major + minor, dtype.itemsize)
    rows = []
    for tile in sorted(CANDIDATES[kernel], key=lambda tile: statistics.median(times[tile])):
        seconds = statistics.median(times[tile])
        mark = "  <- in the table" if tile == chosen else ""
        print(
            f"{title:16} {dtype!s:14} {kernel:13} {tile.keys:5} keys {tile.warps:2} warps "
            f"{1e6 * seconds / batch:9.1f} us/image  {floor / seconds:5.0%} of the floor{mark}",
            flush=True,
        )
        row = {"what": title, "dtype": str(dtype), "kernel": kernel, "keys": tile.keys, "warps": tile.warps}
        rows.append(row | {"microseconds_per_image": 1e6 * seconds / batch, "share_of_floor": floor / seconds})
    return rows


def _launcher(
    kernel: str, maps: torch.Tensor, grads: torch.Tensor, heads: int, width: int, tile: Tile
) -> Callable[[], None]:
    from cait_dist.ops.talking_heads import row_kernels  # noqa: PLC0415

    tokens, launch = maps.shape[-1], launch_for(kernel, maps, heads, tile)
    w = torch.eye(heads, device="cuda", dtype=maps.dtype)
    b_w = torch.zeros(heads, device="cuda")
    factor, scale, samples = width**-0.5 * math.log2(math.e), width**-0.5, len(maps) // heads
    if kernel == "forward_rows":
        return lambda: row_kernels.forward_rows[(tokens, samples)](maps, w, w, b_w, tokens, factor, **launch.options)
    parts = [torch.empty(launch.programs, heads, heads, device="cuda") for _ in range(2)]
    return lambda: row_kernels.backward_rows[(launch.programs,)](
        maps, grads, *parts, w, w, b_w, tokens, samples * tokens, factor, scale, **launch.options
    )


def _copies(kernel: str, maps: torch.Tensor, grads: torch.Tensor) -> Callable[[], None]:
    def copy() -> None:
        for t in [maps] if kernel == "forward_rows" else [maps, grads]:
            t.neg_()

    return copy


def _seconds(run: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write JSON here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
