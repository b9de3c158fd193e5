"""What tests of submissions share."""

from pathlib import Path

import pytest


@pytest.fixture
def _srun_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for `srun`: submitit looks for one before it writes a script. It is not called."""
    stand_in = tmp_path / "bin" / "srun"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\nexit 1\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:/usr/bin:/bin")
