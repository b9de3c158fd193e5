"""Reports as healthy ranks give them, to be made ill by the tests of the verdicts."""

from dataclasses import replace
from typing import Any

from launch.check.node import Gpu, NodeFacts, ProcessFacts
from launch.check.report import DeviceReport, RankReport, TrafficReport
from launch.check.traffic import ring_rounds

H100 = "NVIDIA H100 80GB HBM3"


def cluster(nodes: int = 4, ranks: int = 2, cuda: bool = True) -> list[RankReport]:
    """Healthy reports of so many ranks on each node, by rank."""
    return [_report(node, local, ranks, nodes, cuda) for node in range(nodes) for local in range(ranks)]


def _report(node: int, local: int, ranks: int, nodes: int, cuda: bool) -> RankReport:
    rank = node * ranks + local
    neighbours = {other * ranks for pairs in ring_rounds(nodes) for pair in pairs if node in pair for other in pair}
    exchanges = dict.fromkeys(sorted(neighbours - {node * ranks}), 0.001)
    gpus = tuple(Gpu(n, f"GPU-{node}-{n}", H100, "550.54.15", 81559, 0) for n in range(ranks)) if cuda else ()
    device = (
        DeviceReport("cuda", H100, f"GPU-{node}-{local}", 0.99, 0.0002, 687.0)
        if cuda
        else DeviceReport(seconds=0.005, tflops=0.2)
    )
    return RankReport(
        rank=rank,
        process=ProcessFacts(f"n{node}", tuple(range(local * 8, local * 8 + 8)), 8, None, "3.11.7", "2.7.0"),
        node=NodeFacts(gpus, None, 64, 5000.0, "lustre", 200.0) if local == 0 else None,
        clock=(1000.0, 1001.0, 1002.0),
        device=device,
        traffic=TrafficReport(0.004, exchanges if local == 0 else {}),
    )


def changed(reports: list[RankReport], rank: int, part: str = "", **values: Any) -> list[RankReport]:
    """The same reports but for one rank: values of its report, or of that part of it."""
    report = reports[rank]
    ill = replace(report, **({part: replace(getattr(report, part), **values)} if part else values))
    return [*reports[:rank], ill, *reports[rank + 1 :]]
