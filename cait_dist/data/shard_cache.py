"""A bounded cache of whole shards on a node's disk, shared by all its processes, without a process of its own.

Everything is a file in one folder, and every promise is kept by locks that the system releases when their holder dies:

==================  =====================================================================================
``lock``            whoever counts, reserves, renames or removes holds it, for milliseconds
``CHECKSUM``        a complete shard, named by its SHA-256: what has the name has the content
``CHECKSUM.part``   a shard on its way, locked by whoever fetches it; unlocked, its fetcher is dead
==================  =====================================================================================

*The bound holds at any moment.* A ``.part`` is given its full size before the first byte is asked for, as a hole in the
file, so the sizes of the files are the reservations. Under ``lock`` the sum is taken, and complete shards are removed,
the longest unused first, until the newcomer fits.

*Nothing in use is removed.* A reader opens a shard, locks it together with other readers, reads one sample and lets
go. What cannot be locked alone is in use and stays. A reader that comes too late for its shard fetches it again.

*Any process may be killed at any time.* A shard gets its name only after its checksum was found right and the disk has
it; a dead fetcher's ``.part`` is removed by the next who needs room, or taken over by the next who wants that shard.

The modification time of a shard is the time of its last use.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.files import Stopped
from data_prep.manifest import ShardInfo

from .errors import CacheError
from .held_files import hold, release

Fill = Callable[[int], None]
"""Writes a shard into the file of a descriptor and checks it."""
Stop = Callable[[], bool]

_SHARD = re.compile(r"[0-9a-f]{64}")
_POLL_SECONDS = 0.02
# A file's time is set at most this often by one process.
_TOUCH_SECONDS = 1.0


class ShardCache:
    """The cache of this user on this node. Picklable; may be used from several threads and after a fork.

    Args:
        cache_dir: folder that holds the cache; None for the system's folder for temporary files.
        bound: bytes that all files together never exceed.
    """

    def __init__(self, cache_dir: Path | None, bound: int) -> None:
        self.folder = (cache_dir or Path(tempfile.gettempdir())) / f"cait-dist-shards-{os.getuid()}"
        self.bound = bound
        self._touched: dict[str, float] = {}
        self._is_ours = False

    @contextmanager
    def opened(self, shard: ShardInfo, fill: Fill, stopped: Stop) -> Iterator[int]:
        """A complete shard, open for reading and not removed meanwhile.

        Args:
            shard: which.
            fill: writes it into an open file and checks it, if it is not there.
            stopped: asked while waiting for others.

        Raises:
            CacheError: if it can never fit, or the folder cannot be made or belongs to somebody else.
            Stopped: when ``stopped`` says so; anything that ``fill`` raises.
        """
        descriptor = self._open_present(shard)
        while descriptor is None:
            descriptor = self._fetch(shard, fill)
            if descriptor is None:
                # Somebody else is fetching it, or needs the room just now.
                _wait_a_little(stopped)
                descriptor = self._open_present(shard)
        try:
            yield descriptor
        finally:
            release(descriptor)

    def fetch_ahead(self, shard: ShardInfo, fill: Fill) -> bool:
        """Fetch a shard that will be needed, unless somebody is at it. Returns whether it is there now."""
        descriptor = self._open_present(shard)
        if descriptor is None:
            descriptor = self._fetch(shard, fill)
        if descriptor is None:
            return False
        self._mark_used(shard, descriptor)
        release(descriptor)
        return True

    def _open_present(self, shard: ShardInfo) -> int | None:
        if not self._is_ours:
            self._prepare_folder()
        path = self.folder / shard.sha256
        try:
            descriptor = hold(path, os.O_RDWR, fcntl.LOCK_SH)
        except FileNotFoundError:
            return None
        state = os.fstat(descriptor)
        if state.st_nlink and state.st_size == shard.bytes:
            if time.monotonic() - self._touched.get(shard.sha256, -_TOUCH_SECONDS) >= _TOUCH_SECONDS:
                self._mark_used(shard, descriptor)
            return descriptor
        release(descriptor)
        if state.st_nlink:
            # Cut off or written over from outside.
            with self._locked():
                _remove_unused(path)
        return None

    def _mark_used(self, shard: ShardInfo, descriptor: int) -> None:
        self._touched[shard.sha256] = time.monotonic()
        os.utime(descriptor)

    def _fetch(self, shard: ShardInfo, fill: Fill) -> int | None:
        """Fetch a shard and leave it open, or return None if that is not possible just now."""
        part = self._reserve(shard)
        if part is None:
            return None
        try:
            fill(part)
            os.fsync(part)
            with self._locked():
                self._part(shard).rename(self.folder / shard.sha256)
                fcntl.flock(part, fcntl.LOCK_SH)  # under the lock: giving up the one for the other is not atomic
        except BaseException:
            with self._locked():
                self._part(shard).unlink(missing_ok=True)
            release(part)
            raise
        return part

    def _reserve(self, shard: ShardInfo) -> int | None:
        """The open, locked file to write a shard to, with room for it; None if others are at it or need the room."""
        if shard.bytes > self.bound:
            raise CacheError(
                f"{shard.name} has {shard.bytes:,} bytes, the cache of remote shards may hold {self.bound:,}:"
                " raise data.remote.cache_gb"
            )
        self._prepare_folder()  # again, as systems clean their folders for temporary files
        path = self._part(shard)
        with self._locked():
            if (self.folder / shard.sha256).exists():
                return None
            try:
                part = hold(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if self._make_room(shard.bytes, besides=path.name):
                os.ftruncate(part, shard.bytes)
                return part
            path.unlink()
            release(part)
            return None

    def _make_room(self, size: int, besides: str) -> bool:
        """Remove shards that were not used for longest until ``size`` more bytes fit, as far as possible."""
        used, idle = 0, []
        for entry in os.scandir(self.folder):
            path, state = Path(entry.path), entry.stat(follow_symlinks=False)
            if _SHARD.fullmatch(entry.name):
                idle.append((state.st_mtime_ns, state.st_size, path))
                used += state.st_size
            elif entry.name.endswith(".part") and entry.name != besides and not _remove_unused(path):
                used += state.st_size
        for _, bytes_, path in sorted(idle):
            if used + size <= self.bound:
                break
            if _remove_unused(path):
                used -= bytes_
        return used + size <= self.bound

    def _prepare_folder(self) -> None:
        # Not when the cache is opened: what is checked on a login node needs no cache there.
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self.folder.lstat().st_uid
        except OSError as error:
            raise CacheError(f"{self.folder} cannot be made ({error.strerror}); set data.remote.cache_dir") from None
        if owner != os.getuid():
            raise CacheError(f"{self.folder} belongs to another user; set data.remote.cache_dir to another folder")
        self._is_ours = True

    def _part(self, shard: ShardInfo) -> Path:
        return self.folder / f"{shard.sha256}.part"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = hold(self.folder / "lock", os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
        try:
            yield
        finally:
            release(descriptor)


def _remove_unused(path: Path) -> bool:
    """Remove a file unless a process has it locked; the caller holds the folder's lock."""
    try:
        descriptor = hold(path, os.O_RDWR, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    path.unlink(missing_ok=True)
    release(descriptor)
    return True


def _wait_a_little(stopped: Stop) -> None:
    if stopped():
        raise Stopped
    time.sleep(_POLL_SECONDS)
