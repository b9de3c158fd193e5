"""How the row kernels are launched: tile, warps and programs, as a table per generation of GPU.

The entries compile without a spilled register (a test holds that, on a machine without GPU) and leave room for several
programs on a multiprocessor. Which of the candidates is fastest only a GPU can tell: ``benchmarks/row_kernels.py``
measures all of them and prints the lines to put here. Not yet measured on any GPU.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PROGRAMS_PER_MULTIPROCESSOR = 12
LEAST_CAPABILITY = (8, 0)
"""bfloat16 on tensor cores."""


@dataclass(frozen=True)
class Tile:
    """Keys that a program looks at at once, and the warps that do it."""

    keys: int
    warps: int


TILES: dict[tuple[str, int, int], Tile] = {
    ("forward_rows", 80, 2): Tile(128, 4),
    ("forward_rows", 80, 4): Tile(128, 4),
    ("backward_rows", 80, 2): Tile(32, 4),
    ("backward_rows", 80, 4): Tile(32, 8),
    ("forward_rows", 90, 2): Tile(128, 4),
    ("forward_rows", 90, 4): Tile(128, 4),
    ("backward_rows", 90, 2): Tile(64, 4),
    ("backward_rows", 90, 4): Tile(64, 8),
}
"""By kernel, compute capability and bytes of a number. A newer GPU takes those of the newest one below it."""

CANDIDATES: dict[str, tuple[Tile, ...]] = {
    "forward_rows": (Tile(64, 4), Tile(128, 4), Tile(256, 4), Tile(256, 8), Tile(1024, 8)),
    "backward_rows": (Tile(32, 4), Tile(32, 8), Tile(64, 4), Tile(64, 8), Tile(128, 4), Tile(128, 8)),
}
"""Worth measuring."""


@dataclass(frozen=True)
class Launch:
    """Everything about a launch but the tensors.

    Attributes:
        options: compile-time constants and warps, by the names that the kernels and Triton give them
        programs: of a kernel that walks over rows
        accumulator: what products and sums are in
    """

    options: dict[str, Any]
    programs: int
    accumulator: torch.dtype


def launch_for(kernel: str, q: Tensor, heads: int, tile: Tile | None = None) -> Launch:
    """Looks the launch of a kernel up.

    Args:
        kernel: ``forward_rows`` or ``backward_rows``.
        q: Tells device and dtype.
        heads: H.
        tile: Instead of the table's.

    Returns:
        What to launch it with.
    """
    import triton.language as tl  # noqa: PLC0415

    interpreted, wide = not q.is_cuda, q.dtype == torch.float64
    tile = tile or tile_for(kernel, _capability(q), min(q.element_size(), 4))
    options = {
        "HEADS": heads,
        "PADDED": padded(heads),
        "BLOCK": tile.keys,
        "ACC": tl.float64 if wide else tl.float32,
        "PRECISION": "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        "UPCAST": interpreted,
        "num_warps": tile.warps,
    }
    multiprocessors = torch.cuda.get_device_properties(q.device).multi_processor_count if q.is_cuda else 1
    return Launch(options, multiprocessors * PROGRAMS_PER_MULTIPROCESSOR, torch.float64 if wide else torch.float32)


def padded(heads: int) -> int:
    """Heads of a tile: a power of two, and at least what tensor cores take."""
    return max(16, 1 << (heads - 1).bit_length())


def tile_for(kernel: str, capability: int, element_bytes: int) -> Tile:
    """The table's entry for a GPU such as 90, or that for the newest one below it."""
    below = [known for name, known, size in TILES if name == kernel and size == element_bytes and known <= capability]
    return TILES[kernel, max(below), element_bytes]


def runs_on(device: torch.device) -> bool:
    """Whether the kernels can run there: on Nvidia's GPUs with Triton, or anywhere in Triton's interpreter."""
    try:
        import triton  # noqa: F401, PLC0415
    except ImportError:
        return False
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.is_available():
        return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


def _capability(q: Tensor) -> int:
    if not q.is_cuda:
        return 90
    major, minor = torch.cuda.get_device_capability(q.device)
    return 10 * major + minor
