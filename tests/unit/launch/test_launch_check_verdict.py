"""Every verdict, from reports of healthy nodes that are made ill in one place. Pure: no GPU, no network."""

from collections.abc import Callable
from typing import Any

import pytest
from check_reports import H100, changed, cluster

from cait_dist.errors import is_for_user
from launch.check import ClusterCheckError, Finding, Limits
from launch.check.node import Gpu
from launch.check.report import RankReport
from launch.check.table import table
from launch.check.verdict import judge

GPU = Gpu(0, "GPU-x", H100, "550.54.15", 81559, 0)

Ill = Callable[[], list[RankReport]]


def ill(rank: int, part: str = "", **values: Any) -> Ill:
    return lambda: changed(cluster(), rank, part, **values)


def apart() -> list[RankReport]:
    reports = changed(cluster(), 0, "folder", unseen=(4,))
    return changed(changed(reports, 4, "folder", sees_main=False), 5, "folder", sees_main=False)


def other_kind() -> list[RankReport]:
    return changed(changed(cluster(), 2, "device", name="NVIDIA A100"), 3, "device", name="NVIDIA A100")


def slow_node() -> list[RankReport]:
    reports = changed(cluster(), 4, "traffic", exchanges={2: 0.005, 6: 0.006})
    reports = changed(reports, 2, "traffic", exchanges={0: 0.001, 4: 0.005})
    return changed(reports, 6, "traffic", exchanges={0: 0.001, 4: 0.006})


def slow_link() -> list[RankReport]:
    reports = changed(cluster(), 4, "traffic", exchanges={2: 0.005, 6: 0.001})
    return changed(reports, 2, "traffic", exchanges={0: 0.001, 4: 0.005})


def slow_pair_of_ranks() -> list[RankReport]:
    return changed(changed(cluster(), 2, "device", seconds=0.0005), 3, "device", seconds=0.0006)


def pinned() -> list[RankReport]:
    reports = changed(cluster(), 2, "process", cpus=(3,), scheduler_cpus=None)
    return changed(reports, 3, "process", cpus=(3,), scheduler_cpus=None)


def no_sum() -> list[RankReport]:
    reports = cluster()
    for rank in range(len(reports)):
        reports = changed(reports, rank, "traffic", error="the sum over all ranks did not end within 60 s")
    return reports


