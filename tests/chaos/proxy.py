"""A proxy in front of S3 that passes bytes on, delays each answer, or refuses every request with 403."""

from __future__ import annotations

import random
import re
import socket
import time
from enum import Enum, auto

from devtools.local.store_proxy import CHUNK, StoreProxy

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


class S3Proxy(StoreProxy):
    """`mood` may be set at any time and counts from then on."""

    def __init__(self, store_port: int, seed: int = 1, slow_s: tuple[float, float] = SLOW_S) -> None:
        super().__init__(store_port)
        self.mood = Mood.PASS
        self.delayed = 0
        self.refused = 0
        self._slow_s = slow_s
        self._rng = random.Random(seed)

    def answers(self, client: socket.socket, begin: bytes) -> bool:
        if self.mood is not Mood.REFUSE or not _REQUEST.match(begin):
            return False
        self._refuse(client, begin)
        return True

    def before_answer(self, begin: bytes) -> None:  # noqa: ARG002 - whatever was asked
        if self.mood is Mood.SLOW:
            self.delayed += 1
            time.sleep(self._rng.uniform(*self._slow_s))

    def _refuse(self, client: socket.socket, data: bytes) -> None:
        """Read the request to its end, so that the client reads the answer; then close the connection."""
        while b"\r\n\r\n" not in data:
            data += client.recv(CHUNK) or b"\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        missing = 0 if _EXPECT.search(head) or not length else int(length[1]) - len(body)
        while missing > 0:
            more = client.recv(CHUNK)
            if not more:
                return
            missing -= len(more)
        self.refused += 1
        text = b"" if head.startswith(b"HEAD") else _DENIED
        client.sendall(
            b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(_DENIED), text)
        )
