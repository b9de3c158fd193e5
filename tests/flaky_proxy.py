"""A TCP proxy before a real server, whose mood a test changes while somebody talks through it."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MOODS = ("good", "closed", "silent", "drip", "foreign", "broken", "deaf")
_500 = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class FlakyProxy:
    """Listens on a port of its own.

    Attributes:
        mood: good; closed: connections are refused; silent: they are taken, and never answered; drip: answers come a
            byte a second; foreign: the server is called by a name that it refuses; broken: each request gets status
            500; deaf: requests reach the server, its answers are lost
        requests: that arrived, whatever became of them
        refused: of those, how many came in another mood than good
    """

    def __init__(self, target: int, mood: str = "good") -> None:
        self.target, self.mood = target, mood
        self.requests = self.refused = 0
        self._open: set[socket.socket] = set()
        self._guard, self._ended = threading.Lock(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._listening = True
        if mood == "closed":
            self._stop_listening()
        else:
            self._start_accepting()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def become(self, mood: str) -> None:
        """Change the mood: at once for what is sent next; connections that were silent stay so."""
        assert mood in MOODS
        before, self.mood = self.mood, mood
        if mood == "closed":
            self._stop_listening()
            self._hang_up()
        elif before == "closed":
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listening = True
            self._start_accepting()
        elif before == "drip":
            self._hang_up()

    def close(self) -> None:
        self._ended.set()
        if self._listening:
            self._stop_listening()
        self._hang_up()

    def _stop_listening(self) -> None:
        self._listening = False
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _hang_up(self) -> None:
        with self._guard:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _start_accepting(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            with self._guard:
                self._open |= {client, server}
            try:
                back = threading.Thread(target=self._pump, args=(server, client, True), daemon=True)
                back.start()
                self._pump(client, server, False)
                back.join()
            finally:
                with self._guard:
                    self._open -= {client, server}

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not is_answer and re.match(rb"(GET|POST|PUT|PATCH|DELETE) ", data):
                    self.requests += 1
                    self.refused += self.mood != "good"
                if not self._pass_on(data, source, sink, is_answer):
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, data: bytes, source: socket.socket, sink: socket.socket, is_answer: bool) -> bool:
        """Do with these bytes what the mood says; returns whether the connection goes on."""
        mood = self.mood
        if mood == "silent":
            self._ended.wait()
        elif mood == "broken" and not is_answer:
            time.sleep(0.05)  # a request's body may come by itself
            source.sendall(_500)
        elif mood == "drip" and is_answer:
            for byte in data:
                sink.sendall(bytes([byte]))
                if self._ended.wait(1):
                    return False
        elif not (mood == "deaf" and is_answer):
            if mood == "foreign":
                data = re.sub(rb"\r\nHost: [^\r]*", b"\r\nHost: tracker.invalid:80", data)
            sink.sendall(data)
        return mood not in ("silent", "broken") and not (mood == "deaf" and is_answer)


@contextmanager
def flaky(target: int, mood: str = "good") -> Iterator[FlakyProxy]:
    """A proxy to a port of this machine."""
    proxy = FlakyProxy(target, mood)
    try:
        yield proxy
    finally:
        proxy.close()
