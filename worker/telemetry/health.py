"""Health endpoints: liveness is the heartbeat of the worker's loops, readiness is whether it can work now."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import REGISTRY, make_wsgi_app

# A step of a large batch, a decode and the bounded wait of a rebalance all take much less.
STALE_AFTER_S = 120.0


class Watched(Protocol):
    """What a running worker tells the probes."""

    def not_ready(self) -> list[str]:
        """Why it can do no work now; empty when it can."""

    def facts(self) -> dict[str, Any]:
        """What changes while it runs."""


@dataclass(slots=True)
class Health:
    """Liveness and readiness of the process; the loops record heartbeats, and the HTTP thread reads them."""

    clock: Callable[[], float]
    facts: dict[str, Any] = field(default_factory=dict)
    _worker: Watched | None = None
    _beats: dict[str, float] = field(default_factory=dict)
    _waiting: set[str] = field(default_factory=set)
    # Why there is no worker yet.
    starting: str = "starting"

    def watch(self, worker: Watched) -> None:
        """The worker is there: from now on it answers, and the probes no longer say `starting`."""
        self._worker = worker

    def not_ready(self) -> list[str]:
        """Why the worker can do no work now; empty when it can."""
        return [self.starting] if self._worker is None else self._worker.not_ready()

    def beat(self, loop: str) -> None:
        """Record that `loop` has just started another iteration."""
        self._beats[loop] = self.clock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While it is open, the calling loop waits for an outside service, so its silence is no failure of its own.

        A loop's thread bears the loop's name.
        """
        loop = threading.current_thread().name
        if loop not in self._beats:
            yield
            return
        self._waiting.add(loop)
        try:
            yield
        finally:
            self.beat(loop)
            self._waiting.discard(loop)

    def stale(self) -> list[str]:
        """Return the loops whose last heartbeat is more than `STALE_AFTER_S` ago and that wait for no one."""
        now = self.clock()
        return [
            loop for loop, at in list(self._beats.items()) if now - at > STALE_AFTER_S and loop not in self._waiting
        ]

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the process is alive, and the JSON body of `/health`."""
        stale = self.stale()
        reasons = self.not_ready()
        status = "unhealthy" if stale else "starting" if self._worker is None else "healthy"
        body = {
            "status": status,
            "ready": not reasons,
            **self.facts,
            **({} if self._worker is None else self._worker.facts()),
        }
        if stale:
            body["stalled_loops"] = stale
        if reasons:
            body["not_ready"] = reasons
        return not stale, body


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: probes arrive every few seconds."""


def _app(health: Health) -> WSGIApplication:
    metrics: WSGIApplication = make_wsgi_app(REGISTRY)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/").rstrip("/")
        if path == "/metrics":
            return metrics(environ, start_response)
        if path == "/health":
            alive, body = health.report()
            return _answer(start_response, "200 OK" if alive else "503 Service Unavailable", body)
        if path == "/ready":
            reasons = health.not_ready()
            return _answer(
                start_response,
                "503 Service Unavailable" if reasons else "200 OK",
                {"ready": not reasons, "reasons": reasons},
            )
        return _answer(
            start_response, "404 Not Found", {"error": "not found: the paths are /health, /ready and /metrics"}
        )

    return app


def _answer(start_response: StartResponse, status: str, body: dict[str, Any]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode() + b"\n"]


def serve(health: Health, host: str, port: int) -> tuple[WSGIServer, int]:
    """Start a thread that answers probes; return the server and its port.

    Raises:
        OSError: the port is in use.
    """
    server = make_server(host, port, _app(health), server_class=_Server, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server, server.server_port
