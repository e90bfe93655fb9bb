"""The process around the application: where it listens, slow clients, and its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.gateway.asking import run
from tests.gateway.world import World, make_world
from worker.errors import SettingsError
from worker.gateway import protocol
from worker.gateway.server import GatewayServer, listen
from worker.settings import Settings


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **{"gateway_port": 0, **given})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]"])
def test_without_tokens_it_does_not_listen_to_the_world(host: str) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_TOKENS is not set, so GATEWAY_HOST must be"):
        listen(settings(gateway_host=host), is_open=True)
    with listen(settings(gateway_host="0.0.0.0"), is_open=False) as listening:
        assert listening.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3"])
def test_loopback_needs_no_tokens(host: str) -> None:
    with listen(settings(gateway_host=host), is_open=True) as listening:
        assert listening.getsockname()[0].startswith("127.")


def test_where_it_cannot_listen_one_line_says_why() -> None:
    with listen(settings(), is_open=True) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(SettingsError, match=f"GATEWAY_PORT: {port} on 127.0.0.1 is taken"):
            listen(settings(gateway_port=port), is_open=True)
    with pytest.raises(SettingsError, match="GATEWAY_HOST: 'no such name' is no address"):
        listen(settings(gateway_host="no such name"), is_open=True)
    with pytest.raises(SettingsError, match=r"GATEWAY_PORT: 0 on 192\.0\.2\.1 cannot be listened on"):
        listen(settings(gateway_host="192.0.2.1"), is_open=False)


def test_a_wrong_setting_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.cli import app

    monkeypatch.setenv("GATEWAY_HOST", "0.0.0.0")
    monkeypatch.delenv("GATEWAY_TOKENS", raising=False)
    done = CliRunner().invoke(app, ["gateway"])
    assert done.exit_code == 2 or isinstance(done.exception, SettingsError)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection is closed soon."""
    monkeypatch.setattr("worker.gateway.server.KEEP_ALIVE_S", 0.3)


@asynccontextmanager
async def serving(world: World, **given: Any) -> AsyncIterator[tuple[GatewayServer, int]]:
    """The real server on a free port of this machine."""
    chosen = settings(**given)
    listening = listen(chosen, is_open=True)
    server = GatewayServer(world.app, chosen, world.state, world.service.hub)
    task = asyncio.create_task(server.serve([listening]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield server, listening.getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def talk(port: int, data: bytes) -> bytes:
    """Everything that is answered to these bytes, until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


def test_a_head_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)

    async def play() -> None:
        async with serving(make_world()) as (_, port):
            assert await talk(port, b"") == b""
            assert await talk(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") == b""
            # One request was whole, the next is not.
            whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
            assert (await talk(port, whole + b"GET /hea")).count(b"200 OK") == 1

    run(play())


def test_what_is_not_http_costs_one_connection() -> None:
    async def play() -> None:
        async with serving(make_world()) as (_, port):
            post = b"POST /generate HTTP/1.1\r\nHost: localhost\r\n"
            for data in (b"\x16\x03\x01\x02\x00\x01\x00\xfc", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n",
                         b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000,
                         post + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{",
                         post + b"Content-Length: -1\r\n\r\n"):  # fmt: skip
                answer = await talk(port, data)
                assert answer.startswith(b"HTTP/1.1 4"), (data[:60], answer[:60])
            good = await talk(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert good.startswith(b"HTTP/1.1 200 OK")
            assert b"uvicorn" not in good.lower()

    run(play())


def test_a_body_that_is_too_large_ends_the_connection() -> None:
    async def play() -> None:
        async with serving(make_world()) as (_, port):
            head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            stated = await talk(port, head + b"Content-Length: 99999999999\r\n\r\n" + b"x" * 1_000)
            assert stated.startswith(b"HTTP/1.1 413")
            get = await talk(port, b"GET /queue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\nabc")
            assert get.startswith(b"HTTP/1.1 200")

    run(play())


def test_a_signal_ends_the_streams_and_the_server() -> None:
    async def play() -> None:
        world = make_world()
        world.log.status("a", "running")
        async with serving(world) as (server, port):
            request = b"GET /jobs/a/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await reader.readuntil(b"running")
            server.should_exit = True
            server._wind_down()
            rest = await reader.read()
            assert rest.endswith(b"0\r\n\r\n")
            writer.close()
        assert world.state.not_ready() == ["the gateway is stopping"]
        assert len(world.service.hub) == 0

    run(play())


def test_ipv6_loopback_needs_no_tokens() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        listen(settings(gateway_host="[::1]"), is_open=True).close()
    except SettingsError as error:
        assert "cannot be listened on" in str(error)  # noqa: PT017 - a container without IPv6
