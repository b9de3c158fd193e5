"""Which code a run was made with."""

import json
import subprocess
from pathlib import Path

from cait_dist import __version__

CODE_FILE, DIFF_FILE = "code.json", "code.diff"
"""Lie beside the packages where they are a copy made for a job, which git knows nothing of."""

MAX_DIFF_BYTES = 1_000_000


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


def code_diff(root: Path | None = None) -> str | None:
    """How the code differs from its commit, as git tells it; of a large difference, the beginning.

    Args:
        root: of the code; None for the code that is running

    Returns:
        empty where nothing differs, None where that is not known
    """
    root = root or Path(__file__).resolve().parents[2]
    if (root / CODE_FILE).is_file():
        kept = root / DIFF_FILE
        return kept.read_text() if kept.is_file() else None
    command = ["git", "-C", str(root), "diff", "--no-color", "--no-ext-diff", "HEAD"]
    try:
        # A pipe, since somebody may have put a huge file under git: no more of it is read than is kept.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as git:
            assert git.stdout is not None
            found = git.stdout.read(MAX_DIFF_BYTES + 1)
            git.kill()
    except OSError:
        return None
    if len(found) > MAX_DIFF_BYTES:
        whole_lines = found[:MAX_DIFF_BYTES].rpartition(b"\n")[0].decode(errors="replace")
        return f"{whole_lines}\n# the rest is left out: more than {MAX_DIFF_BYTES:,} bytes differ\n"
    return found.decode(errors="replace") if found or _git(root, "rev-parse", "HEAD") else None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
