"""What this node and this process say of themselves, with the standard library alone: nothing here can take a GPU."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cait_dist.training.ranks.naming import host_name

NVIDIA_SMI_SECONDS = 15.0
"""A healthy driver answers within one or two seconds, a sick one often never."""
BASIC_FIELDS = ("index", "uuid", "name", "driver_version", "memory.total")
UNCORRECTED = "ecc.errors.uncorrected.volatile.total"
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it."""

    index: int
    uuid: str
    name: str
    driver: str
    memory_mib: int | None
    uncorrected_errors: int | None
    """memory errors since the driver was loaded that were more than ECC can mend; None: not counted on this GPU"""


@dataclass(frozen=True)
class NodeFacts:
    """What is the same for all ranks of a node."""

    gpus: tuple[Gpu, ...]
    gpu_trouble: str | None
    """why the driver could not be asked, where it is installed"""
    cores: int
    free_disk_gb: float | None
    """for the run directory; None where it does not exist"""
    file_system: str
    free_shm_gb: float | None


@dataclass(frozen=True)
class ProcessFacts:
    """What may differ between the ranks of a node."""

    host: str
    cpus: tuple[int, ...]
    """the CPUs this process may run on"""
    scheduler_cpus: int | None
    """how many SLURM says it gave to the task"""
    visible_devices: str | None
    python: str
    torch: str


def read_node(folder: Path) -> NodeFacts:
    """Look at the node; ``folder`` is the run directory."""
    gpus, trouble = list_gpus()
    return NodeFacts(
        gpus=gpus,
        gpu_trouble=trouble,
        cores=os.cpu_count() or 1,
        free_disk_gb=free_gb(folder),
        file_system=file_system_of(folder),
        free_shm_gb=free_gb(SHM),
    )


def read_process(environment: Mapping[str, str] = os.environ) -> ProcessFacts:
    """Look at this process."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    given = environment.get("SLURM_CPUS_PER_TASK", "")
    return ProcessFacts(
        host=host_name(environment),
        cpus=tuple(sorted(cpus)),
        scheduler_cpus=int(given) if given.isdigit() else None,
        visible_devices=environment.get("CUDA_VISIBLE_DEVICES"),
        python=platform.python_version(),
        torch=version_of("torch") or "none",
    )


def version_of(package: str) -> str | None:
    """The installed version, found without importing the package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def list_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs of this node, and what went wrong if the driver's tool is there but gave no answer."""
    if shutil.which("nvidia-smi") is None:
        return (), None
    answer, trouble = _ask((*BASIC_FIELDS, UNCORRECTED))
    if trouble and "not a valid field" in trouble:
        answer, trouble = _ask(BASIC_FIELDS)
    return tuple(_parse(line) for line in answer.splitlines() if line.count(",") >= len(BASIC_FIELDS) - 1), trouble


def _ask(fields: Sequence[str]) -> tuple[str, str | None]:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "", f"nvidia-smi gave no answer within {NVIDIA_SMI_SECONDS:g} s"
    except OSError as error:
        return "", f"nvidia-smi cannot be started ({error})"
    if done.returncode == 0:
        return done.stdout, None
    said = (done.stdout + done.stderr).strip().splitlines()
    return "", f"nvidia-smi ended with status {done.returncode}: {said[0] if said else 'without a word'}"


def _parse(line: str) -> Gpu:
    index, uuid, name, driver, memory, *errors = (part.strip() for part in line.split(","))
    return Gpu(int(index), uuid, name, driver, _number(memory), _number(errors[0]) if errors else None)


def _number(text: str) -> int | None:
    # Where a value does not exist, the tool writes [N/A] or [Not Supported].
    return int(text) if text.isdigit() else None


def free_gb(folder: Path) -> float | None:
    """Free space for this user, in 10^9 bytes; None where there is no such folder."""
    try:
        return shutil.disk_usage(folder).free / 1e9
    except OSError:
        return None


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Its type, such as ext4, tmpfs, nfs4 or lustre; "unknown" where the system does not tell."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return "unknown"
    real = str(folder.resolve())
    # Of two mounts on one place the later one is seen. Spaces in names are written as \040.
    known = {place.encode().decode("unicode_escape"): kind for _, place, kind, *_ in lines}
    holding = [place for place in known if real == place or real.startswith(place.rstrip("/") + "/")]
    return known[max(holding, key=len)] if holding else "unknown"
