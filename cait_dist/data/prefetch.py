"""Fetch shards before they are needed.

The sample order is arithmetic, so what the stream will read is known in advance. In the order ``block`` it reads one
window of shards at a time: while one is used, a thread in the rank's own process fetches the next. It goes by the
position of the batches that training has received; workers, which are ahead of that by their prefetch, find the shards
of the window they work on already there, and fetch themselves what is not. In the order ``full`` any shard may be next,
so all are fetched as soon as possible.

The ranks of a node share the work without talking: who finds a shard being fetched goes on to the next.

A failure here stops nothing. The server may have recovered by the time the shard is needed; if not, whoever reads it
says so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from data_prep.files import Stopped

from .batches import Reader
from .errors import DataError
from .order import SampleOrder
from .remote import Stop

_POLL_SECONDS = 0.05
_AFTER_FAILURE_SECONDS = 5.0
# A thread that waits for a silent server is not waited for; it holds nothing that its end would not release.
_CLOSE_SECONDS = 1.0

_logger = logging.getLogger(__name__)


class ShardPrefetch:
    """A thread that fetches ahead of a position until it is closed.

    Args:
        fetch: fetches a shard if it can at once, asking the second argument whether to stop; whether it is there.
        wanted: from a position to the shards read from there on, the next first.
        position: where the stream begins.
    """

    def __init__(self, fetch: Callable[[int, Stop], bool], wanted: Callable[[int], list[int]], position: int) -> None:
        self._fetch, self._wanted, self._position = fetch, wanted, position
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shard-prefetch", daemon=True)
        self._thread.start()

    def move_to(self, position: int) -> None:
        """Training has received everything before ``position``."""
        self._position = position

    def close(self) -> None:
        """Stop; harmless if done twice."""
        self._closed.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        done: list[int] = []
        while not self._closed.wait(_POLL_SECONDS):
            wanted = self._wanted(self._position)
            if wanted != done and self._fetch_all(wanted):
                done = wanted

    def _fetch_all(self, wanted: list[int]) -> bool:
        """Fetch shards for as long as they are the ones to fetch; whether all are there."""
        all_there = True
        for shard in wanted:
            if self._closed.is_set() or self._wanted(self._position) != wanted:
                return False
            try:
                all_there &= self._fetch(shard, self._closed.is_set)
            except Stopped:
                return False
            except (DataError, OSError) as error:
                _logger.warning("fetching ahead: %s", error)
                self._closed.wait(_AFTER_FAILURE_SECONDS)
                return False
        return all_there


def start_prefetch(reader: Reader, order: SampleOrder, position: int) -> ShardPrefetch | None:
    """Fetch ahead of a position, if the reader's shards have to be fetched at all."""
    fetch: Callable[[int, Stop], bool] | None = getattr(reader, "fetch_ahead", None)
    if fetch is None:
        return None
    every_shard = list(range(len(getattr(reader, "shard_sizes", ()))))
    return ShardPrefetch(fetch, order.shards_from if order.mode == "block" else lambda _: every_shard, position)
