"""A proxy in front of S3, on 127.0.0.1, that passes bytes on; what derives from it delays answers or gives its own.

A thread per connection. Within a connection, client and store speak in turn, so the first bytes from the client after
an answer begin a request, and the first ones from the store after a request begin an answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Self

from devtools.local.process import LOOPBACK

CHUNK = 65_536
_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.5


class StoreProxy:
    """Listens on a free port while its context is open."""

    def __init__(self, store_port: int) -> None:
        self._store_port = store_port
        self._listener = socket.create_server((LOOPBACK, 0), backlog=128)
        self._listener.settimeout(_LOOK_EVERY_S)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="store-proxy", daemon=True)

    @property
    def endpoint_url(self) -> str:
        """The proxy's address."""
        return f"http://{LOOPBACK}:{self._listener.getsockname()[1]}"

    def answers(self, client: socket.socket, begin: bytes) -> bool:  # noqa: ARG002 - for what derives from it
        """Whether it has answered a request, which begins so, in place of the store; then the connection ends."""
        return False

    def before_answer(self, begin: bytes) -> None:
        """The store answers a request that began so; the client gets the answer when this returns."""

    def __enter__(self) -> Self:
        """Start to listen."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the proxy; connections end with their next look."""
        self._stopping.set()
        self._thread.join()
        self._listener.close()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="store-proxied", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # A store that is down, and peers that are gone, end the connection as they would without a proxy.
        with client, contextlib.suppress(OSError):
            client.settimeout(_TIMEOUT_S)
            with socket.create_connection((LOOPBACK, self._store_port), _TIMEOUT_S) as store:
                store.settimeout(_TIMEOUT_S)
                self._relay(client, store)

    def _relay(self, client: socket.socket, store: socket.socket) -> None:
        asked = b""  # how the request began that is not answered
        while not self._stopping.is_set():
            for source in select.select([client, store], [], [], _LOOK_EVERY_S)[0]:
                data = source.recv(CHUNK)
                if not data:
                    return
                if source is client:
                    if not asked and self.answers(client, data):
                        return
                    asked = asked or data
                    store.sendall(data)
                else:
                    if asked:
                        self.before_answer(asked)
                    asked = b""
                    client.sendall(data)
