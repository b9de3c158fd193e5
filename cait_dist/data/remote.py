"""Files below a URL, fetched with patience but not for ever.

What comes over a network may come late, in part, damaged, or not at all. Each attempt ends (see `remote_stream`), each
file is held against the size and checksum that its manifest states, and whatever is wrong is tried again after a wait
that doubles; waits are drawn at random from around it, since a thousand ranks that lost their server together must not
come back together. When the attempts are used up, the error says where, how often, why, and what to do. A file that is
not there, or may not be read, is never skipped; asking again is tried once, as answers of that kind are seldom wrong.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from data_prep.files import Stopped
from data_prep.manifest import ShardInfo

from .errors import CacheError, DataError, RemoteError
from .remote_stream import AttemptError, is_http, stream

Stop = Callable[[], bool]
_T = TypeVar("_T")

FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
# Its numbers decide nothing about the training, and must not shift those that do.
_random = random.SystemRandom()


@dataclass(frozen=True)
class RemoteFolder:
    """A folder somewhere else. Holds no connection, so it may be used in any process and thread.

    Attributes:
        url: of the folder, without a slash at the end.
        retries: attempts after the first.
        timeout: seconds without a byte that end an attempt.
    """

    url: str
    retries: int
    timeout: float

    def place(self, name: str) -> str:
        """The URL of one file; names in a web server's URLs are quoted."""
        return f"{self.url}/{quote(name) if is_http(self.url) else name}"

    def read_file(self, name: str, most: int) -> bytes:
        """The content of a file that may not have more than ``most`` bytes.

        Raises:
            RemoteError: when it cannot be had.
        """

        def attempt() -> bytes:
            content = bytearray()
            for block in stream(self.place(name), self.timeout):
                content += block
                if len(content) > most:
                    raise AttemptError(f"has more than the {most:,} bytes that such a file can need", final=True)
            return bytes(content)

        return self._persist(name, attempt, stopped=lambda: False)

    def download(self, shard: ShardInfo, descriptor: int, stopped: Stop) -> None:
        """Write a shard into an open file, and see that it is the one of the manifest.

        Raises:
            RemoteError: when it cannot be had.
            Stopped: when ``stopped``, asked now and then, says so.
        """
        self._persist(shard.name, lambda: self._download_once(shard, descriptor, stopped), stopped)

    def _download_once(self, shard: ShardInfo, descriptor: int, stopped: Stop) -> None:
        checksum, size = hashlib.sha256(), 0
        for block in stream(self.place(shard.name), self.timeout):
            if stopped():
                raise Stopped
            if size + len(block) > shard.bytes:
                raise AttemptError(f"has more than the {shard.bytes:,} bytes of the manifest")
            _write(descriptor, block, size)
            checksum.update(block)
            size += len(block)
        if size < shard.bytes:
            raise AttemptError(f"ended after {size:,} of {shard.bytes:,} bytes")
        if checksum.hexdigest() != shard.sha256:
            raise AttemptError("does not have the checksum that the manifest states")

    def _persist(self, name: str, attempt: Callable[[], _T], stopped: Stop) -> _T:
        for number in range(1, self.retries + 2):
            try:
                return attempt()
            except AttemptError as error:
                if number > self.retries or (error.final and number >= 2):
                    raise RemoteError(self._farewell(name, number, error)) from None
            _pause(min(FIRST_WAIT * 2 ** (number - 1), LONGEST_WAIT) * _random.uniform(0.5, 1.5), stopped)
        raise AssertionError("the last attempt returns or raises")

    def _farewell(self, name: str, attempts: int, error: AttemptError) -> str:
        remedy = (
            "see that data.path is right, that this machine may read it, and that the whole folder written by"
            " `cait prep` is there"
            if error.final
            else "mend the server or the network, or raise data.remote.retries or data.remote.timeout"
        )
        count = f"{attempts} attempt{'s' if attempts > 1 else ''}"
        return f"{self.place(name)}: gave up after {count}, the last because: {error}; {remedy}"


def _write(descriptor: int, block: bytes, offset: int) -> None:
    try:
        rest = memoryview(block)
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
    except OSError as error:
        raise CacheError(
            f"the cache of remote shards cannot be written ({error.strerror}): make room, lower data.remote.cache_gb,"
            " or set data.remote.cache_dir to another disk"
        ) from None


def _pause(seconds: float, stopped: Stop) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stopped():
            raise Stopped
        time.sleep(min(left, 0.1))


def remote_folder(url: str, retries: int, timeout: float) -> RemoteFolder:
    """A folder by its URL.

    Raises:
        DataError: for a protocol that nothing installed here can read.
    """
    protocol = url.partition("://")[0]
    if not is_http(url):
        import fsspec  # noqa: PLC0415

        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            extra = "; pip install 'cait-dist[s3]'" if protocol in ("s3", "s3a") else ""
            raise DataError(f"{url}: {protocol}:// needs another package ({error}{extra})") from None
        except ValueError:
            raise DataError(f"{url}: fsspec knows no protocol {protocol!r}; use http, https, s3, file, …") from None
    return RemoteFolder(url.rstrip("/"), retries, timeout)
