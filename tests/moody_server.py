"""A web server on this machine that serves a folder badly: it refuses, hangs up, stalls, cuts or garbles, at random."""

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

MOODS = ("refuse", "reset", "stall", "cut", "garble")


class MoodyServer(ThreadingHTTPServer):
    """Serves ``folder``.

    Attributes:
        trouble: share of requests that go wrong
        moods: the ways in which they do
        answered: requests by path
        seen: requests by what was done to them
    """

    daemon_threads = True

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.trouble, self.moods = folder, 0.0, MOODS
        self.answered, self.seen = Counter[str](), Counter[str]()
        self.released = threading.Event()
        self._random, self._guard = random.Random(seed), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def mood_for(self, path: str) -> str:
        with self._guard:
            mood = self._random.choice(self.moods) if self._random.random() < self.trouble else "good"
            self.answered[path] += 1
            self.seen[mood] += 1
            return mood

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the test."""


class _Handler(BaseHTTPRequestHandler):
    server: MoodyServer

    def do_GET(self) -> None:
        mood = self.server.mood_for(self.path)
        path = self.server.folder / unquote(self.path).lstrip("/")
        if mood == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif mood == "refuse":
            self.send_error(503)
        elif not path.is_file():
            self.send_error(404)
        else:
            self._send(mood, path.read_bytes())

    def _send(self, mood: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        if mood == "garble":
            content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        self.wfile.write(content[:half])
        if mood == "stall":
            self.wfile.flush()
            self.server.released.wait(60)
        if mood in ("stall", "cut"):
            self.close_connection = True
            return
        self.wfile.write(content[half:])

    def log_message(self, *_: object) -> None:
        """Silence."""


@contextmanager
def serving(folder: Path, seed: int = 0) -> Iterator[MoodyServer]:
    """Such a server, in a thread, in good mood at first."""
    with MoodyServer(folder, seed) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
