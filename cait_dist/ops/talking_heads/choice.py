"""Which backend of talking-heads attention runs: decided here and nowhere else.

In order: what the caller asks for by argument, what :func:`override_backend` asks for, the rule.

The rule: on a CPU where its passes can be compiled, ``native`` from 100 tokens on; elsewhere from 196, which are all
published resolutions (224, 384 and 448 px), ``fused`` on a GPU where its kernels run, and ``chunked`` where neither
does; ``eager`` below, and on other devices. It looks at the kind of attention only, never at the batch: stochastic
depth changes the number of samples from block to block, and a block that is computed again must run as it did the
first time.

Speed of native over that of eager, forward and backward, at 8 samples with heads 48 wide:

    tokens              16     49     100    144    196    256    400    576    784
    4 heads, float32    0.85   1.51   1.14   1.55   1.54   1.67   1.93   2.64   2.61
    4 heads, bf16       1.09   1.17   1.24   1.26   1.38   1.50   2.80   4.58   5.20
    16 heads, float32   0.81   0.84   1.17   1.85   1.46   2.25   2.32   2.31   1.94
    16 heads, bf16      0.99   0.86   0.96   1.23   2.05   2.86   3.38   3.19   3.08

(``python benchmarks/attention.py --only crossover --rounds 7`` at commit 650149a, 2026-11-27, one thread of an AMD EPYC
with AVX-512 and bf16 arithmetic, 2 cores, torch 2.13.0.) ``chunked`` took, on another machine, 0.36 to 1.15 of eager's
time from 196 tokens on, the more tokens and heads the less: where it is chosen, it is for its memory. On CUDA nothing
was measured: there the rule is for the sake of memory, and ``fused`` comes first because it moves the fewest bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import native, tuning

NATIVE_FROM_TOKENS = 100
BLOCKS_FROM_TOKENS = 196

_BACKENDS = ("eager", "chunked", "native", "fused")
_FUSED_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_NEEDS = {
    "native": "it needs a CPU, a C compiler and maps of bfloat16, float32 or float64",
    "fused": "it needs an Nvidia GPU of compute capability 8.0 or newer (A100, H100 ...) and the package triton",
}
_overrides: list[str] = []


def available_backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Names of the backends that run on a device, the oracle first.

    Args:
        device: ``native`` needs a CPU and a C compiler, ``fused`` an Nvidia GPU of compute capability 8.0 or newer, and
            Triton.
    """
    found, device = list(_BACKENDS), torch.device(device)
    if not native.runs_on(device, 4, torch.float32):
        found.remove("native")
    if not tuning.runs_on(device):
        found.remove("fused")
    return tuple(found)


def choose_backend(
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    heads: int,
    tokens: int,
    backend: str | None = None,
) -> str:
    """Says which backend an attention of this kind runs with. The attention itself asks here.

    Args:
        device: Where q, k and v live.
        dtype: That of the products.
        heads: H.
        tokens: N.
        backend: The explicit wish of the caller, if any.

    Returns:
        One of :func:`available_backends`.

    Raises:
        ValueError: If the backend asked for does not exist or cannot run on the device.
    """
    device = torch.device(device)
    wish = backend or (_overrides[-1] if _overrides else None)
    if wish is not None:
        _check_name(wish)
        if not _can_run(wish, device, heads, dtype):
            raise ValueError(f"the backend {wish} cannot run on {device}: {_NEEDS[wish]}; ask for chunked, or for none")
        return wish
    if device.type == "cpu" and tokens >= NATIVE_FROM_TOKENS and _can_run("native", device, heads, dtype):
        return "native"
    if device.type not in {"cpu", "cuda"} or tokens < BLOCKS_FROM_TOKENS:
        return "eager"
    # In Triton's interpreter, the other place where its kernels run, only who asks for them wants them.
    fuses = device.type == "cuda" and dtype in _FUSED_DTYPES and _can_run("fused", device, heads, dtype)
    return "fused" if fuses else "chunked"


def _can_run(backend: str, device: torch.device, heads: int, dtype: torch.dtype) -> bool:
    if backend == "native":
        return native.runs_on(device, heads, dtype)
    return backend != "fused" or tuning.runs_on(device)


@contextmanager
def override_backend(name: str) -> Iterator[None]:
    """Makes every talking-heads attention of this process use one backend, for comparisons and tests.

    Enclose the backward pass too where activations are computed again in it: the override holds for the whole process,
    because on a GPU that happens in a thread of autograd.

    Args:
        name: One of :func:`available_backends` of the device that the attentions run on.

    Raises:
        ValueError: If there is no such backend.
    """
    _check_name(name)
    _overrides.append(name)
    try:
        yield
    finally:
        _overrides.pop()


def _check_name(name: str) -> None:
    if name not in _BACKENDS:
        raise ValueError(f"no backend of talking-heads attention is called {name!r}; there are {', '.join(_BACKENDS)}")
