"""What a check can come to, and from where on something is too little or too slow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cait_dist.config.section import Section

Severity = Literal["refuse", "warn"]


class Limits(Section):
    """From where on a node is refused. The defaults let a healthy node of any size pass."""

    min_disk_gb: float = Field(2.0, ge=0, description="free space for the run directory, in 10^9 bytes")
    min_shm_gb: float = Field(0.5, ge=0, description="free space in /dev/shm of every node; without GPUs it only warns")
    max_clock_skew: float = Field(5.0, gt=0, description="seconds between a node's clock and the others'")
    slow_factor: float = Field(
        2.0, gt=1, description="times slower than the median that is refused (without GPUs: that warns)"
    )
    slow_warning: float = Field(1.25, gt=1, description="times slower than the median GPU that warns")
    min_free_gpu: float = Field(0.8, ge=0, le=1, description="share of a GPU's memory nobody may use; else it warns")
    mixed_gpus: bool = Field(False, description="allow different kinds of GPUs in one run")


@dataclass(frozen=True)
class Finding:
    """Something that stands in the way of a run, or may.

    Attributes:
        severity: "refuse" ends the attempt, "warn" is only said
        host: where; several are separated by commas
        what: the fact, with its numbers
        remedy: what to do about it
    """

    severity: Severity
    host: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.host}: {self.what}: {self.remedy}"


class ClusterCheckError(ValueError):
    """Nodes are not fit for the run; ``str()`` has a line for each reason."""

    def __init__(self, refusals: Sequence[Finding]) -> None:
        super().__init__("\n  ".join(["these nodes cannot run the job:", *map(str, refusals)]))


def leave_out(host: str) -> str:
    """The usual remedy for a node that is ill."""
    return f"leave {host} out (SLURM: --exclude={host.replace(' ', '')}) and have it looked at"
