"""A real MLflow server for tests, and programs with a mirror of their own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_command import CAIT

TESTS = Path(__file__).resolve().parent


@dataclass
class Server:
    """A `cait track serve` that can be ended and started again on the same database and port."""

    folder: Path
    port: int
    process: subprocess.Popen[str] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(CAIT), "track", "serve", str(self.folder), "--port", str(self.port)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, (self.folder / "mlflow-server.log").read_text()[-3000:]

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)


def programs(jobs: list[dict[str, Any]], folder: Path, **environment: str) -> list[dict[str, Any]]:
    """Run `mirror_program.py` on these jobs in this folder."""
    clean = {key: value for key, value in os.environ.items() if key != "MLFLOW_HTTP_REQUEST_TIMEOUT"}
    path = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(TESTS)]))
    done = subprocess.run(
        [sys.executable, str(TESTS / "mirror_program.py"), json.dumps(jobs)],
        cwd=folder, check=False, capture_output=True, text=True, timeout=400,
        env={**clean, **environment, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results
