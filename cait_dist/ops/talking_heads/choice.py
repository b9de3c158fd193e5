"""Which backend of talking-heads attention runs: decided here and nowhere else.

In order: what the caller asks for by argument, what :func:`override_backend` asks for, the rule.

The rule: from 196 tokens on, which are all published resolutions (224, 384 and 448 px), ``fused`` on a GPU where its
kernels run, ``native`` on a CPU where its passes can be compiled, and ``chunked`` elsewhere; ``eager`` below, and on
other devices. It looks at the kind of attention only, never at the batch: stochastic depth changes the number of
samples from block to block, and a block that is computed again must run as it did the first time.

Speed of native over that of eager, forward and backward, at 8 samples with heads 48 wide:

    tokens              16     49     100    144    196    256    400    576    784
    4 heads, float32    0.74   0.92   1.17   1.41   1.78   1.85   2.15   2.92   2.78
    4 heads, bf16       0.44   0.58   0.87   1.07   1.35   1.53   2.30   4.08   5.16
    16 heads, float32   0.82   0.83   1.03   1.47   1.67   2.51   2.43   2.60   4.11
    16 heads, bf16      0.55   0.72   0.98   1.19   1.69   2.68   3.31   3.63   5.64

(``python benchmarks/attention.py --only crossover --rounds 3`` at commit fe25d98, 2026-11-26, one thread of an Intel
Xeon with AMX and 2 cores that had other work too, torch 2.13.0; before ``native`` attended to small samples together,
which at 36 tokens in bf16 left a third of its time on another machine.) ``chunked`` took, on yet another, 0.36 to 1.15
of eager's time from 196 tokens on, the more tokens and heads the less: where it is chosen, it is for its memory. On
CUDA nothing was measured: there the rule is for the sake of memory, and ``fused`` comes first because it moves the
fewest bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import native, tuning

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
    if device.type not in {"cpu", "cuda"} or tokens < BLOCKS_FROM_TOKENS:
        return "eager"
    # In Triton's interpreter, the other place where its kernels run, only who asks for them wants them.
    best = "native" if device.type == "cpu" else "fused" if dtype in _FUSED_DTYPES else "chunked"
    return best if _can_run(best, device, heads, dtype) else "chunked"


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
