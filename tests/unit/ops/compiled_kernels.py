"""Compiles the row kernels for GPUs that need not be there, and says what each entry of the table takes.

python tests/unit/ops/compiled_kernels.py
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
import triton.backends.nvidia
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cait_dist.ops.talking_heads import row_kernels
from cait_dist.ops.talking_heads.tuning import CANDIDATES, TILES, Tile, padded

POINTERS = {2: "*bf16", 4: "*fp32"}
TYPES = {
    "dw_l": "*fp32",
    "dw_w": "*fp32",
    "b_w": "*fp32",
    "tokens": "i32",
    "rows": "i32",
    "factor": "fp32",
    "scale": "fp32",
}
DUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"


def compile_kernel(name: str, capability: int, size: int, tile: Tile, heads: int, tokens: int) -> Any:
    """As a launch on a GPU would: addresses, and N where it is, are known to be multiples of 16."""
    kernel = getattr(row_kernels, name)
    constants = {
        "HEADS": heads,
        "PADDED": padded(heads),
        "BLOCK": tile.keys,
        "ACC": tl.float32,
        "PRECISION": "ieee",
        "UPCAST": False,
    }
    signature = {
        argument: "constexpr" if argument in constants else TYPES.get(argument, POINTERS[size])
        for argument in kernel.arg_names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(kernel.arg_names)
        if signature[argument].startswith("*") or (argument == "tokens" and tokens % 16 == 0)
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": tile.warps})


def resources(compiled: Any) -> tuple[int, int]:
    """Registers of a thread, and bytes that it spills."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        said = subprocess.run([DUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", said.stdout)[1]) for key in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


def entries() -> Iterator[tuple[str, int, int, Tile, int, int]]:
    """The table, for M48 at 448 px and for XXS24 at 224 px."""
    for (name, capability, size), tile in TILES.items():
        assert tile in CANDIDATES[name]
        for heads, tokens in ((4, 196), (16, 784)):
            yield name, capability, size, tile, heads, tokens


if __name__ == "__main__":
    for name, capability, size, tile, heads, tokens in entries():
        compiled = compile_kernel(name, capability, size, tile, heads, tokens)
        registers, spilled = resources(compiled)
        print(
            f"{name} sm_{capability} {8 * size} bit, {heads} heads, {tokens} tokens, "
            f"{tile.keys} keys, {tile.warps} warps: "
            f"{registers} registers, {compiled.metadata.shared} bytes shared, {spilled} bytes spilled",
            flush=True,
        )
