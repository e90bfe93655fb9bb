"""Where probes are answered: any address of this machine, and one line where that cannot be."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import closing

import pytest

from worker.errors import SettingsError
from worker.telemetry.health import Health, serve


def answer(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as response:
        return int(response.status)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


V6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        pytest.param("::1", "[::1]", marks=V6),
        pytest.param("[::1]", "[::1]", marks=V6),
        pytest.param("::", "127.0.0.1", marks=V6),
        pytest.param("::", "[::1]", marks=V6),
    ],
)
def test_probes_are_answered_on(host: str, asked: str) -> None:
    server, port = serve(Health(lambda: 0.0), host, 0)
    try:
        assert answer(f"http://{asked}:{port}/health") == 200
        assert answer(f"http://{asked}:{port}/metrics") == 200
    finally:
        server.shutdown()
        server.server_close()


def test_a_port_that_is_taken() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^HTTP_PORT: {port} on 127.0.0.1 is taken"):
            serve(Health(lambda: 0.0), "127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("192.0.2.1", "HTTP_HOST: 192.0.2.1 is no address of this machine"),
        ("no.such.host.invalid", "HTTP_HOST: 'no.such.host.invalid' is no address and no known name"),
        ("a" * 70 + ".example", "no known name"),
        ("..", "no known name"),
        ("300.1.1.1", "no known name"),
    ],
)
def test_a_host_that_is_not_ours(host: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        serve(Health(lambda: 0.0), host, 0)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_probe_that_goes_away_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    server, _ = serve(Health(lambda: 0.0), "127.0.0.1", 0)
    try:
        raise BrokenPipeError
    except BrokenPipeError:
        server.handle_error(None, ("127.0.0.1", 1))  # type: ignore[arg-type]
    finally:
        server.shutdown()
        server.server_close()
    assert "Traceback" not in capfd.readouterr().err
