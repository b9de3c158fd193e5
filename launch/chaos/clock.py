"""Another time of day for the processes of a job, node by node, while they run.

The kernel has one clock for all, so the answer to whoever asks is changed: a few lines of C, loaded before the C
library, add the seconds that a file of the node says. Durations come from another clock, which jumps on no machine,
nor here.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

from .errors import ChaosError
from .ground import Ground

CLOCK_FILE = "/dev/shm/cait-chaos-clock"
"""Each node of the small cluster has this folder for itself."""
SOURCE = Path(__file__).with_name("clock.c")
LIBRARY = "clock.so"


def clock_environment(file: str) -> dict[str, str]:
    """Variables for the job; the library's folder is filled in when it is built."""
    return {"LD_PRELOAD": "{folder}/" + LIBRARY, "CAIT_CHAOS_CLOCK": file}


def build_library(folder: Path) -> None:
    """Compile it into a folder.

    Raises:
        ChaosError: without a compiler
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ChaosError("clock-jump needs a C compiler (cc), which is missing: install one, or choose other faults")
    library = folder / LIBRARY
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"], check=True)


def jump(ground: Ground, node: str, job_id: str, seconds: int) -> None:
    """Put the clock of a node so far ahead (or behind, where negative) of the true one."""
    offset = struct.pack("=q", seconds).hex()
    text = f"open({CLOCK_FILE!r}, 'r+b').write(bytes.fromhex({offset!r}))"
    ground.on_node(node, job_id, [sys.executable, "-c", text])
