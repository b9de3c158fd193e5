"""Which backend of talking-heads attention runs: decided here and nowhere else.

In order: what the caller asks for by argument, what :func:`override_backend` asks for, the rule.

The rule: from 196 tokens on, which are all published resolutions (224, 384 and 448 px), ``fused`` on a GPU where its
kernels run, ``native`` on a CPU where its passes can be compiled, and ``chunked`` elsewhere; ``eager`` below, on other
devices, and where dropout is active. It looks at the kind of attention only, never at the batch: stochastic depth
changes the number of samples from block to block, and a block that is computed again must run as it did the first time.

Speed of chunked over that of eager, forward and backward, at 8 samples with heads 48 wide:

    tokens              16     49     100    144    196    256    400    576    784
    4 heads, float32    0.68   0.67   0.67   0.79   0.88   0.85   0.90   1.83   1.84
    4 heads, bf16       0.71   0.76   0.77   0.78   0.87   0.88   0.89   1.78   2.74
    16 heads, float32   0.70   0.65   0.81   0.88   0.94   1.33   1.67   1.56   1.79
    16 heads, bf16      0.66   0.66   0.74   0.87   0.96   1.46   2.63   2.49   2.46

(``python benchmarks/attention.py --only crossover --rounds 7``, 2026-11-22, one thread of an AMD EPYC with 2 cores that
had other work too, torch 2.13.0. Eager falls behind where a float32 map of the whole batch outgrows 32 MB: from that
size on the C library fetches fresh memory from the system each time.) So from 196 tokens on chunked makes an attention,
itself a part of a step, at worst a sixth slower, and keeps q, k and v instead of several maps. On CUDA nothing was
measured: there the rule is for the sake of memory, and ``fused`` comes first because it moves the fewest bytes.
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
    dropout: bool = False,
    backend: str | None = None,
) -> str:
    """Says which backend an attention of this kind runs with. The attention itself asks here.

    Args:
        device: Where q, k and v live.
        dtype: That of the products.
        heads: H.
        tokens: N.
        dropout: Whether dropout is active on the mixed map.
        backend: The explicit wish of the caller, if any.

    Returns:
        One of :func:`available_backends`.

    Raises:
        ValueError: If the backend asked for does not exist, cannot run on the device, or has no dropout and should.
    """
    device = torch.device(device)
    wish = backend or (_overrides[-1] if _overrides else None)
    if wish is not None:
        _check_name(wish)
        if not _can_run(wish, device, heads, dtype):
            raise ValueError(f"the backend {wish} cannot run on {device}: {_NEEDS[wish]}; ask for chunked, or for none")
        if dropout and wish != "eager":
            raise ValueError(f"the backend {wish} has no dropout on attention maps: ask for eager, or for none")
        return wish
    if dropout or device.type not in {"cpu", "cuda"} or tokens < BLOCKS_FROM_TOKENS:
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
