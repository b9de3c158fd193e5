"""Where the shards of a split lie: in a folder, or somewhere else and in the node's cache.

`WebDatasetReader` knows which bytes of which shard make a sample; these classes know how to come by them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from cait_dist.config.data import RemoteConfig
from data_prep.manifest import (
    MANIFEST_FILE,
    SOURCES_FILE,
    Manifest,
    ManifestError,
    ShardInfo,
    load_manifest,
    parse_manifest_files,
    parse_source_names,
    read_source_names,
)

from .errors import DataError
from .index_webdataset import find_tars, index_tars
from .remote import RemoteFolder, Stop, remote_folder
from .shard_cache import ShardCache

# Opening a file costs a round trip on a network file system, so as many stay open as leaves room for everything else.
_SOFT_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
MAX_OPEN_FILES = 2048 if _SOFT_LIMIT == resource.RLIM_INFINITY else min(max(_SOFT_LIMIT // 4, 16), 2048)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_SOURCES_BYTES = 1 << 30
_MORE_COPIES = 4
_T = TypeVar("_T")


class ShardFiles(Protocol):
    """The shards of one split.

    Attributes:
        place: of the split, for messages.
        manifest: what lies there.
    """

    place: str
    manifest: Manifest

    def read_at(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a shard; fewer, if it ends before."""

    def source_names(self) -> list[str]:
        """The names under which the samples were found, in the order of ids."""

    @property
    def fetch_ahead(self) -> Callable[[int, Stop], bool] | None:
        """Fetches a shard that will be needed, if it can at once, and says whether it is there; None: all are."""

    def close(self) -> None:
        """Close the open files; they are opened again when needed."""


class LocalShards:
    """Shards in a folder. Files stay open, so that a sample costs one ``pread``."""

    def __init__(self, folder: Path, *, check_shards: bool = True) -> None:
        self.place, self._folder = str(folder), folder
        self.fetch_ahead = None
        self._index_dir = folder
        if not (folder / MANIFEST_FILE).exists() and find_tars(folder):
            self._index_dir = index_tars(folder)
        self.manifest = load_manifest(self._index_dir, folder, check_shards=check_shards)
        self._forget_files()

    def read_at(self, shard: int, offset: int, size: int) -> bytes:
        """See `ShardFiles`."""
        if self._pid != os.getpid():
            # After a fork: the lock may be held by a thread that does not exist here.
            self._forget_files()
        with self._lock:
            handle = self._files.pop(shard, None)
            if handle is None:
                handle = os.open(self._folder / self.manifest.shards[shard].name, os.O_RDONLY | os.O_CLOEXEC)
            self._files[shard] = handle
            if len(self._files) > MAX_OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            return os.pread(handle, size, offset)

    def source_names(self) -> list[str]:
        """See `ShardFiles`."""
        return read_source_names(self._index_dir)

    def _forget_files(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._files: OrderedDict[int, int] = OrderedDict()

    def close(self) -> None:
        """See `ShardFiles`."""
        if self._pid == os.getpid():
            with self._lock:
                while self._files:
                    os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_files", "_pid")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget_files()


class CachedShards:
    """Shards beyond a URL, of which the node's cache holds those in use. Picklable, and safe after a fork."""

    def __init__(self, folder: RemoteFolder, cache: ShardCache) -> None:
        self.place, self._folder, self._cache = folder.url, folder, cache
        self.manifest = self._despite_damage(lambda: parse_manifest_files(folder.read_file, folder.place))
        for shard in self.manifest.shards:
            if not _SHA256.fullmatch(shard.sha256):
                raise DataError(
                    f"{folder.place(MANIFEST_FILE)} has no checksum for {shard.name}: remote data must come from"
                    " `cait prep`"
                )

    def read_at(self, shard: int, offset: int, size: int) -> bytes:
        """See `ShardFiles`."""
        info = self.manifest.shards[shard]
        with self._cache.opened(info, self._fill(info, _orphaned), _orphaned) as descriptor:
            return os.pread(descriptor, size, offset)

    def source_names(self) -> list[str]:
        """See `ShardFiles`."""
        place = self._folder.place(SOURCES_FILE)
        return self._despite_damage(
            lambda: parse_source_names(self._folder.read_file(SOURCES_FILE, _MAX_SOURCES_BYTES), place)
        )

    def fetch_ahead(self, shard: int, stopped: Stop) -> bool:
        """See `ShardFiles`."""
        info = self.manifest.shards[shard]
        return self._cache.fetch_ahead(info, self._fill(info, stopped))

    def _despite_damage(self, read: Callable[[], _T]) -> _T:
        """These files have no checksum from outside, so what looks damaged may have become so on its way."""
        for _ in range(min(self._folder.retries, _MORE_COPIES)):
            with contextlib.suppress(ManifestError):
                return read()
        return read()

    def _fill(self, shard: ShardInfo, stopped: Stop) -> Callable[[int], None]:
        return lambda descriptor: self._folder.download(shard, descriptor, stopped)

    def close(self) -> None:
        """See `ShardFiles`; nothing is kept open."""


def _orphaned() -> bool:
    """Whether this is a decoding worker that nobody waits for any more."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def remote_shards(url: str, remote: RemoteConfig) -> CachedShards:
    """The shards of a split beyond a URL.

    Raises:
        DataError: if the manifest cannot be had, or the cache cannot be kept.
        ManifestError: if the manifest is damaged.
    """
    cache = ShardCache(remote.cache_dir, int(remote.cache_gb * 1e9))
    return CachedShards(remote_folder(url, remote.retries, remote.timeout), cache)
