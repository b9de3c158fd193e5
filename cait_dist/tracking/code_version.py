"""Which code a run was made with."""

import json
import subprocess
from pathlib import Path

from cait_dist import __version__

CODE_FILE = "code.json"
"""Lies beside the packages where they are a copy made for a job, which git knows nothing of."""


def describe_code() -> dict[str, str]:
    """Version, and for a git checkout the commit; ``+changes`` marks files that differ from it."""
    root = Path(__file__).resolve().parents[2]
    if (root / CODE_FILE).is_file():
        return dict(json.loads((root / CODE_FILE).read_text()))
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"version": __version__}
    changed = "+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    return {"version": __version__, "commit": commit + changed}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
