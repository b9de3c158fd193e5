"""Runs many `cait` commands and readings of weights in one process, and says how each ended and what memory it took.

Argument: {"commands": [[word, …], …], "weights": [path, …]}.
"""

import contextlib
import io
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from cait_dist.cli import main as cait
from cait_dist.errors import is_for_user


def called(words: list[str]) -> dict[str, Any]:
    """Status and output of one command, as the shell would see them."""
    out, err, began = io.StringIO(), io.StringIO(), time.monotonic()
    sys.argv = ["cait", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cait()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 1
    return {"status": status, "out": out.getvalue(), "err": err.getvalue(), "seconds": time.monotonic() - began}


def read(path: str) -> dict[str, Any]:
    """How a file of weights was refused."""
    from cait_dist.models.weights import read_state_dict  # noqa: PLC0415

    began = time.monotonic()
    try:
        error: Exception | str = f"it was read: {list(read_state_dict(path))}"
    except Exception as raised:
        error = raised
    return {
        "refused": isinstance(error, Exception) and is_for_user(error),
        "err": f"{type(error).__name__}: {error}",
        "seconds": time.monotonic() - began,
    }


def main(arguments: dict[str, Any], out: Path) -> None:
    """Do all of it."""
    import torch  # noqa: F401, PLC0415 - what it takes is not what a file made it take

    before = most_memory()
    found = {"weights": [read(path) for path in arguments["weights"]]}
    found["commands"] = [called(words) for words in arguments["commands"]]
    out.write_text(json.dumps({**found, "megabytes": most_memory() - before}))


def most_memory() -> float:
    """Megabytes that this program has had at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
