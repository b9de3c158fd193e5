"""What a node says of itself. ``nvidia-smi`` is a script here that prints what the real one would: there is no GPU."""

import os
from pathlib import Path

import pytest

from launch.check import node
from launch.check.node import Gpu, file_system_of, free_gb, list_gpus, read_node, read_process

H100 = "0, GPU-5c2f, NVIDIA H100 80GB HBM3, 550.54.15, 81559"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the script, which the tests write; it comes first in PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "nvidia-smi"


def write(script: Path, body: str) -> None:
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)


def test_gpus_are_read_with_their_memory_errors(nvidia_smi: Path) -> None:
    write(nvidia_smi, f"echo '{H100}, 3'; echo '1, GPU-77aa, Tesla T4, 550.54.15, 15360, [N/A]'")
    gpus, trouble = list_gpus()
    assert trouble is None
    assert gpus == (
        Gpu(0, "GPU-5c2f", "NVIDIA H100 80GB HBM3", "550.54.15", 81559, 3),
        Gpu(1, "GPU-77aa", "Tesla T4", "550.54.15", 15360, None),
    )


def test_an_older_tool_that_counts_no_memory_errors_is_asked_for_the_rest(nvidia_smi: Path) -> None:
    refuse = "echo 'Field \"ecc.errors.uncorrected.volatile.total\" is not a valid field to query.'; exit 2"
    write(nvidia_smi, f"case \"$1\" in *ecc*) {refuse};; esac\necho '{H100}'")
    gpus, trouble = list_gpus()
    assert trouble is None
    assert [gpu.uncorrected_errors for gpu in gpus] == [None]


def test_a_driver_that_fails_is_quoted(nvidia_smi: Path) -> None:
    write(nvidia_smi, "echo 'Unable to determine the device handle for GPU0: GPU is lost'; exit 15")
    assert list_gpus() == (
        (),
        "nvidia-smi ended with status 15: Unable to determine the device handle for GPU0: GPU is lost",
    )


def test_a_driver_that_hangs_is_cut_off(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "NVIDIA_SMI_SECONDS", 0.3)
    write(nvidia_smi, "exec sleep 60")
    assert list_gpus() == ((), "nvidia-smi gave no answer within 0.3 s")


def test_a_tool_that_cannot_be_started_is_told(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/no/such/shell\n")
    nvidia_smi.chmod(0o755)
    gpus, trouble = list_gpus()
    assert gpus == ()
    assert trouble is not None
    assert trouble.startswith("nvidia-smi cannot be started")


def test_without_the_tool_there_are_no_gpus_and_nothing_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_gpus() == ((), None)


def test_a_process_is_described_by_its_environment() -> None:
    facts = read_process({"SLURMD_NODENAME": "n7", "SLURM_CPUS_PER_TASK": "12", "CUDA_VISIBLE_DEVICES": "2,3"})
    assert (facts.host, facts.scheduler_cpus, facts.visible_devices) == ("n7", 12, "2,3")
    assert facts.cpus == tuple(sorted(os.sched_getaffinity(0)))
    assert facts.torch[0].isdigit()
    assert read_process({}).scheduler_cpus is None


def test_this_node_has_cores_space_and_a_file_system(tmp_path: Path) -> None:
    facts = read_node(tmp_path)
    assert facts.cores == os.cpu_count()
    assert facts.free_disk_gb is not None
    assert 0 < facts.free_disk_gb == pytest.approx(free_gb(tmp_path), rel=0.1)
    assert facts.file_system != "unknown"
    assert read_node(tmp_path / "nowhere").free_disk_gb is None


def test_the_file_system_is_that_of_the_nearest_and_latest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay / overlay rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/sdb /data/my\\040runs ext4 rw 0 0\n"
        "auto /late autofs rw 0 0\nserver:/y /late lustre rw 0 0\n"
    )
    places = {"/": "overlay", "/database": "overlay", "/data/x": "nfs4", "/data/my runs/a": "ext4", "/late": "lustre"}
    assert {place: file_system_of(Path(place), mounts) for place in places} == places
    assert file_system_of(Path("/"), tmp_path / "none") == "unknown"
