"""The reports of all ranks as a table: one line for each node."""

from collections.abc import Sequence

from cait_dist.training.ranks.naming import in_ranges

from .report import RankReport, by_host

HEAD = ("node", "ranks", "GPUs", "CPUs", "disk GB", "shm GB", "product ms", "TFLOP/s", "exchange ms")


def table(reports: Sequence[RankReport]) -> str:
    """Of several ranks the slowest counts, of several exchanges the fastest; the last line is about all nodes."""
    rows = [HEAD, *(_row(host, ranks) for host, ranks in by_host(reports).items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    reduce = max(report.traffic.reduce_seconds for report in reports)
    return "\n".join([*lines, f"sum over all ranks: {reduce * 1e3:.2f} ms"])


def _row(host: str, ranks: Sequence[RankReport]) -> tuple[str, ...]:
    node = ranks[0].node
    assert node is not None, "the first rank of a node describes it"
    exchanges = ranks[0].traffic.exchanges.values()
    slowest = max(ranks, key=lambda report: report.device.seconds)
    return (
        host,
        in_ranges(report.rank for report in ranks),
        str(len(node.gpus)),
        str(len({cpu for report in ranks for cpu in report.process.cpus})),
        _number(node.free_disk_gb),
        _number(node.free_shm_gb),
        f"{slowest.device.seconds * 1e3:.2f}",
        f"{slowest.device.tflops:.3g}",
        f"{min(exchanges) * 1e3:.2f}" if exchanges else "-",
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
