"""A wrong byte anywhere in a checkpoint is noticed, and the one before is used; so is all that can be missing.

The checkpoints are those of a real run of two ranks. What is damaged is put back after each case.
"""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from training_command import train

from cait_dist.training.ranks.process_group import World
from cait_dist.training.saving.checkpoint import agree_on_checkpoint
from cait_dist.training.saving.checkpoint_files import Checkpoint, list_checkpoints

pytestmark = pytest.mark.slow

RANKS = ("rank-00000.safetensors", "rank-00001.safetensors")
KINDS = ("master", "exp_avg", "exp_avg_sq", "ema")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A group of this process alone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    store = dist.TCPStore("127.0.0.1", port, 1, is_master=True, timeout=timedelta(seconds=20))
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield World(0, 1, 0, torch.device("cpu"), dist.group.WORLD)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def run_of_two(shared_config: Path) -> list[Checkpoint]:
    """The last two checkpoints of a short run of two ranks."""
    run = train(shared_config, "--processes", "2", "training.epochs=0.05", "evaluation.sets=[]",
                "training.checkpoint.every_steps=2", name="to-damage")  # fmt: skip
    found = list_checkpoints(run.checkpoints)[-2:]
    assert [checkpoint.damage() for checkpoint in found] == [None, None]
    assert set(found[-1].state["files"]) == set(RANKS)
    return found


def positions_in_tensors(path: Path) -> dict[str, int]:
    """A place in everything that a safetensors file has: its length, parts of the header, each kind's data."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, data = raw[8 : 8 + size], 8 + size
    found = {f"length, byte {byte}": byte for byte in range(8)}
    for word in (b'{"', b"dtype", b"F32", b"shape", b"[", b"data_offsets", b"master/", b"@", b"}}"):
        found[f"header at {word.decode()}"] = 8 + header.index(word)
    found["header's last byte"] = data - 1
    content = json.loads(header)
    for kind in KINDS:
        first, last = next(entry["data_offsets"] for key, entry in content.items() if key.startswith(f"{kind}/"))
        for place, byte in (("first", first), ("middle", (first + last) // 2), ("last", last - 1)):
            found[f"{place} byte of {kind}"] = data + byte
    found["last byte of the file"] = len(raw) - 1
    return found


def positions_in_state(path: Path) -> dict[str, int]:
    text = path.read_bytes()
    words = (b"{", b"format", b" 1", b"\n", b" ", b"step", b"shapes", b"files", b"sha256", b"bytes", b"rank-00001")
    found = {f"state at {word.decode()!r}": text.index(word) for word in words}
    return found | {f"value of {key}": text.index(b": ", text.index(key)) + 2 for key in (b"step", b"sha256", b"bytes")}


def flipped(path: Path, position: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def all_flips(place: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    for name in RANKS:
        for what, position in positions_in_tensors(place / name).items():
            for bit in (0, 7):
                yield f"{name}: {what}, bit {bit}", lambda p=place / name, at=position, b=bit: flipped(p, at, b)
    for what, position in positions_in_state(place / "state.json").items():
        yield f"state.json: {what}", lambda at=position: flipped(place / "state.json", at)
    for position in range((place / "COMPLETE").stat().st_size):
        yield f"COMPLETE: byte {position}", lambda at=position: flipped(place / "COMPLETE", at)


def all_other_damage(place: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    for name in (*RANKS, "state.json", "COMPLETE"):
        path = place / name
        size = path.stat().st_size
        for left in (0, 1, size // 2, size - 1):
            yield f"{name}: cut to {left} bytes", lambda p=path, n=left: os.truncate(p, n)
        yield f"{name}: a byte more", lambda p=path: p.write_bytes(p.read_bytes() + b"\0")
        yield f"{name}: removed", lambda p=path: p.unlink()
        for what, make in (("a folder", Path.mkdir), ("a pipe", os.mkfifo), ("empty", Path.touch)):
            yield f"{name}: {what}", lambda p=path, m=make: (p.unlink(), m(p))
        elsewhere = place.parent / f"{name}.elsewhere"
        yield f"{name}: a link to its content", lambda p=path, e=elsewhere: p.symlink_to(p.rename(e))
        yield f"{name}: a link to nothing", lambda p=path: (p.unlink(), p.symlink_to("nowhere"))
        yield f"{name}: a link to itself", lambda p=path: (p.unlink(), p.symlink_to(p.name))
    for name in ("rank-00002.safetensors", "notes.txt"):
        yield f"a file {name} more", lambda p=place / name: p.write_bytes(b"who put this here?")
    yield "a folder more", (place / "more").mkdir


@pytest.mark.timeout(240, method="thread")  # the alarm is used here
def test_every_kind_of_damage_is_noticed_and_the_checkpoint_before_is_used(
    run_of_two: list[Checkpoint], world: World, tmp_path: Path
) -> None:
    older, newest = run_of_two
    folder, place, kept = newest.path.parent, newest.path, tmp_path / "kept"
    shutil.copytree(place, kept)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"waits for ever: {what}"))
    cases = [*all_flips(place), *all_other_damage(place)]
    assert len(cases) > 200
    what = ""
    for what, damage in cases:
        damage()
        signal.alarm(10)
        told: list[str] = []
        chosen = agree_on_checkpoint(list_checkpoints(folder), world, told.append)
        signal.alarm(0)
        assert chosen is not None, what
        assert chosen.path == older.path, what
        assert len(told) == 1, what
        assert f"checkpoint {place.name} is damaged: " in told[0], what
        assert told[0].endswith("; trying the one before it"), what
        shutil.rmtree(place)
        shutil.copytree(kept, place)
    untouched = agree_on_checkpoint(list_checkpoints(folder), world, pytest.fail)
    assert untouched is not None
    assert untouched.path == place


def test_what_network_file_systems_leave_is_no_damage(run_of_two: list[Checkpoint]) -> None:
    left = run_of_two[0].path / ".nfs000000000123"
    left.write_bytes(b"removed while somebody read it")
    assert run_of_two[0].damage() is None
    left.unlink()
