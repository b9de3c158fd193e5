"""The end of a job where its run's disk takes nothing any more."""

from pathlib import Path

import pytest
from small_disks import Ballast, small_disk

from cait_dist.tracking.run_directory import RunDirectory
from launch.job.end import main


def test_on_a_full_disk_it_is_told_in_a_line_and_the_record_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "512k") as disk:
        run = RunDirectory(disk / "run")
        run.attempt(1).mkdir(parents=True)
        run.update_attempt(1, started="2026-01-01T00:00:00Z", resumed_from=None)
        before = run.record.read_bytes()
        for name, value in {"CAIT_RUN_DIR": run.path, "CAIT_ATTEMPT": 1, "SLURM_JOB_ID": 7}.items():
            monkeypatch.setenv(name, str(value))
        ballast = Ballast(disk)
        assert main(1) == 2
        (line,) = capsys.readouterr().out.splitlines()
        assert f"{run.path}" in line
        assert "cannot be written (No space left on device): free space there" in line
        assert "there is no checkpoint" in line
        assert run.record.read_bytes() == before
        ballast.lift()
