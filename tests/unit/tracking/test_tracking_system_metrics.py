"""One sampler per node: what it writes, what MLflow gets of it, what it costs, and that it never hurts.

NVIDIA's library is stood in for: these tests run where there is no GPU, and some cases need four.
"""

from __future__ import annotations

import builtins
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training_command import wait_for

from cait_dist.tracking import system_metrics
from cait_dist.tracking.gpu_sampler import GpuSampler, own_devices
from cait_dist.tracking.run_directory import RunDirectory, write_json
from cait_dist.tracking.system_metrics import (
    NodeSource,
    SystemSampler,
    node_name,
    read_samples,
    sampling,
    send_system_metrics,
    together,
)

ALWAYS = {
    "cpu_utilization_percentage",
    "system_memory_usage_megabytes",
    "system_memory_usage_percentage",
    "disk_usage_percentage",
    "disk_available_megabytes",
    "network_receive_megabytes_per_second",
    "network_transmit_megabytes_per_second",
}


class StandIn:
    """NVIDIA's library of a node with four GPUs, the last of which is cut into slices."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        """Its own kind of error."""

    uuids = ("GPU-aaaa1111", "GPU-bbbb2222", "GPU-bbbb3333", "GPU-cccc4444")

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 4

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetUUID(self, device: int) -> bytes:
        return self.uuids[device].encode()  # older versions give bytes

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "MIG-dddd5555":
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetMemoryInfo(self, device: int | str) -> SimpleNamespace:
        return SimpleNamespace(used=20e9, total=80e9)

    def nvmlDeviceGetUtilizationRates(self, device: int | str) -> SimpleNamespace:
        if isinstance(device, str):
            raise self.NVMLError
        return SimpleNamespace(gpu=90 + device)

    def nvmlDeviceGetPowerUsage(self, device: int | str) -> int:
        return 350_000

    def nvmlDeviceGetTemperature(self, device: int | str, kind: int) -> int:
        return 55


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run begun 100 seconds ago, in its first attempt."""
    directory = RunDirectory(tmp_path / "run")
    directory.attempt(1).mkdir(parents=True)
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 100))
    write_json(directory.record, {"attempts": [{"number": 1, "started": began}]})
    return directory


def write(run: RunDirectory, attempt: int, node: str, *rows: tuple[int, float], torn: str = "") -> None:
    run.attempt(attempt).mkdir(exist_ok=True)
    lines = [json.dumps({"time": 1000.0 + second, "second": second, "cpu": value}) + "\n" for second, value in rows]
    with (run.attempt(attempt) / f"system-{node}.jsonl").open("a") as file:
        file.write("".join(lines) + torn)


