"""What the job's own GPUs are doing, as NVIDIA's library tells it. It knows all of a node's; a job may have two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MEGABYTE = 1e6


class GpuSampler:
    """The GPUs of this process and its neighbours on the node.

    Args:
        environment: with CUDA_VISIBLE_DEVICES and LOCAL_WORLD_SIZE
        nvml: the module ``pynvml``, or what stands in for it

    Raises:
        Exception: of NVIDIA's library, if there is no driver
    """

    def __init__(self, environment: Mapping[str, str], nvml: Any) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        handles = own_devices(environment.get("CUDA_VISIBLE_DEVICES"), nvml)
        most = int(environment.get("LOCAL_WORLD_SIZE", 0)) or len(handles)
        self._handles = handles[:most]

    def read(self) -> dict[str, float]:
        """One sample of each; what a device cannot tell, such as the utilisation of a slice, is left out."""
        values: dict[str, float] = {}
        for number, handle in enumerate(self._handles):
            values |= {f"gpu_{number}_{name}": value for name, value in self._read_one(handle).items()}
        return values

    def _read_one(self, handle: Any) -> dict[str, float]:
        nvml, values = self._nvml, dict[str, float]()
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is not None and memory.total:
            values["memory_usage_megabytes"] = memory.used / MEGABYTE
            values["memory_usage_percentage"] = 100.0 * memory.used / memory.total
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        if rates is not None:
            values["utilization_percentage"] = float(rates.gpu)
        milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        if milliwatts is not None:
            values["power_usage_watts"] = milliwatts / 1000
        degrees = self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        if degrees is not None:
            values["temperature_celsius"] = float(degrees)
        return values

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


def own_devices(visible: str | None, nvml: Any) -> list[Any]:
    """Handles of the devices that CUDA shows to this process, in its order.

    Args:
        visible: CUDA_VISIBLE_DEVICES: numbers, or the beginnings of names such as ``GPU-8932f937`` and ``MIG-…``; like
            CUDA, this stops at the first that does not exist; None for all
        nvml: the module ``pynvml``
    """
    count = nvml.nvmlDeviceGetCount()
    if visible is None:
        return [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
    handles = []
    for word in filter(None, visible.replace(" ", "").split(",")):
        handle = _numbered(int(word), count, nvml) if word.lstrip("-").isdigit() else _named(word, count, nvml)
        if handle is None:
            break
        handles.append(handle)
    return handles


def _numbered(number: int, count: int, nvml: Any) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(number) if 0 <= number < count else None


def _named(name: str, count: int, nvml: Any) -> Any:
    for number in range(count):
        device = nvml.nvmlDeviceGetHandleByIndex(number)
        if _text(nvml.nvmlDeviceGetUUID(device)).startswith(name):
            return device
    try:
        return nvml.nvmlDeviceGetHandleByUUID(name)  # of a slice, which has no number of its own
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
