"""`cait train`: check, claim the run directory, start the ranks."""

from collections.abc import Sequence
from pathlib import Path

from cait_dist.config import RunConfig, load_config

from .tracking_writers import check_one_writer


def train_locally(
    config_path: Path, overrides: Sequence[str], processes: int | None, run_dir: Path | None, resume: str
) -> int:
    """Train on this machine; returns the status to exit with.

    Args:
        config_path: YAML file
        overrides: ``key=value`` settings that win over it
        processes: ranks; None for one per visible GPU, or one
        run_dir: instead of ``runs_dir/name``
        resume: auto, never or a step

    Raises:
        ValueError: of the project's own kinds, before anything is written or started
    """
    return train_config(_place(load_config(config_path, overrides).config, run_dir), processes, resume)


def train_config(config: RunConfig, processes: int | None, resume: str) -> int:
    """The same for a configuration that is resolved already.

    Raises:
        ValueError: of the project's own kinds, before anything is written or started
    """
    from cait_dist.training.starting.attempt import begin_attempt  # noqa: PLC0415 - loads torch; a wrong file is told before
    from cait_dist.training.starting.preflight import preflight  # noqa: PLC0415

    from .local import run_locally  # noqa: PLC0415

    check_one_writer(config)
    count = processes or _one_per_gpu()
    plan = preflight(config, count)
    attempt = begin_attempt(config, plan, resume)
    if attempt is None:
        print(f"{config.run_dir} is finished: nothing to do")
    status = run_locally(attempt, count) if attempt is not None else 0
    if status == 0:
        _say_where(config)
    return status


def _place(config: RunConfig, run_dir: Path | None) -> RunConfig:
    if run_dir is None:
        return config
    return RunConfig.model_validate({**config.model_dump(), "runs_dir": run_dir.parent, "name": run_dir.name})


def _one_per_gpu() -> int:
    import torch  # noqa: PLC0415

    return torch.cuda.device_count() if torch.cuda.is_available() else 1


def _say_where(config: RunConfig) -> None:
    from cait_dist.tracking.report import summarize  # noqa: PLC0415
    from cait_dist.tracking.run_directory import RunDirectory  # noqa: PLC0415

    summary = summarize(RunDirectory(config.run_dir))
    best = [f"{key} {value:.2f} %" for key, value in summary["last"].items() if key.endswith("top1")]
    print()
    print(f"finished   {', '.join(best) or 'no evaluation was asked for'}")
    if summary["images_per_second"]:
        print(f"speed      {summary['images_per_second']:.0f} images/s (median)")
    print(f"run        {config.run_dir}")
    print(f"MLflow     {where_in_mlflow(config)}")


def where_in_mlflow(config: RunConfig) -> str:
    """What shows the run in MLflow: a page, or the command that opens one."""
    from cait_dist.tracking.mlflow_mirror import default_uri  # noqa: PLC0415
    from cait_dist.tracking.sqlite_file import SQLITE  # noqa: PLC0415

    if not config.tracking.mlflow:
        return f"was told nothing: cait track sync {config.run_dir}"
    uri = config.tracking.uri or default_uri(config.runs_dir)
    # `cait track ui` opens the file of this name in a folder.
    return f"cait track ui {Path(uri.removeprefix(SQLITE)).parent}" if uri.endswith("/mlflow.db") else uri
