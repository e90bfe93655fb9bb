"""A real browser on a gateway without Kafka, for the tests of the page."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from tests.gateway.world import World

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
NO_CHROMIUM = "no chromium on the PATH: the page was not tried in a browser (Debian's package is called chromium)"
# Without them Chromium asks Google's hosts at every start; root needs the first.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A gateway that serves on this machine."""

    world: World
    url: str
    _loop: asyncio.AbstractEventLoop

    def tell(self, what: Callable[[], Any]) -> Any:
        """Do something on the gateway's own thread, where its state lives."""

        async def done() -> Any:
            return what()

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(10)

    def status(self, job_id: str, status: str, after_s: float = 0.0, **fields: Any) -> None:
        """A status event of a worker."""
        self.tell(lambda: self.world.log.status(job_id, status, after_s=after_s, **fields))

    def cut_streams(self) -> None:
        """End every event stream, as a proxy that is restarted does."""
        for listener in list(self.world.service.hub._of_all):
            listener.close()


@contextlib.contextmanager
def serving(world: World) -> Iterator[Site]:
    """Serve a gateway on a free port until the block ends."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(world.app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server, loop = uvicorn.Server(config), asyncio.new_event_loop()
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve([listening])), daemon=True)
    thread.start()
    try:
        yield Site(world, f"http://localhost:{listening.getsockname()[1]}/", loop)
    finally:
        server.should_exit = True
        loop.call_soon_threadsafe(world.service.hub.close)
        thread.join(20)
        loop.close()
        listening.close()
