"""A proxy in front of S3, on 127.0.0.1, that delays the answer to each PUT: what a store in the cloud takes.

A thread per connection. On a connection client and store speak in turn, so the first bytes from the client after an
answer begin a request, and the first ones from the store after a request begin an answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from types import TracebackType
from typing import Self

PUT_DELAY_S = 0.1
_CHUNK = 65_536
_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.5


class SlowPuts:
    """Listens on a free port while its context is open."""

    def __init__(self, store_port: int, delay_s: float = PUT_DELAY_S) -> None:
        self.delayed = 0
        self._store_port, self._delay_s = store_port, delay_s
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.settimeout(_LOOK_EVERY_S)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="slow-puts", daemon=True)

    @property
    def endpoint_url(self) -> str:
        """The proxy's address."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

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
                threading.Thread(target=self._serve, args=(client,), name="slow-put", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # Peers that are gone end the connection as they would without a proxy.
        with client, contextlib.suppress(OSError):
            client.settimeout(_TIMEOUT_S)
            with socket.create_connection(("127.0.0.1", self._store_port), _TIMEOUT_S) as store:
                store.settimeout(_TIMEOUT_S)
                self._relay(client, store)

    def _relay(self, client: socket.socket, store: socket.socket) -> None:
        answered, is_put = True, False
        while not self._stopping.is_set():
            for source in select.select([client, store], [], [], _LOOK_EVERY_S)[0]:
                data = source.recv(_CHUNK)
                if not data:
                    return
                if source is client:
                    is_put = data.startswith(b"PUT ") if answered else is_put
                    answered = False
                    store.sendall(data)
                    continue
                if is_put and not answered:
                    self.delayed += 1
                    time.sleep(self._delay_s)
                answered = True
                client.sendall(data)
