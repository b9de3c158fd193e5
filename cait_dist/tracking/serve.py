"""`cait track ui`: MLflow's own web page on the runs of a folder."""

import os
import subprocess
import sys
from pathlib import Path

from .mlflow_mirror import default_uri
from .run_directory import RunDirectoryError


def serve_ui(runs_dir: Path, port: int) -> int:
    """Serve the page on this machine's loopback until Ctrl-C; returns MLflow's status.

    Raises:
        RunDirectoryError: when the folder holds no MLflow database
    """
    if not (runs_dir / "mlflow.db").is_file():
        raise RunDirectoryError(f"{runs_dir} holds no mlflow.db: train there first, or pass the folder of your runs")
    print(f"MLflow: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    command = ["server", "--backend-store-uri", default_uri(runs_dir), "--host", "127.0.0.1", "--port", str(port)]
    artifacts = ["--default-artifact-root", str((runs_dir / "mlflow-artifacts").resolve())]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    try:
        return subprocess.call(
            [sys.executable, "-m", "mlflow", *command, "--workers", "1", *artifacts], env=environment
        )
    except KeyboardInterrupt:
        return 0
