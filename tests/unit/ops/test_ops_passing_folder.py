"""Temporary folders that a killed process leaves are removed by the next, and never those of the living."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cait_dist.ops.passing_folder import passing_folder

PREFIX = "cait-test-"
HOLDER = f"""
import sys
from cait_dist.ops.passing_folder import passing_folder
with passing_folder("{PREFIX}") as folder:
    (folder / "object.o").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""
MANY = f"""
from cait_dist.ops.passing_folder import passing_folder
for turn in range(300):
    with passing_folder("{PREFIX}") as folder:
        (folder / "object.o").write_text(str(turn))
        assert (folder / "object.o").read_text() == str(turn)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where temporary folders are made, here and in processes started from here."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def start(code: str) -> subprocess.Popen[str]:
    """A process of its own."""
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def holding() -> tuple[subprocess.Popen[str], Path]:
    """A process in the middle of its block, and its folder."""
    process = start(HOLDER)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_nothing_stays_after_the_block_nor_after_an_error_in_it(place):
    with passing_folder(PREFIX) as folder:
        (folder / "library.so").touch()
        assert folder.parent == place
    assert not list(place.iterdir())
    with pytest.raises(RuntimeError, match="compiler"), passing_folder(PREFIX):
        raise RuntimeError("compiler")
    assert not list(place.iterdir())


def test_the_next_removes_what_the_killed_left_and_leaves_the_living_and_others_alone(place):
    others = place / "something-else"
    others.mkdir()
    killed, left = holding()
    living, used = holding()
    killed.kill()
    killed.wait()
    assert (left / "object.o").exists()
    with passing_folder(PREFIX) as folder:
        assert sorted(place.iterdir()) == sorted([folder, used, others])
        assert (used / "object.o").exists()
    living.communicate()
    assert living.returncode == 0
    assert list(place.iterdir()) == [others]


def test_what_only_has_the_name_of_a_folder_is_no_hindrance(place):
    (place / f"{PREFIX}file").touch()
    target = place / "kept"
    target.mkdir()
    (place / f"{PREFIX}link").symlink_to(target)
    with passing_folder(PREFIX) as folder:
        assert folder.is_dir()
    assert sorted(path.name for path in place.iterdir()) == [f"{PREFIX}file", f"{PREFIX}link", "kept"]


def test_processes_that_come_and_go_at_once_keep_theirs(place):
    processes = [start(MANY) for _ in range(4)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert not list(place.iterdir())
