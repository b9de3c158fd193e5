"""What one rank found out, as data: reports travel between the ranks, and the verdict is computed from them alone."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from .node import NodeFacts, ProcessFacts


@dataclass(frozen=True)
class DeviceReport:
    """What a rank computes with, and how well it does.

    Attributes:
        type: "cpu" or "cuda"
        name: kind of GPU; empty on a CPU
        uuid: of the GPU; empty on a CPU
        free_share: of the GPU's memory that nobody used when it was looked at; 1 on a CPU
        seconds: of the matrix product, at best
        tflops: arithmetic rate at that time
        correct: whether the product was exact
        error: why there is no product
    """

    type: str = "cpu"
    name: str = ""
    uuid: str = ""
    free_share: float = 1.0
    seconds: float = 0.0
    tflops: float = 0.0
    correct: bool = True
    error: str | None = None


@dataclass(frozen=True)
class FolderReport:
    """Whether the run directory is one and the same on all nodes.

    Attributes:
        sees_main: whether this rank read what rank 0 had written
        unseen: only of rank 0: the first ranks of those nodes whose files did not appear
        error: why this rank could not write or read there
    """

    sees_main: bool = True
    unseen: tuple[int, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class TrafficReport:
    """Messages between the ranks, on the network that training uses.

    Attributes:
        reduce_seconds: of the sum over all ranks, at best
        exchanges: only of the first rank of a node: seconds by partner's rank
        error: what went wrong, or what was not done because of that
    """

    reduce_seconds: float = 0.0
    exchanges: dict[int, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class RankReport:
    """Everything one rank found out.

    Attributes:
        rank: its number
        process: what it says of itself
        node: of its node, told by the node's first rank only
        clock: time of day directly after each of several barriers
    """

    rank: int
    process: ProcessFacts
    node: NodeFacts | None = None
    clock: tuple[float, ...] = ()
    device: DeviceReport = DeviceReport()
    folder: FolderReport = FolderReport()
    traffic: TrafficReport = TrafficReport()

    @property
    def host(self) -> str:
        """The node's name."""
        return self.process.host


def by_host(reports: Sequence[RankReport]) -> dict[str, list[RankReport]]:
    """The reports of every node, by rank."""
    groups: dict[str, list[RankReport]] = defaultdict(list)
    for report in reports:
        groups[report.host].append(report)
    return dict(groups)
