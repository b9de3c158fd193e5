"""Is the run directory one and the same on all nodes?

A path that exists everywhere proves nothing: every node has a /tmp. So rank 0 writes a file whose name nobody could
know, everyone must read it, and the first rank of every node writes one that rank 0 must see. Network file systems
show new files late, hence the patience.
"""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from cait_dist.training.ranks.process_group import World

from .report import FolderReport

PATIENCE_SECONDS = 5.0
POLL_SECONDS = 0.05


def try_folder(world: World, folder: Path, leaders: Sequence[int]) -> FolderReport:
    """Write and read on all nodes; leaves nothing behind. Collective."""
    word = _agree_on_word(world)
    mine = _file(folder, word, world.rank)
    error = _write(mine, word) if world.rank in leaders else None
    world.barrier()
    wanted = [rank for rank in leaders if rank != 0] if world.is_main else [0]
    missing, trouble = _wait_for({rank: _file(folder, word, rank) for rank in wanted}, word)
    world.barrier()
    _remove(mine)
    return FolderReport(
        sees_main=0 not in missing,
        unseen=tuple(missing) if world.is_main else (),
        error=error or trouble,
    )


def _agree_on_word(world: World) -> str:
    words = [uuid.uuid4().hex]
    dist.broadcast_object_list(words, src=0, group=world.control)
    return words[0]


def _file(folder: Path, word: str, rank: int) -> Path:
    return folder / f".check-{word}-{rank}"


def _write(file: Path, word: str) -> str | None:
    try:
        file.write_text(word)
    except OSError as error:
        return f"cannot write there ({error.strerror})"
    return None


def _wait_for(files: dict[int, Path], word: str) -> tuple[list[int], str | None]:
    """Which files did not come, and the last reason other than that they are not there."""
    deadline, trouble = time.monotonic() + PATIENCE_SECONDS, None
    missing = list(files)
    while True:
        for rank in list(missing):
            try:
                if files[rank].read_text() == word:
                    missing.remove(rank)
            except FileNotFoundError:
                continue
            except OSError as error:
                trouble = f"cannot read there ({error.strerror})"
        if not missing or time.monotonic() > deadline:
            return missing, trouble if missing else None
        time.sleep(POLL_SECONDS)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:
        return  # a folder that cannot be written has been reported already
