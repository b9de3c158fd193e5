"""One live process per run directory, and records that are never half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cait_dist.tracking.run_directory import RunDirectory, RunDirectoryError, read_json, write_json

HOLDER = """
import sys, time
from pathlib import Path
from cait_dist.tracking.run_directory import RunDirectory
RunDirectory(Path(sys.argv[1])).lock()
print("held", flush=True)
time.sleep(60)
"""


def test_a_directory_in_use_is_refused_naming_the_holder_and_free_again_after_its_death(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunDirectoryError, match=rf"in use by process {holder.pid} on .*name="):
        run.lock()
    assert run.is_live()
    holder.kill()
    holder.wait()
    assert not run.is_live()
    run.lock()


def test_a_folder_without_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        RunDirectory.existing(tmp_path)


def test_facts_of_an_attempt_add_up(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.update_attempt(1, started="a")
    run.update_attempt(2, started="b")
    run.update_attempt(1, outcome="failed")
    assert run.read_record()["attempts"] == [
        {"number": 1, "started": "a", "outcome": "failed"},
        {"number": 2, "started": "b"},
    ]


def test_a_record_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert read_json(tmp_path / "absent.json") is None
