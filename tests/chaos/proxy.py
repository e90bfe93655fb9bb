"""A proxy in front of S3, on 127.0.0.1: it passes bytes on, delays each answer, or refuses every request with 403.

A thread per connection. Within a connection, client and store speak in turn, so the first bytes from the client after
an answer begin a request, and the first ones from the store after a request begin an answer.
"""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import threading
import time
from enum import Enum, auto
from types import TracebackType
from typing import Self

_CHUNK = 65_536
_CONNECT_S = _SEND_S = 10.0
_LOOK_EVERY_S = 0.5
SLOW_S = (0.5, 3.0)

_REQUEST = re.compile(rb"(GET|PUT|HEAD|POST|DELETE) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
_DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>'
)


class Mood(Enum):
    """What the proxy does with requests."""

    PASS = auto()
    SLOW = auto()
    REFUSE = auto()


class S3Proxy:
    """Listens on a free port while its context is open; `mood` may be set at any time and counts from then on."""

    def __init__(self, store_port: int, seed: int = 1, slow_s: tuple[float, float] = SLOW_S) -> None:
        self.mood = Mood.PASS
        self.delayed = 0
        self.refused = 0
        self._store_port = store_port
        self._slow_s = slow_s
        self._rng = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.settimeout(_LOOK_EVERY_S)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="s3-proxy", daemon=True)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(10)
        self._listener.close()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="s3-proxied", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # A store that is down, and peers that are gone, end the connection as they would without a proxy.
        with client, contextlib.suppress(OSError):
            client.settimeout(_SEND_S)
            with socket.create_connection(("127.0.0.1", self._store_port), _CONNECT_S) as store:
                store.settimeout(_SEND_S)
                self._relay(client, store)

    def _relay(self, client: socket.socket, store: socket.socket) -> None:
        asking = False
        while not self._stopping.is_set():
            readable, _, _ = select.select([client, store], [], [], _LOOK_EVERY_S)
            for source in readable:
                data = source.recv(_CHUNK)
                if not data:
                    return
                if source is client:
                    if not asking and self.mood is Mood.REFUSE and _REQUEST.match(data):
                        self._refuse(client, data)
                        return
                    asking = True
                    store.sendall(data)
                else:
                    if asking and self.mood is Mood.SLOW:
                        self.delayed += 1
                        time.sleep(self._rng.uniform(*self._slow_s))
                    asking = False
                    client.sendall(data)

    def _refuse(self, client: socket.socket, data: bytes) -> None:
        """Read the request to its end, so that the client reads the answer; then close the connection."""
        while b"\r\n\r\n" not in data:
            data += client.recv(_CHUNK) or b"\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        missing = 0 if _EXPECT.search(head) or not length else int(length[1]) - len(body)
        while missing > 0:
            more = client.recv(_CHUNK)
            if not more:
                return
            missing -= len(more)
        self.refused += 1
        text = b"" if head.startswith(b"HEAD") else _DENIED
        client.sendall(
            b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(_DENIED), text)
        )
