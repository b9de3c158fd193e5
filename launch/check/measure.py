"""One rank's arithmetic: is it right, and how fast is it?

The factors hold only -1, 0 and 1. Every element of their product is then a small integer, which even bfloat16 holds
exactly in whatever order it was summed. So the test for errors is equality, and it needs no second opinion: the
product is multiplied with a vector of integers, and must give what the factors give one after the other. A single wrong
element changes that, because no element of the vector is zero.
"""

import time
from contextlib import suppress
from typing import Any

import torch

from .report import DeviceReport

WARM_UP, TRIES = 1, 10


def examine_device(device: torch.device) -> DeviceReport:
    """Multiply, on the CPU for some hundredths of a second; leaves memory and random numbers as they were."""
    try:
        return _examine(device)
    except RuntimeError as error:
        return DeviceReport(**_describe(device), error=str(error).partition("\n")[0])
    finally:
        if device.type == "cuda":
            _forget(device)


def _examine(device: torch.device) -> DeviceReport:
    facts = _describe(device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        facts["free_share"] = free / total
    size, repeats = (4096, 10) if device.type == "cuda" else (768, 1)
    left, right = (_factor(size, device, seed) for seed in (1, 2))
    product = multiply(left, right)
    seconds = min(_time(left, right, repeats, device) for _ in range(WARM_UP + TRIES)) / repeats
    correct = is_product(left, right, product)
    return DeviceReport(**facts, seconds=seconds, tflops=2 * size**3 / seconds / 1e12, correct=correct)


def multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The operation that is tested."""
    return left @ right


def is_product(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> bool:
    """Whether a product of matrices of small integers is exact in every element."""
    vector = torch.arange(1, right.shape[1] + 1, device=right.device, dtype=torch.float64) % 97 + 1
    return torch.equal(product.double() @ vector, left.double() @ (right.double() @ vector))


def _time(left: torch.Tensor, right: torch.Tensor, repeats: int, device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        multiply(left, right)
    synchronize(device)
    return time.perf_counter() - began


def _factor(size: int, device: torch.device, seed: int) -> torch.Tensor:
    """-1 and 1 with a probability of 1/7 each, else 0: sums of 4096 products stay below the 256 of bfloat16."""
    generator = torch.Generator(device).manual_seed(seed)
    drawn = torch.randint(-3, 4, (size, size), generator=generator, device=device)
    return drawn.div(3, rounding_mode="trunc").to(_number_type(device))


def _number_type(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    # GPUs before Ampere only emulate bfloat16.
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def _describe(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {"type": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {"type": "cuda", "name": properties.name, "uuid": str(getattr(properties, "uuid", ""))}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget(device: torch.device) -> None:
    """Give the memory back, and let training's own records of its peak begin at nothing."""
    with suppress(RuntimeError):  # a GPU that has failed fails here again; that is in the report already
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