CASES: dict[str, tuple[Ill, str, str, list[str]]] = {
    "folder apart": (apart, "refuse", "n2", ["its run directory (on lustre) is not the one of n0", "set runs_dir"]),
    "folder half apart": (ill(0, "folder", unseen=(4,)), "refuse", "n2", ["is not the one of n0"]),
    "folder closed": (ill(0, "folder", error="cannot write there (Permission denied)"), "refuse", "n0", ["Permission"]),
    "folder unreadable": (
        ill(3, "folder", sees_main=False, error="cannot read there (Input/output error)"),
        "refuse",
        "n1",
        ["; it cannot read there (Input/output error)"],
    ),
    "disk": (ill(0, "node", free_disk_gb=0.3), "refuse", "n0", ["0.3 GB are free", "less than 2", "min_disk_gb"]),
    "shm": (ill(2, "node", free_shm_gb=0.06), "refuse", "n1", ["0.06 GB", "/dev/shm", "--shm-size"]),
    "driver silent": (ill(2, "node", gpu_trouble="nvidia-smi gave no answer within 15 s"), "warn", "n1", ["15 s"]),
    "memory errors": (
        ill(2, "node", gpus=(GPU, Gpu(1, "GPU-y", H100, "550.54.15", 81559, 7))),
        "warn",
        "n1",
        ["GPU 1 has counted 7 memory errors", "--exclude=n1"],
    ),
    "kind": (other_kind, "refuse", "n1", ["another kind of GPU", f"(NVIDIA A100, not {H100})", "mixed_gpus"]),
    "driver": (
        ill(2, "node", gpus=(Gpu(0, "a", H100, "535.1", 81559, 0), Gpu(1, "b", H100, "535.1", 81559, 0))),
        "warn",
        "n1",
        ["another GPU driver", "(535.1, not 550.54.15)"],
    ),
    "count": (ill(2, "node", gpus=(GPU,)), "warn", "n1", ["another number of GPUs", "(1, not 2)"]),
    "torch": (
        ill(2, "process", host="n1", torch="2.6.0"),
        "refuse",
        "n1",
        ["version of PyTorch", "(2.6.0, not 2.7.0)"],
    ),
    "python": (ill(2, "process", python="3.12.1"), "warn", "n1", ["version of Python", "(3.12.1, not 3.11.7)"]),
    "pinned": (pinned, "warn", "n1", ["its 2 ranks share 1 CPU"]),
    "affinity": (
        ill(3, "process", cpus=(8, 9)),
        "warn",
        "n1",
        ["rank 3 may use 2 of the 8 CPUs that SLURM gave", "srun --cpus-per-task"],
    ),
    "clock": (ill(4, clock=(940.0, 1001.0 - 60, 942.0)), "refuse", "n2", ["its clock is 60.0 s behind"]),
    "cpu only": (
        ill(2, "device", type="cpu", name=H100),
        "refuse",
        "n1",
        [f"it has 2 GPUs ({H100}), but PyTorch uses the CPU"],
    ),
    "occupied": (ill(3, "device", free_share=0.25), "warn", "n1", ["75% of the memory of rank 3's GPU is in use"]),
    "one GPU for two": (
        ill(3, "device", uuid="GPU-1-0"),
        "refuse",
        "n1",
        ["ranks 2-3 use the same GPU (2 ranks, 1 GPUs)", "--gpus-per-node"],
    ),
    "cannot compute": (ill(3, "device", error="out of memory"), "refuse", "n1", ["rank 3 cannot compute (out of mem"]),
    "wrong": (ill(3, "device", correct=False), "refuse", "n1", ["rank 3 computes wrong results on GPU GPU-1-1"]),
    "slow GPU": (
        ill(3, "device", seconds=0.0005),
        "refuse",
        "n1",
        ["of rank 3 takes 2.5 times", "(0.50 ms, not 0.20)"],
    ),
    "slow GPUs": (slow_pair_of_ranks, "refuse", "n1", ["of ranks 2-3 takes 3.0 times as long as the median"]),
    "slower GPU": (ill(3, "device", seconds=0.0003), "warn", "n1", ["of rank 3 takes 1.5 times as long as the median"]),
    "no sum": (no_sum, "refuse", "all nodes", ["ranks 0-7: the sum over all ranks did not end", "NCCL_DEBUG=INFO"]),
    "wrong sum": (ill(3, "traffic", error="the sum is wrong"), "refuse", "n1", ["rank 3: the sum is wrong"]),
    "slow node": (slow_node, "refuse", "n2", ["its exchange with either neighbour takes 5.0 times", "--exclude=n2"]),
    "slow link": (slow_link, "warn", "n1, n2", ["the exchange between them takes 5.00 ms, though each has a faster"]),
}


def test_healthy_nodes_have_no_findings() -> None:
    for nodes in (1, 2, 3, 4, 5, 33):
        assert judge(cluster(nodes), Limits()) == []
        assert judge(cluster(nodes, cuda=False), Limits()) == []


