"""What is installed is what is here: files that are no Python are left behind unless they are named."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("cait_dist", "data_prep", "launch", "slurm")


tomllib = pytest.importorskip("tomllib", reason="this Python, older than 3.11, reads no TOML")


def test_every_file_beside_the_code_is_installed_with_it() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    installed = {
        file
        for package, patterns in named.items()
        for pattern in patterns
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    listed = subprocess.run(
        ["git", "ls-files", "--", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    files = {ROOT / name for name in listed if not name.endswith((".py", ".md", ".pyi"))}
    assert files
    assert sorted(files - installed) == []
