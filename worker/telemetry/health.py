"""Health endpoints: liveness is the heartbeat of the worker's loops, readiness is whether it can work now."""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog
from prometheus_client import make_wsgi_app

from worker.errors import SettingsError
from worker.telemetry.exposition import Exposition

_log = structlog.get_logger()

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

    def server_bind(self) -> None:
        """Without the look-up of this machine's name, which waits for a name server that is away."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A probe that goes away before its answer is nobody's error; the base class prints a traceback for it."""
        _log.debug("probe_failed", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(self.server_address[0] != "::"))
        super().server_bind()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: probes arrive every few seconds."""


def _app(health: Health, exposition: Exposition) -> WSGIApplication:
    metrics: WSGIApplication = make_wsgi_app(exposition)

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


def serve(
    health: Health, host: str, port: int, exposition: Exposition | None = None, settings_prefix: str = "HTTP"
) -> tuple[WSGIServer, int]:
    """Start a thread that answers probes; return the server and its port.

    Args:
        host: an address or a name of this machine, IPv4 or IPv6; `::` takes both.
        exposition: what `/metrics` shows; None: a worker's metrics without the labels of a fleet.
        settings_prefix: the settings that host and port come from begin with it.

    Raises:
        SettingsError: it cannot listen there: the port is in use, or the address is not this machine's.
    """
    server = _listen(host.strip("[]"), port, settings_prefix)
    server.set_app(_app(health, exposition or Exposition()))
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server, server.server_port


def _listen(host: str, port: int, prefix: str) -> WSGIServer:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name can be so"
        raise SettingsError(f"{prefix}_HOST: {host!r} is no address and no known name: {reason}") from None
    # A name that has both, such as localhost, is looked for under 127.0.0.1 first.
    family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    make = _Server if family == socket.AF_INET else _Server6
    try:
        return make((str(address[0]), port), _Quiet)
    except OSError as error:
        raise SettingsError(_refusal(error, host, port, prefix)) from None


def _refusal(error: OSError, host: str, port: int, prefix: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"{prefix}_PORT: {port} on {host} is taken by another process; choose another, or 0 for any free one"
        case errno.EACCES | errno.EPERM:
            return f"{prefix}_PORT: {port} on {host} is not allowed to this user; choose one above 1023"
        case errno.EADDRNOTAVAIL:
            return f"{prefix}_HOST: {host} is no address of this machine"
    return f"{prefix}_HOST, {prefix}_PORT: cannot listen on {host} port {port}: {error.strerror}"
