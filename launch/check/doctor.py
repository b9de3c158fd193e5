"""`cait doctor`: the questions of a job's start, asked of the machine a user sits at; each answer is a line.

What only several nodes together can find out is asked when a job starts: see ``cluster``.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.slurm_commands import SlurmError, call

from .answer import Check
from .finding import Limits
from .installation import examine_packages
from .node import SHM, Gpu, file_system_of, free_gb, list_gpus, read_process
from .tracking_server import nearest, unreachable

if TYPE_CHECKING:
    import torch

    from cait_dist.config import RunConfig

SLURM_COMMANDS = ("sinfo", "sbatch", "squeue", "scontrol")
SLURM_SECONDS = 10.0
LOST_AT_REBOOT = ("tmpfs", "ramfs", "overlay")


def examine(config: "RunConfig | None" = None) -> Iterator[Check]:
    """Look at this machine, and at what a configuration needs; the answers come as they are found."""
    yield from examine_packages()
    gpus, trouble = list_gpus()
    yield from examine_gpus(gpus, trouble)
    yield from _arithmetic(bool(gpus))
    yield _cores()
    runs_dir = config.runs_dir if config is not None else Path("runs")
    yield examine_disk(runs_dir, nearest(runs_dir), Limits())
    yield examine_shm(free_gb(SHM), Limits())
    yield from examine_slurm()
    if config is not None:
        yield _tracking(config)
        yield _data(config)


def is_fit(checks: Sequence[Check]) -> bool:
    """Whether nothing refuses."""
    return all(check.state != "refuse" for check in checks)


def render(check: Check) -> str:
    """One answer as text: the remedy stands below the fact."""
    remedy = f"\n{'':<21}→ {check.remedy}" if check.remedy else ""
    return f"{check.state:<6}  {check.name:<12} {check.detail}{remedy}"


def examine_gpus(gpus: Sequence[Gpu], trouble: str | None) -> Iterator[Check]:
    """Judge what the driver says."""
    if trouble:
        yield Check("GPUs", "warn", trouble, "see what `nvidia-smi` and `dmesg` say")
        return
    if not gpus:
        yield Check("GPUs", "ok", "none here: training would run on the CPU")
    for name in dict.fromkeys(gpu.name for gpu in gpus):
        same = [gpu for gpu in gpus if gpu.name == name]
        memory = f"{same[0].memory_mib} MiB, " if same[0].memory_mib is not None else ""
        yield Check("GPUs", "ok", f"{len(same)} × {name} ({memory}driver {same[0].driver})")
    for gpu in gpus:
        if gpu.uncorrected_errors:
            what = f"number {gpu.index} has counted {gpu.uncorrected_errors} memory errors that ECC could not mend"
            yield Check("GPUs", "warn", what, "reset it, and have it looked at if they come again")


def _arithmetic(gpus: bool) -> Iterator[Check]:
    try:
        import torch  # noqa: PLC0415
    except (ImportError, OSError) as error:
        yield Check("arithmetic", "refuse", f"PyTorch cannot be loaded ({error})", "install it again")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if gpus and not hidden and not torch.cuda.is_available():
        remedy = "install PyTorch for CUDA and a driver new enough for it"
        yield Check("arithmetic", "refuse", f"this PyTorch (for {build}) cannot use the GPUs", remedy)
        return
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    for device in devices or [torch.device("cpu")]:
        yield _compute(device, build)


def _compute(device: "torch.device", build: str) -> Check:
    from .measure import examine_device  # noqa: PLC0415

    report = examine_device(device)
    if report.error or not report.correct:
        what = f"cannot compute ({report.error})" if report.error else "computes wrong results"
        return Check("arithmetic", "refuse", f"{device} {what}", "do not train here; have the machine looked at")
    return Check("arithmetic", "ok", f"{device}: {report.tflops:.3g} TFLOP/s, exact (PyTorch for {build})")


def _cores() -> Check:
    process = read_process()
    here, given = len(process.cpus), process.scheduler_cpus
    if given is not None and here < given:
        remedy = "give srun --cpus-per-task too: it does not take it from sbatch"
        return Check("CPUs", "warn", f"{here} of the {given} that SLURM gave to this task", remedy)
    return Check("CPUs", "ok", f"{here} of the machine's {os.cpu_count()}")


def examine_disk(folder: Path, existing: Path, limits: Limits) -> Check:
    """Judge the place of the run directories; ``existing`` is that folder, or the nearest above it that exists."""
    free, kind = free_gb(existing) or 0.0, file_system_of(existing)
    what = f"{folder}: {free:.1f} GB free, {kind}"
    if not os.access(existing, os.W_OK):
        return Check("run folder", "refuse", f"{existing} cannot be written", "set runs_dir to a folder of yours")
    if free < limits.min_disk_gb:
        return Check("run folder", "refuse", f"{what}, less than {limits.min_disk_gb:g}", "make room, or set runs_dir")
    if kind in LOST_AT_REBOOT:
        return Check("run folder", "warn", what, "what is written there is lost with this machine: set runs_dir")
    return Check("run folder", "ok", what)


def examine_shm(free: float | None, limits: Limits) -> Check:
    """Judge the memory through which the processes of a node exchange data."""
    if free is None:
        return Check("/dev/shm", "ok", "not there on this system")
    if free < limits.min_shm_gb:
        remedy = "remove what dead jobs left there; in a container, raise --shm-size"
        return Check("/dev/shm", "warn", f"{free:.2f} GB free, less than {limits.min_shm_gb:g}", remedy)
    return Check("/dev/shm", "ok", f"{free:.1f} GB free")


def examine_slurm() -> Iterator[Check]:
    """Whether jobs can be submitted from here."""
    missing = [command for command in SLURM_COMMANDS if shutil.which(command) is None]
    if len(missing) == len(SLURM_COMMANDS):
        yield Check("SLURM", "ok", "not here: `cait train` runs on this machine")
        return
    if missing:
        yield Check("SLURM", "warn", f"without {', '.join(missing)}", "install SLURM's client commands completely")
        return
    accounting = "there" if shutil.which("sacct") else "not there"
    for command in (("sinfo", "-h", "-o", "%R"), ("squeue", "-h", "-o", "%i", "--me")):
        try:
            answer = call(*command, timeout=SLURM_SECONDS)
        except SlurmError as error:
            yield Check(
                "SLURM",
                "warn",
                f"{command[0]}: {error}",
                "jobs cannot be submitted from here; `cait train` needs no SLURM",
            )
            return
        if command[0] == "sinfo":
            partitions = ", ".join(dict.fromkeys(answer.split())) or "none"
    yield Check("SLURM", "ok", f"partitions {partitions} (sacct {accounting}: not needed)")


def _tracking(config: "RunConfig") -> Check:
    from cait_dist.tracking.mlflow_mirror import default_uri  # noqa: PLC0415

    if not config.tracking.mlflow:
        return Check("MLflow", "ok", "not asked for (tracking.mlflow)")
    uri = config.tracking.uri or default_uri(config.runs_dir)
    if reason := unreachable(uri):
        return Check("MLflow", "warn", reason, "training goes on without it; `cait track sync` sends everything later")
    return Check("MLflow", "ok", uri)


def _data(config: "RunConfig") -> Check:
    from cait_dist.training.starting.plan import CannotStartError  # noqa: PLC0415
    from cait_dist.training.starting.preflight import preflight  # noqa: PLC0415

    try:
        plan = preflight(config, processes=1)
    except CannotStartError as error:
        return Check("run", "refuse", str(error).replace("\n", f"\n{'':<21}"), "mend these, then ask again")
    return Check("run", "ok", f"{config.data.path} can be read ({plan.num_classes} classes), and the run could start")
