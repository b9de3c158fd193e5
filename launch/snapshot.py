"""A copy of the code that goes with the job: what is edited after the submission changes nothing in the queue."""

import compileall
import hashlib
import json
import shutil
from pathlib import Path

from cait_dist.tracking.code_version import CODE_FILE, DIFF_FILE, code_diff, describe_code

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cait_dist", "data_prep", "launch")


def snapshot_code(folder: Path) -> dict[str, str]:
    """Copy the packages into ``folder`` and return what they are: version, commit, digest of the files.

    Processes that find the folder first on their path run this code (see ``python_path``).
    """
    shutil.rmtree(folder, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    described = {**describe_code(), "digest": _digest(folder)}
    (folder / CODE_FILE).write_text(json.dumps(described, indent=1))
    (folder / DIFF_FILE).write_text(code_diff() or "")
    # Once here, instead of by hundreds of ranks at the same moment.
    compileall.compile_dir(folder, quiet=2)
    return described


def _digest(folder: Path) -> str:
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            state.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:16]