@pytest.mark.parametrize("name", CASES)
def test_what_is_ill_is_found_and_nothing_else(name: str) -> None:
    make, severity, host, words = CASES[name]
    [finding] = judge(make(), Limits())
    assert (finding.severity, finding.host) == (severity, host)
    assert all(word in str(finding) for word in words), str(finding)
    assert finding.remedy
    assert "\n" not in str(finding)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("disk", {"min_disk_gb": 0.2}),
        ("shm", {"min_shm_gb": 0.01}),
        ("clock", {"max_clock_skew": 90}),
        ("slow GPU", {"slow_factor": 3, "slow_warning": 3}),
        ("slower GPU", {"slow_warning": 1.6}),
        ("slow node", {"slow_factor": 7}),
        ("occupied", {"min_free_gpu": 0.2}),
    ],
)
def test_limits_can_be_moved(name: str, limits: dict[str, Any]) -> None:
    assert judge(CASES[name][0](), Limits(**limits)) == []


def test_mixed_gpus_can_be_allowed() -> None:
    [finding] = judge(other_kind(), Limits(mixed_gpus=True))
    assert finding.severity == "warn"


def test_a_rank_that_was_told_not_to_use_gpus_is_believed() -> None:
    reports = changed(cluster(1, 1), 0, "device", type="cpu", name="", uuid="")
    assert judge(changed(reports, 0, "process", visible_devices=""), Limits()) == []
    assert [f.severity for f in judge(reports, Limits())] == ["refuse"]


def test_on_cpus_slowness_and_little_shared_memory_only_warn() -> None:
    slow = changed(cluster(cuda=False), 3, "device", seconds=0.05)
    slow = changed(slow, 4, "traffic", exchanges={2: 0.05, 6: 0.05})
    findings = judge(changed(slow, 2, "node", free_shm_gb=0.06), Limits())
    assert [(f.severity, f.host) for f in findings] == [("warn", "n1"), ("warn", "n1"), ("warn", "n2")]


def test_one_cpu_for_each_rank_is_enough() -> None:
    reports = changed(cluster(), 2, "process", cpus=(3, 4), scheduler_cpus=None)
    assert judge(changed(reports, 3, "process", cpus=(3, 4), scheduler_cpus=2), Limits()) == []


def test_of_three_nodes_the_slow_one_is_still_told_apart() -> None:
    """Two of the three links are slow then: their median would be, too."""
    reports = changed(cluster(3), 0, "traffic", exchanges={2: 0.005, 4: 0.005})
    reports = changed(reports, 2, "traffic", exchanges={0: 0.005, 4: 0.001})
    reports = changed(reports, 4, "traffic", exchanges={0: 0.005, 2: 0.001})
    assert [f.host for f in judge(reports, Limits())] == ["n0"]


def test_of_two_nodes_that_exchange_slowly_none_is_blamed() -> None:
    reports = changed(cluster(2), 0, "traffic", exchanges={2: 9.0})
    assert judge(changed(reports, 2, "traffic", exchanges={0: 1.0}), Limits(slow_factor=1.1, slow_warning=1.1)) == []


def test_one_late_reading_of_a_clock_is_no_skew() -> None:
    assert judge(changed(cluster(), 4, clock=(1000.0, 1021.0, 1002.5)), Limits()) == []


def test_refusals_come_first_and_the_error_lists_them_for_the_user() -> None:
    reports = changed(changed(slow_link(), 3, "device", correct=False), 0, "node", free_disk_gb=0.0)
    findings = judge(reports, Limits())
    assert [finding.severity for finding in findings] == ["refuse", "refuse", "warn"]
    error = ClusterCheckError(findings[:2])
    assert is_for_user(error)
    assert str(error).splitlines()[1:] == [f"  {finding}" for finding in findings[:2]]


def test_a_finding_is_host_fact_and_remedy() -> None:
    assert str(Finding("warn", "n1", "it is warm", "open a window")) == "n1: it is warm: open a window"


def test_the_table_has_a_line_for_each_node_with_its_slowest_rank() -> None:
    lines = table(changed(cluster(2), 3, "device", seconds=0.0123)).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["node", "n0", "n1"]
    assert lines[2].split()[1:] == ["2-3", "2", "16", "5000.0", "200.0", "12.30", "687", "1.00"]
    assert lines[3] == "sum over all ranks: 4.00 ms"