class Client:
    """Takes what would go to MLflow."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, float]] = []

    def log_batch(self, run_id: str, metrics: list[Any], synchronous: bool) -> None:
        assert len(metrics) <= 1000
        assert synchronous, "the cursor says that they have arrived"
        self.rows += [(metric.key, metric.step, metric.value) for metric in metrics]


def test_a_sample_holds_what_the_node_does(tmp_path: Path) -> None:
    source = NodeSource(tmp_path, print)
    sum(number * number for number in range(1_000_000))
    values = source.read()
    assert set(values) >= ALWAYS
    assert 0 < values["cpu_utilization_percentage"] <= 100
    assert 0 < values["system_memory_usage_percentage"] < 100
    stat = os.statvfs(tmp_path)
    assert values["disk_available_megabytes"] == pytest.approx(stat.f_bavail * stat.f_frsize / 1e6, rel=0.05)


def test_it_writes_whole_lines_until_it_is_stopped_at_once(run: RunDirectory) -> None:
    file = run.attempt(1) / f"system-{node_name()}.jsonl"
    with sampling(run, 1, 0.05, print):
        wait_for(lambda: file.exists() and len(file.read_text().splitlines()) > 4, "five samples")
        began = time.perf_counter()
    assert time.perf_counter() - began < 2
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(set(row) >= ALWAYS and row["second"] >= 99 for row in rows)
    size = file.stat().st_size
    time.sleep(0.15)
    assert file.stat().st_size == size
    assert "system-metrics" not in {thread.name for thread in threading.enumerate()}


def test_the_end_of_training_does_not_wait_for_a_driver_that_hangs(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, release = threading.Event(), threading.Event()

    def hang(self: NodeSource) -> dict[str, float]:
        reached.set()
        release.wait(20)
        return {}

    monkeypatch.setattr(NodeSource, "read", hang)
    sampler = SystemSampler(run, 1, 0.01, print)
    assert reached.wait(10)
    began = time.perf_counter()
    sampler.stop()
    assert time.perf_counter() - began < 1
    release.set()


@pytest.mark.parametrize("seconds", [0, None])
def test_it_can_be_switched_off(run: RunDirectory, seconds: float | None) -> None:
    with sampling(run, 1, seconds, print):
        assert "system-metrics" not in {thread.name for thread in threading.enumerate()}
    assert list(run.attempt(1).iterdir()) == []


def test_what_is_not_installed_costs_one_note(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name in ("psutil", "pynvml"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(Path, "exists", lambda path: True)  # as if there were a driver
    with sampling(run, 1, 0.02, notes.append):
        wait_for(lambda: read_samples(run), "a sample")
    monkeypatch.undo()
    assert notes == [
        "note: no system metrics but the disk's and the GPUs': pip install psutil",
        "note: no system metrics of the GPUs: pip install nvidia-ml-py",
    ]
    rows = read_samples(run)[node_name()]
    assert set(rows[0]) == {"time", "second", "disk_usage_percentage", "disk_available_megabytes"}


def test_a_fault_in_it_costs_a_note_and_no_training(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(system_metrics.shutil, "disk_usage", lambda path: 1 / 0)
    with sampling(run, 1, 0.01, notes.append):
        wait_for(lambda: notes, "a note")
        time.sleep(0.05)
    assert notes == [f"note: no more system metrics of {node_name()}: division by zero"]


def test_nodes_are_called_as_slurm_does_in_letters_that_mlflow_takes() -> None:
    assert node_name({"SLURMD_NODENAME": "n7"}) == "n7"
    assert node_name({"SLURMD_NODENAME": "rack(3)@x"}) == "rack_3__x"
    assert "." not in node_name({})


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        ("", []),
        ("-1", []),
        ("1,-1,2", [1]),
        ("1,9,2", [1]),
        ("GPU-bbbb3333", [2]),
        ("GPU-cccc, GPU-aaaa1111", [3, 0]),
        ("MIG-dddd5555", ["MIG-dddd5555"]),
        ("MIG-none,0", []),
    ],
)
def test_only_devices_that_the_job_may_use_are_read(visible: str | None, devices: list[int | str]) -> None:
    assert own_devices(visible, StandIn()) == devices


def test_a_gpu_tells_its_load_memory_power_and_temperature_and_a_slice_what_it_can() -> None:
    values = GpuSampler({"CUDA_VISIBLE_DEVICES": "3,MIG-dddd5555"}, StandIn()).read()
    both = {"memory_usage_megabytes": 20000, "memory_usage_percentage": 25, "power_usage_watts": 350}
    both["temperature_celsius"] = 55
    expected = {f"gpu_{number}_{name}": value for number in (0, 1) for name, value in both.items()}
    assert values == {**expected, "gpu_0_utilization_percentage": 93.0}


def test_of_an_unshared_node_only_as_many_gpus_are_read_as_there_are_ranks() -> None:
    values = GpuSampler({"LOCAL_WORLD_SIZE": "2"}, StandIn()).read()
    assert {name.split("_")[1] for name in values} == {"0", "1"}


def test_mlflow_shows_the_gpus_of_a_node_together() -> None:
    values = GpuSampler({"CUDA_VISIBLE_DEVICES": "0,3"}, StandIn()).read() | {"second": 3}
    values["gpu_1_temperature_celsius"] = 81
    assert together(values) == {
        "second": 3,
        "gpu_utilization_percentage": 91.5,
        "gpu_memory_usage_megabytes": 20000,
        "gpu_memory_usage_percentage": 25,
        "gpu_power_usage_watts": 700,
        "gpu_temperature_celsius": 81,
    }


def test_mlflow_gets_every_sample_once_with_steps_that_only_grow(run: RunDirectory) -> None:
    client = Client()
    write(run, 1, "n1", (10, 1.0), (20, 2.0), torn='{"time": 1')
    write(run, 1, "n2", (11, 5.0))
    cursor = send_system_metrics(run, client, "id", {})
    assert client.rows == [("system/n1/cpu", 10, 1.0), ("system/n1/cpu", 20, 2.0), ("system/n2/cpu", 11, 5.0)]
    cursor = json.loads(json.dumps(cursor))  # it is kept in a file
    assert send_system_metrics(run, client, "id", cursor) == cursor
    assert len(client.rows) == 3

    # The torn line is completed, the next attempt's clock is behind, and the old attempt has not yet noticed.
    with (run.attempt(1) / "system-n1.jsonl").open("a") as file:
        file.write('030.0, "second": 30, "cpu": 3.0}\n')
    write(run, 2, "n1", (25, 9.0), (30, 9.0), (31, 4.0))
    write(run, 1, "n2", (31, 6.0))
    cursor = send_system_metrics(run, client, "id", cursor)
    assert client.rows[3:] == [("system/n1/cpu", 30, 3.0), ("system/n1/cpu", 31, 4.0), ("system/n2/cpu", 31, 6.0)]
    assert [row["cpu"] for row in read_samples(run)["n1"]] == [1.0, 2.0, 3.0, 4.0]


def test_many_samples_go_out_in_batches(run: RunDirectory) -> None:
    client = Client()
    write(run, 1, "n1", *((second, 0.5) for second in range(2300)))
    send_system_metrics(run, client, "id", {})
    assert [step for _, step, _ in client.rows] == list(range(2300))


def test_a_sample_costs_milliseconds_of_processor_time(tmp_path: Path, record_property: Any) -> None:
    source = NodeSource(tmp_path, print)
    began = time.thread_time()
    for _ in range(50):
        source.read()
    cost = (time.thread_time() - began) / 50
    record_property("seconds_of_cpu_per_sample", cost)
    print(f"{1e3 * cost:.2f} ms of CPU per sample")
    # Every ten seconds, a twentieth of a second would be half a percent of one core.
    assert cost < 0.05
