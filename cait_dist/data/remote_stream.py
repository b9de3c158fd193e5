"""One attempt at the bytes of a URL, which ends: with all bytes, or with the reason why not.

``http`` and ``https`` go through requests, every other protocol (``s3``, ``gs``, ``file``, …) through fsspec. Two traps
decide how:

* A server that accepts a connection and falls silent must not stop a run. requests has timeouts for it. fsspec's
  protocols have some, few or none, each in its own way; so they are read by a thread of their own, which is left to
  its fate if no block arrives in time.
* Decoding workers are forked while threads of their parent read from the network. So nothing is kept from one call to
  the next: no session, no connection. fsspec itself forgets its event loop and its file systems in a forked child.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

_BLOCK = 1 << 20
# Object stores are asked for ranges of this size, one after the other.
_FSSPEC_BLOCK = 8 << 20
_WORTH_ANOTHER_TRY = (408, 425, 429)


class AttemptError(Exception):
    """Why an attempt failed.

    Attributes:
        final: whether the answer will hardly be another the next time: not there, not allowed.
    """

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def is_http(url: str) -> bool:
    """Whether a URL is one of a web server."""
    return url.lower().startswith(("http://", "https://"))


def stream(url: str, timeout: float) -> Iterator[bytes]:
    """The content of a URL, block by block.

    Args:
        url: where.
        timeout: seconds without a connection, an answer or a byte after which the attempt ends.

    Raises:
        AttemptError: saying why there is no more to come; blocks that came before are the beginning of the content.
    """
    return _stream_http(url, timeout) if is_http(url) else _stream_fsspec(url, timeout)


def _stream_http(url: str, timeout: float) -> Iterator[bytes]:
    import requests  # noqa: PLC0415 - most runs read local data

    # The bytes as they are stored: a packed answer could not be held against a size.
    header = {"Accept-Encoding": "identity"}
    try:
        with requests.get(url, stream=True, timeout=timeout, headers=header) as answer:
            code = answer.status_code
            if code != 200:
                final = 300 <= code < 500 and code not in _WORTH_ANOTHER_TRY
                raise AttemptError(f"the server answers {code} {answer.reason or ''}".rstrip(), final=final)
            yield from answer.iter_content(_BLOCK)
    except requests.RequestException as error:
        # Those that are ValueErrors besides speak of the URL itself.
        raise AttemptError(_reason(error, timeout), final=isinstance(error, ValueError)) from None


def _stream_fsspec(url: str, timeout: float) -> Iterator[bytes]:
    blocks: queue.Queue[bytes | Exception] = queue.Queue(maxsize=2)
    abandoned = threading.Event()
    threading.Thread(target=_read_into, args=(blocks, abandoned, url), daemon=True).start()
    try:
        while True:
            item = blocks.get(timeout=timeout)
            if isinstance(item, Exception):
                final = isinstance(item, (FileNotFoundError, PermissionError, IsADirectoryError))
                raise AttemptError(_reason(item, timeout), final=final)
            if not item:
                return
            yield item
    except queue.Empty:
        raise AttemptError(f"no data for {timeout:g} seconds") from None
    finally:
        abandoned.set()


def _read_into(blocks: queue.Queue[bytes | Exception], abandoned: threading.Event, url: str) -> None:
    """Read a URL to its end, which is an empty block or an error, unless nobody wants it any more."""

    def give(item: bytes | Exception) -> None:
        while not abandoned.is_set():
            with contextlib.suppress(queue.Full):
                blocks.put(item, timeout=1)
                return

    try:
        import fsspec  # noqa: PLC0415

        system, path = fsspec.core.url_to_fs(url)
        with system.open(path, "rb", block_size=_FSSPEC_BLOCK) as file:
            while (block := file.read(_FSSPEC_BLOCK)) and not abandoned.is_set():
                give(block)
        give(b"")
    except Exception as error:  # each protocol has errors of its own
        give(error)


def _reason(error: BaseException, timeout: float) -> str:
    """An error of the network in a few words; libraries wrap the one that matters in several others."""
    if "timed out" in str(error).lower() or isinstance(error, TimeoutError):
        return f"no data for {timeout:g} seconds"
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__ or _wrapped(inner)
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _wrapped(error: BaseException) -> BaseException | None:
    """What urllib3 keeps elsewhere than Python does."""
    candidates = (getattr(error, "reason", None), *error.args)
    return next((inner for inner in candidates if isinstance(inner, BaseException)), None)
