"""The process: Kafka clients, the application, uvicorn, signals, exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import resource
import signal
import socket
import time
from collections.abc import Generator
from types import FrameType
from wsgiref.simple_server import WSGIServer

import structlog
import uvicorn
from confluent_kafka import KafkaException
from starlette.types import ASGIApp

from worker import __version__
from worker.client.connection import Connection, connect
from worker.errors import SettingsError
from worker.gateway.admission import Admission
from worker.gateway.app import build_app
from worker.gateway.board import Board
from worker.gateway.hub import Hub
from worker.gateway.pictures import Pictures
from worker.gateway.probes import exposition
from worker.gateway.protocol import HurriedProtocol
from worker.gateway.sender import KafkaSender
from worker.gateway.service import Service
from worker.gateway.state import State
from worker.gateway.tokens import RateLimit, Tokens
from worker.gateway.topic_reader import Seen, TopicReader
from worker.rule_files import read_rules
from worker.settings import Settings
from worker.telemetry.health import Health, serve

_log = structlog.get_logger()

STOP_S = 10
KEEP_ALIVE_S = 15
# Connections beside those of event streams.
_SPARE_CONNECTIONS = 500


def run() -> int:
    """Serve until SIGTERM or Ctrl-C; a second signal ends at once.

    Raises:
        StartupError: settings are wrong, or it cannot listen.
    """
    with connect() as connection:
        settings = connection.settings
        secret = settings.gateway_tokens
        tokens = Tokens(None if secret is None else secret.get_secret_value())
        listening = listen(settings, is_open=not tokens)
        with listening:
            asyncio.run(_serve(connection, tokens, listening))
    return 0


async def _serve(connection: Connection, tokens: Tokens, listening: socket.socket) -> None:
    settings, loop = connection.settings, asyncio.get_running_loop()
    sender = _sender(connection)
    hub = Hub(settings.gateway_max_streams)
    service = Service(
        topics=connection.topics,
        admission=Admission(read_rules(settings)),
        board=Board(settings.gateway_max_jobs),
        hub=hub,
        sender=sender,
        pictures=Pictures.from_settings(settings),
        rate=RateLimit(settings.gateway_rate_per_s, settings.gateway_burst, time.monotonic),
    )

    def on_seen(batch: list[Seen]) -> None:
        # The reader waits, so that it cannot be further ahead than one batch.
        taken = asyncio.run_coroutine_threadsafe(_take(service, batch), loop)
        with contextlib.suppress(asyncio.CancelledError):
            taken.result()

    reader = TopicReader(connection, on_seen)
    state = State(reader)
    server = GatewayServer(build_app(service, state, settings, tokens), settings, state, hub)
    probes = _serve_metrics(settings, state)
    reader.start()
    sender.start()
    _tell(settings, tokens, listening)
    try:
        await server.serve([listening])
    finally:
        await asyncio.to_thread(reader.stop)
        await asyncio.to_thread(sender.stop)
        if probes is not None:
            await asyncio.to_thread(probes.shutdown)
    _log.info("stopped")


class _Probed:
    """The gateway, as the second port's probes ask it."""

    def __init__(self, state: State) -> None:
        self._state = state

    def not_ready(self) -> list[str]:
        return self._state.not_ready()

    def facts(self) -> dict[str, object]:
        return {"version": __version__}


def _serve_metrics(settings: Settings, state: State) -> WSGIServer | None:
    """The second port, if one is wanted."""
    if settings.gateway_metrics_port is None:
        return None
    health = Health(time.monotonic)
    health.watch(_Probed(state))
    server, port = serve(health, "0.0.0.0", settings.gateway_metrics_port, exposition(settings), "GATEWAY_METRICS")
    _log.info("metrics", port=port)
    return server


async def _take(service: Service, batch: list[Seen]) -> None:
    service.on_seen(batch)


def _sender(connection: Connection) -> KafkaSender:
    try:
        return KafkaSender(connection, connection.settings.gateway_send_timeout_s)
    except KafkaException as error:
        raise SettingsError(f"Kafka settings: {error.args[0].str()}") from None


class _QuietHandler(logging.Handler):
    """uvicorn's lines, most of which are about what strangers send: for LOG_LEVEL=debug."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.debug("http_server", message=record.getMessage())


class GatewayServer(uvicorn.Server):
    """uvicorn, whose first signal ends the event streams too, and whose exit code is 0."""

    def __init__(self, app: ASGIApp, settings: Settings, state: State, hub: Hub) -> None:
        _raise_file_limit(settings.gateway_max_streams + _SPARE_CONNECTIONS)
        lines = logging.getLogger("uvicorn")
        lines.handlers, lines.propagate = [_QuietHandler()], False
        super().__init__(
            uvicorn.Config(
                app,
                http=HurriedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
                limit_concurrency=settings.gateway_max_streams + _SPARE_CONNECTIONS,
            )
        )
        self._state = state
        self._hub = hub

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """The base class would send the signal once more at the end, which kills the process."""
        loop = asyncio.get_running_loop()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True
            loop.call_soon_threadsafe(self._wind_down)

        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _wind_down(self) -> None:
        self._state.stopping = True
        self._hub.close()


def listen(settings: Settings, *, is_open: bool) -> socket.socket:
    """The socket to serve on.

    Args:
        is_open: there are no tokens, so that only this machine may come in.

    Raises:
        SettingsError: it is not allowed, or cannot listen there.
    """
    host, port = settings.gateway_host.strip("[]"), settings.gateway_port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise SettingsError(f"GATEWAY_HOST: {host!r} is no address and no known name") from None
    family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    if is_open and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise SettingsError(
            f"GATEWAY_TOKENS is not set, so GATEWAY_HOST must be 127.0.0.1, ::1 or localhost, not {host}: "
            "without tokens everybody who reaches the gateway may use it"
        )
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address[:2])
    except OSError as error:
        listening.close()
        taken = "is taken by another process; choose another, or 0 for any free one"
        reason = taken if error.errno == errno.EADDRINUSE else f"cannot be listened on: {error.strerror}"
        raise SettingsError(f"GATEWAY_PORT: {port} on {host} {reason}") from None
    return listening


def _tell(settings: Settings, tokens: Tokens, listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    name = "localhost" if ipaddress.ip_address(host).is_loopback else settings.gateway_host
    _log.info("starting", version=__version__, page=f"http://{name}:{port}/", tokens=bool(tokens))


def _raise_file_limit(wanted: int) -> None:
    """Each connection is a file, and shells often allow 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + 256
    if soft != resource.RLIM_INFINITY and soft < enough:
        limit = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
