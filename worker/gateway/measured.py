"""Counts and times every request, and gives the gauges their values."""

from __future__ import annotations

import time
from collections.abc import Iterable

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.gateway.service import Service
from worker.gateway.state import State
from worker.job import Lane
from worker.telemetry import metrics

# For paths that are none of ours, of which strangers try thousands.
OTHER = "other"
# What nginx logs where a client has gone before its answer began.
CLIENT_GONE = "499"


class Measured:
    """ASGI middleware around everything else.

    Args:
        routes: of the application; labels hold their templates, never a path with a job's id.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[object]) -> None:
        self._app = app
        self._routes = [(route.path_regex, route.path) for route in routes if isinstance(route, Route)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = self.route_of(scope["path"])
        began = time.monotonic()
        status = CLIENT_GONE

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                metrics.HTTP_SECONDS.labels(route).observe(time.monotonic() - began)
                if status == "401":
                    metrics.HTTP_REFUSED_TOKENS.inc()
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            metrics.HTTP_REQUESTS.labels(route, status).inc()

    def route_of(self, path: str) -> str:
        """The template of a path."""
        return next((template for pattern, template in self._routes if pattern.match(path)), OTHER)


def set_gauges(service: Service, state: State) -> None:
    """Let each scrape read the present values."""
    metrics.GATEWAY_READY.set_function(lambda: not state.not_ready())
    metrics.GATEWAY_STREAMS.set_function(lambda: len(service.hub))
    for lane in Lane:
        for position, name in enumerate(("waiting", "running")):
            metrics.GATEWAY_JOBS.labels(lane.label, name).set_function(
                lambda lane=lane, position=position: service.board.counts(lane)[position]  # type: ignore[misc]
            )
