"""GPUs that can be planned for, with what their datasheets say and nothing else.

Peaks are dense, without sparsity. Memory counts 10⁹ bytes a gigabyte, as datasheets do; some of it is always taken by
the driver and by fragments, which is why a plan leaves a reserve. Links are per GPU and direction: NVLink within a
node is half of the printed sum of both directions; the network is one adapter per GPU, as in the vendor's own machines
of that generation (200 and 400 Gbit/s). Clusters differ: both can be given.
"""

from dataclasses import dataclass

from .errors import PlanError


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: as it is asked for.
        title: as it is shown.
        memory: bytes.
        bf16_flops: peak of dense bf16 products, FLOP/s.
        fp32_flops: peak of float32 outside the tensor cores, where float32 products run unless TF32 is allowed.
        bandwidth: of its memory, bytes/s.
        nvlink: to the GPUs of its node, bytes/s and direction.
        network: to other nodes, bytes/s and direction.
        known_as: what the name that the driver gives must contain.
    """

    name: str
    title: str
    memory: int
    bf16_flops: float
    fp32_flops: float
    bandwidth: float
    nvlink: float
    network: float
    known_as: tuple[str, ...]

    def peak(self, precision: str) -> float:
        """FLOP/s at most."""
        return self.bf16_flops if precision == "bf16" else self.fp32_flops


_GB = 10**9
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", "A100 SXM 40 GB", 40 * _GB, 312e12, 19.5e12, 1.555e12, 300e9, 25e9, ("A100", "40GB")),
        Gpu("a100-80", "A100 SXM 80 GB", 80 * _GB, 312e12, 19.5e12, 2.039e12, 300e9, 25e9, ("A100", "80GB")),
        Gpu("h100", "H100 SXM 80 GB", 80 * _GB, 989e12, 67e12, 3.35e12, 450e9, 50e9, ("H100",)),
        Gpu("h200", "H200 SXM 141 GB", 141 * _GB, 989e12, 67e12, 4.8e12, 450e9, 50e9, ("H200",)),
    )
}


def find_gpu(name: str) -> Gpu:
    """Look a GPU up.

    Raises:
        PlanError: naming those that are known.
    """
    found = GPUS.get(name.lower())
    if found is None:
        raise PlanError(f"--gpu {name!r} is not known; there are {', '.join(GPUS)}")
    return found
