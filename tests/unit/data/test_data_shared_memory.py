"""Decoding workers in a /dev/shm that is too small: said before they start, and said when it happens."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import ROOT

from cait_dist.data import shared_memory
from cait_dist.data.shared_memory import (
    SharedMemoryError,
    check_shared_memory,
    evaluation_bytes,
    is_full,
    training_bytes,
)

PROGRAM = Path(__file__).with_name("shared_memory_program.py")
MOUNTED = f'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec {sys.executable} {PROGRAM} "$@"'


@pytest.fixture(scope="module")
def found(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What happened in a /dev/shm of the test's own."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a /dev/shm of its own takes the right to mount one (unshare --mount)")
    out = tmp_path_factory.mktemp("shm") / "out.json"
    command = ["unshare", "--mount", "bash", "-c", MOUNTED, "bash", str(shards), str(out)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, str] = json.loads(out.read_text())
    return result


def test_what_is_asked_for_is_enough_and_a_batch_less_is_not(found: dict[str, str]) -> None:
    assert found["enough"] == "well: 40"
    assert found["enough is checked"] == "well: None"
    assert found["one batch too little"].startswith("SharedMemoryError: /dev/shm is full")


def test_a_worker_that_finds_no_room_says_so_and_what_to_do(found: dict[str, str]) -> None:
    for case in ("one batch too little", "evaluation", "killed", "none"):
        assert found[case].startswith("SharedMemoryError: /dev/shm is full"), (case, found[case])
        assert "MB are free now: take fewer data.workers, a smaller data.prefetch" in found[case]
        assert "--shm-size" in found[case]
        assert "\n" not in found[case]


def test_no_batch_is_waited_for_in_vain(found: dict[str, str]) -> None:
    cases = [text for case, text in found.items() if case.startswith("images and")]
    assert len(cases) == 7
    assert all(text.startswith("SharedMemoryError: /dev/shm is full") for text in cases), cases


def test_too_little_is_refused_with_the_numbers_before_anything_starts(found: dict[str, str]) -> None:
    line = found["two ranks"]
    assert line.startswith("SharedMemoryError: /dev/shm of here is too small: ")
    assert "the decoding workers of 2 ranks need 2.0 MB each, 3.9 MB in all" in line
    assert "--shm-size" in line


def test_the_need_grows_with_workers_prefetch_and_batch_and_is_none_without_workers() -> None:
    assert training_bytes(4, 4, 64, 224) == 4 * 6 * 64 * 3 * 224 * 224
    assert training_bytes(0, 4, 64, 224) == evaluation_bytes(0, 64, 1000, 224) == 0
    assert evaluation_bytes(4, 64, 1000, 224) == 5 * 64 * 3 * 224 * 224
    assert evaluation_bytes(4, 64, 70, 224) == 2 * 64 * 3 * 224 * 224, "there are only two batches"


def test_exactly_enough_is_enough_and_where_there_is_no_such_memory_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 1000)
    check_shared_memory(4, 250, "n1")
    with pytest.raises(SharedMemoryError, match="of n1 is too small"):
        check_shared_memory(4, 251, "n1")
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: None)
    check_shared_memory(4, 10**15, "n1")


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", True),
        ("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)", True),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", False),
        ("[Errno 28] No space left on device: 'cache/train-000001.tar'", False),
    ],
)
def test_only_what_is_said_of_shared_memory_is_told_as_such(text: str, full: bool) -> None:
    assert is_full(text) == full
