"""Products of 8 bits by tensor cores against those in software. Not yet run on any GPU.

Needs nothing but torch and pytest.
"""

import pytest
import torch
from torch import Tensor

from cait_dist.ops import float8_trouble, scaled_linear

GPU = torch.device("cuda")
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or float8_trouble(GPU) is not None,
    reason="no Nvidia GPU of compute capability 8.9 or newer on this machine",
)


def results(device: str, rows: int, d_in: int, d_out: int, *, gelu: bool) -> list[Tensor]:
    """Output and gradients by x, W, b and γ."""
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, d_in), (d_out, d_in), (d_out,), (d_out,), (rows, d_out)
    *leaves, cotangent = (torch.randn(*s, generator=generator).bfloat16().to(device) for s in shapes)
    leaves = [t.requires_grad_() for t in leaves]
    y = scaled_linear(*leaves, gelu=gelu, float8=True)
    return [t.detach().cpu().double() for t in (y, *torch.autograd.grad(y, leaves, cotangent))]


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [1, 49, 784 * 3 + 1])
@pytest.mark.parametrize(("d_in", "d_out"), [(192, 576), (768, 3072), (3072, 768), (48, 16)])
def test_they_are_the_same_but_for_the_rounding_of_sums(rows: int, d_in: int, d_out: int, gelu: bool) -> None:
    """Fast accumulation keeps about 14 bits of a sum: a bf16 result may come out one step away."""
    on_gpu, in_software = (results(device, rows, d_in, d_out, gelu=gelu) for device in ("cuda", "cpu"))
    for name, a, b in zip(("y", "x", "weight", "bias", "gamma"), on_gpu, in_software, strict=True):
        assert (a - b).norm() <= 0.01 * b.norm(), name
