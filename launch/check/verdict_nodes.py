"""Verdicts about nodes: what they have, and whether they have the same."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median

from .finding import Finding, Limits, Severity, leave_out
from .node import NodeFacts
from .report import RankReport, by_host


def findings(reports: Sequence[RankReport], limits: Limits) -> Iterator[Finding]:
    """Everything that concerns nodes as wholes."""
    nodes = {report.host: report.node for report in reports if report.node is not None}
    yield from _folder(reports, nodes)
    yield from _space(reports, nodes, limits)
    yield from _drivers(nodes)
    yield from _alike(reports, nodes, limits)
    yield from _cores(reports)
    yield from _clocks(reports, limits)


def _folder(reports: Sequence[RankReport], nodes: Mapping[str, NodeFacts]) -> Iterator[Finding]:
    """If rank 0 could not write, nobody else is to blame."""
    main = reports[0]
    if main.folder.error:
        yield Finding("refuse", main.host, f"the run directory: {main.folder.error}", "mend it, or choose another")
        return
    unseen = {reports[rank].host for rank in main.folder.unseen}
    apart = [r.host for r in reports if r.host in unseen or not r.folder.sees_main]
    for host in dict.fromkeys(apart):
        kind = nodes[host].file_system
        error = next((r.folder.error for r in reports if r.host == host and r.folder.error), None)
        why = f"; it {error}" if error else ""
        yield Finding(
            "refuse",
            host,
            f"its run directory (on {kind}) is not the one of {main.host} (on {nodes[main.host].file_system}){why}",
            "set runs_dir to a folder that all nodes share",
        )


def _space(reports: Sequence[RankReport], nodes: Mapping[str, NodeFacts], limits: Limits) -> Iterator[Finding]:
    # All nodes share the run directory, or are refused for that: one of them is enough to ask.
    disk = nodes[reports[0].host].free_disk_gb
    if disk is not None and disk < limits.min_disk_gb:
        what = f"{disk:.1f} GB are free for the run directory, less than {limits.min_disk_gb:g}"
        yield Finding("refuse", reports[0].host, what, "make room, set another runs_dir, or lower min_disk_gb")
    severity: Severity = "refuse" if reports[0].device.type == "cuda" else "warn"
    for host, node in nodes.items():
        if node.free_shm_gb is not None and node.free_shm_gb < limits.min_shm_gb:
            what = f"{node.free_shm_gb:.2f} GB are free in /dev/shm, less than {limits.min_shm_gb:g}"
            remedy = "remove what dead jobs left there; in a container, raise --shm-size; or lower min_shm_gb"
            yield Finding(severity, host, what, remedy)


def _drivers(nodes: Mapping[str, NodeFacts]) -> Iterator[Finding]:
    for host, node in nodes.items():
        if node.gpu_trouble:
            yield Finding("warn", host, node.gpu_trouble, "see what `nvidia-smi` and `dmesg` say there")
        for gpu in node.gpus:
            if gpu.uncorrected_errors:
                what = f"GPU {gpu.index} has counted {gpu.uncorrected_errors} memory errors that ECC could not mend"
                yield Finding("warn", host, what, leave_out(host))


def _alike(reports: Sequence[RankReport], nodes: Mapping[str, NodeFacts], limits: Limits) -> Iterator[Finding]:
    first = {host: ranks[0] for host, ranks in by_host(reports).items()}
    kinds = {host: _in_words(r.device.name for r in ranks) for host, ranks in by_host(reports).items()}
    torch, python = ({host: getattr(r.process, name) for host, r in first.items()} for name in ("torch", "python"))
    drivers = {host: _in_words(gpu.driver for gpu in node.gpus) for host, node in nodes.items()}
    counts = {host: len(node.gpus) for host, node in nodes.items()}
    same = "use one environment on all nodes"
    mixed: Severity = "warn" if limits.mixed_gpus else "refuse"
    yield from _odd_ones(kinds, mixed, "kind of GPU", "ask for one kind (SLURM: --constraint), or set mixed_gpus")
    yield from _odd_ones(torch, "refuse", "version of PyTorch", same)
    yield from _odd_ones(python, "warn", "version of Python", same)
    yield from _odd_ones(drivers, "warn", "GPU driver", "have one driver installed on all nodes")
    yield from _odd_ones(counts, "warn", "number of GPUs", "see with `nvidia-smi` whether one has failed there")


def _in_words(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))) or "none"


def _odd_ones(values: Mapping[str, object], severity: Severity, name: str, remedy: str) -> Iterator[Finding]:
    """A finding for each value but the most frequent, naming the nodes that have it."""
    usual = Counter(values.values()).most_common(1)[0][0]
    for value in dict.fromkeys(values.values()):
        if value != usual:
            hosts = ", ".join(host for host in values if values[host] == value)
            yield Finding(severity, hosts, f"another {name} than elsewhere ({value}, not {usual})", remedy)


def _cores(reports: Sequence[RankReport]) -> Iterator[Finding]:
    for host, ranks in by_host(reports).items():
        together = {cpu for r in ranks for cpu in r.process.cpus}
        if len(together) < len(ranks):
            what = f"its {len(ranks)} ranks share {len(together)} CPU{'s' * (len(together) > 1)}"
            yield Finding("warn", host, what, "start fewer ranks, or ask for more CPUs (SLURM: --cpus-per-task)")
        for r in ranks:
            given = r.process.scheduler_cpus
            if given is not None and len(r.process.cpus) < given:
                what = f"rank {r.rank} may use {len(r.process.cpus)} of the {given} CPUs that SLURM gave to it"
                yield Finding("warn", host, what, "give srun --cpus-per-task too: it does not take it from sbatch")
                break


def _clocks(reports: Sequence[RankReport], limits: Limits) -> Iterator[Finding]:
    leaders = [report for report in reports if report.node is not None and report.clock]
    if not leaders:
        return
    middles = [median(times) for times in zip(*(leader.clock for leader in leaders), strict=True)]
    for leader in leaders:
        skews = [reading - middle for reading, middle in zip(leader.clock, middles, strict=True)]
        skew = min(skews, key=abs)
        if abs(skew) > limits.max_clock_skew:
            what = f"its clock is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"
            remedy = "start time synchronisation there, else nobody can tell which failure came first"
            yield Finding("refuse", leader.host, what, remedy)
