"""Verdicts about ranks: does their arithmetic hold, and who is slower than the others?

A job runs at the pace of its slowest rank. On GPUs a healthy rank is within some percent of the median, so a slow one
is refused; on CPUs other programs share the cores, so it is only told.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from cait_dist.training.ranks.naming import in_ranges

from .finding import Finding, Limits, leave_out
from .report import RankReport, by_host


def findings(reports: Sequence[RankReport], limits: Limits) -> Iterator[Finding]:
    """Everything that concerns ranks and the messages between them."""
    yield from _devices(reports, limits)
    yield from _shared_devices(reports)
    yield from _arithmetic(reports)
    yield from _slow_arithmetic(reports, limits)
    yield from _messages(reports)
    yield from _slow_messages(reports, limits)


def named(reports: Sequence[RankReport]) -> str:
    """Ranks as words: "rank 3", "ranks 4-7"."""
    return f"rank{'s' * (len(reports) > 1)} {in_ranges(report.rank for report in reports)}"


def _devices(reports: Sequence[RankReport], limits: Limits) -> Iterator[Finding]:
    for report in reports:
        node = report.node
        if node is not None and node.gpus and report.device.type == "cpu" and report.process.visible_devices is None:
            what = f"it has {len(node.gpus)} GPUs ({node.gpus[0].name}), but PyTorch uses the CPU"
            remedy = "install PyTorch for CUDA and a driver new enough; set CUDA_VISIBLE_DEVICES= if it is meant"
            yield Finding("refuse", report.host, what, remedy)
        if report.device.free_share < limits.min_free_gpu:
            what = f"{1 - report.device.free_share:.0%} of the memory of rank {report.rank}'s GPU is in use already"
            yield Finding(
                "warn", report.host, what, "end what a former job has left there, or " + leave_out(report.host)
            )


def _shared_devices(reports: Sequence[RankReport]) -> Iterator[Finding]:
    for host, ranks in by_host(reports).items():
        users: dict[str, list[RankReport]] = defaultdict(list)
        for report in ranks:
            if report.device.uuid:
                users[report.device.uuid].append(report)
        for several in users.values():
            if len(several) > 1:
                what = f"{named(several)} use the same GPU ({len(ranks)} ranks, {len(users)} GPUs)"
                yield Finding(
                    "refuse", host, what, "start one rank per GPU (SLURM: --ntasks-per-node, --gpus-per-node)"
                )


def _arithmetic(reports: Sequence[RankReport]) -> Iterator[Finding]:
    for report in reports:
        if report.device.error:
            what = f"rank {report.rank} cannot compute ({report.device.error})"
            yield Finding("refuse", report.host, what, leave_out(report.host))
        elif not report.device.correct:
            what = f"rank {report.rank} computes wrong results{_on(report)}"
            yield Finding("refuse", report.host, what, leave_out(report.host))


def _on(report: RankReport) -> str:
    return f" on GPU {report.device.uuid}" if report.device.uuid else ""


def _slow_arithmetic(reports: Sequence[RankReport], limits: Limits) -> Iterator[Finding]:
    sound = [report for report in reports if report.device.error is None]
    usual = median(report.device.seconds for report in sound) if sound else 0.0
    for ranks in by_host(sound).values():
        slow = [r for r in ranks if r.device.seconds > _noteworthy(r, limits) * usual]
        if slow:
            worst = max(report.device.seconds for report in slow)
            what = f"the matrix product of {named(slow)} takes {_against(worst, usual)}"
            yield _slowness(slow[0], worst / usual, what, limits)


def _noteworthy(report: RankReport, limits: Limits) -> float:
    return min(limits.slow_warning, limits.slow_factor) if report.device.type == "cuda" else limits.slow_factor


def _against(seconds: float, usual: float) -> str:
    return f"{seconds / usual:.1f} times as long as the median ({seconds * 1e3:.2f} ms, not {usual * 1e3:.2f})"


def _slowness(report: RankReport, factor: float, what: str, limits: Limits) -> Finding:
    if report.device.type == "cpu":
        return Finding("warn", report.host, what, "see what else runs on those cores")
    remedy = f"see `nvidia-smi -q -d PERFORMANCE` there, and {leave_out(report.host)}, or raise slow_factor"
    return Finding("refuse" if factor > limits.slow_factor else "warn", report.host, what, remedy)


def _messages(reports: Sequence[RankReport]) -> Iterator[Finding]:
    failed: dict[str, list[RankReport]] = defaultdict(list)
    for report in reports:
        if report.traffic.error:
            failed[report.traffic.error].append(report)
    for error, ranks in failed.items():
        hosts = dict.fromkeys(report.host for report in ranks)
        where = ", ".join(hosts) if len(ranks) < len(reports) else "all nodes"
        remedy = leave_out(where) if len(ranks) < len(reports) else _network_remedy(ranks[0])
        yield Finding("refuse", where, f"{named(ranks)}: {error}", remedy)


def _network_remedy(report: RankReport) -> str:
    if report.device.type == "cpu":
        return "check names, cables and firewalls between the nodes"
    return "set NCCL_DEBUG=INFO and read the ranks' output; often NCCL_SOCKET_IFNAME names the wrong network"


def _slow_messages(reports: Sequence[RankReport], limits: Limits) -> Iterator[Finding]:
    """A node is slow if even its better exchange is; a slow exchange between two good nodes is their link's fault."""
    leaders = {report.rank: report for report in reports if report.traffic.exchanges}
    best = {rank: min(report.traffic.exchanges.values()) for rank, report in leaders.items()}
    if len(best) < 3:
        return  # of two nodes that exchange slowly, nobody can tell which is at fault
    usual = median(best.values())
    slow = {rank for rank, seconds in best.items() if seconds > limits.slow_factor * usual}
    for rank in sorted(slow):
        what = f"its exchange with either neighbour takes {_against(best[rank], usual)}"
        yield _slowness(leaders[rank], best[rank] / usual, what, limits)
    if reports[0].device.type == "cuda":
        yield from _slow_links({rank: r for rank, r in leaders.items() if rank not in slow}, limits.slow_factor * usual)


def _slow_links(leaders: Mapping[int, RankReport], bound: float) -> Iterator[Finding]:
    # Between CPUs single exchanges vary too much to be worth a word.
    for rank, report in leaders.items():
        for partner, seconds in report.traffic.exchanges.items():
            if partner in leaders and rank < partner and seconds > bound:
                what = f"the exchange between them takes {seconds * 1e3:.2f} ms, though each has a faster one"
                remedy = "have the link between them looked at"
                yield Finding("warn", f"{report.host}, {leaders[partner].host}", what, remedy)
