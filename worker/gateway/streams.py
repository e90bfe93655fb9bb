"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) of one listener."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from worker.events.types import GenerationStatus
from worker.gateway.board import ENDED
from worker.gateway.hub import Listener
from worker.gateway.shapes import JobState

HEARTBEAT_S = 15.0
# For a client whose connection takes no more bytes.
SEND_S = 30.0


def event_text(event: GenerationStatus) -> bytes:
    """One event; JSON escapes line breaks, so that its data is one line."""
    data = JobState.of(event).model_dump_json(exclude_none=True)
    return f"event: status\nid: {event_id(event)}\ndata: {data}\n\n".encode()


def event_id(event: GenerationStatus) -> int:
    """Milliseconds since 1970, so that every gateway understands it."""
    return round(event.updated_at.timestamp() * 1000)


def last_event_id(text: str | None) -> int | None:
    """What a client says that it has seen; None for what is no id of ours."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) <= 15 else None


class EventStream(Response):
    """A response that goes on until its listener is closed, the client leaves, or stops reading.

    Args:
        first: sent at the start.
        ends: whether the stream ends with an event that ends a job.
        on_end: called once, whatever happens.
    """

    media_type = "text/event-stream"

    def __init__(
        self, listener: Listener, first: Iterable[GenerationStatus], *, ends: bool, on_end: Callable[[], None]
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._listener = listener
        self._first = list(first)
        self._ends = ends
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the ASGI signature
        gone = asyncio.create_task(_until_gone(receive, self._listener))
        try:
            await _patiently(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send_events(send)
            await _patiently(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):
            # The server closes the connection of an answer that was not finished.
            self._listener.close()
        finally:
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
            self._on_end()

    async def _send_events(self, send: Send) -> None:
        # A comment at once, so that a client's connection counts as open.
        await _patiently(send, _body(b": \n\n"))
        events = self._first
        while True:
            for event in events:
                await _patiently(send, _body(event_text(event)))
            if self._ends and any(event.status in ENDED for event in events):
                return
            if self._listener.closed:
                return
            events = await self._listener.next(HEARTBEAT_S)
            if not events and not self._listener.closed:
                await _patiently(send, _body(b": \n\n"))


def _body(data: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _patiently(send: Send, message: dict[str, object]) -> None:
    async with asyncio.timeout(SEND_S):
        await send(message)


async def _until_gone(receive: Receive, listener: Listener) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.close()
