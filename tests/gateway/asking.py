"""Requests to an application without a network: plain ones, and streams that are read as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tests.gateway.world import World

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that must not take long."""

    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await coroutine

    return asyncio.run(bounded())


def ask(world: World, method: str, path: str, token: str | None = None, **options: Any) -> Any:
    """The answer to one request."""

    async def one() -> Any:
        async with world.client(token) as client:
            return await client.request(method, path, **options)

    return run(one())


class Stream:
    """An open event stream; it may be told to take nothing more."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        self.ended = False
        self.stuck = False
        self._news = asyncio.Event()
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.text += message["body"].decode()
            self.ended = not message.get("more_body", False)
        self._news.set()

    async def until(self, text: str) -> None:
        """Wait until the stream has sent this."""
        while text not in self.text:
            assert not self.ended, self.text
            self._news.clear()
            await self._news.wait()

    async def end(self) -> str:
        """Wait for the end of the stream; all that it sent."""
        while not self.ended:
            self._news.clear()
            await self._news.wait()
        return self.text


@asynccontextmanager
async def stream(world: World, path: str, **headers: str) -> AsyncIterator[Stream]:
    """Open an event stream; the client leaves at the end of the block."""
    opened = Stream()
    path, _, query = path.partition("?")
    given = {"host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8007),
    }  # fmt: skip
    task = asyncio.create_task(world.app(scope, opened.receive, opened.send))
    try:
        yield opened
    finally:
        opened.gone.set()
        await task
