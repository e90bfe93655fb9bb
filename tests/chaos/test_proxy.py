"""The proxy in front of S3: bytes pass unchanged, answers come late, and requests are refused in S3's own words."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.chaos.proxy import Mood, S3Proxy

BODY = bytes(range(256)) * 1000


class Store(http.server.BaseHTTPRequestHandler):
    """Keeps what is put."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]

    def do_PUT(self) -> None:  # its name in the library
        self.kept[self.path] = self.rfile.read(int(self.headers["content-length"]))
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.kept[self.path])

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        """Nothing is written."""


@pytest.fixture
def proxy() -> Iterator[S3Proxy]:
    handler = type("OwnStore", (Store,), {"kept": {}})
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        S3Proxy(server.server_port, slow_s=(0.01, 0.02)) as proxy,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield proxy
        server.shutdown()


@pytest.fixture
def client(proxy: S3Proxy) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=proxy.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def put_and_get(client: Any) -> bytes:
    client.put_object(Bucket="bucket", Key="key", Body=BODY)
    content: bytes = client.get_object(Bucket="bucket", Key="key")["Body"].read()
    return content


def test_bytes_pass_unchanged(proxy: S3Proxy, client: Any) -> None:
    assert put_and_get(client) == BODY
    assert (proxy.delayed, proxy.refused) == (0, 0)


def test_a_slow_store_answers_the_same_later(proxy: S3Proxy, client: Any) -> None:
    proxy.mood = Mood.SLOW
    assert put_and_get(client) == BODY
    assert proxy.delayed >= 2


def test_a_right_that_was_removed_comes_back(proxy: S3Proxy, client: Any) -> None:
    assert put_and_get(client) == BODY
    proxy.mood = Mood.REFUSE
    for call in (put_and_get, lambda c: c.get_object(Bucket="bucket", Key="key")):
        with pytest.raises(ClientError) as refused:
            call(client)
        assert refused.value.response["Error"]["Code"] == "AccessDenied"
    with pytest.raises(ClientError) as refused:
        client.head_object(Bucket="bucket", Key="key")
    assert refused.value.response["Error"]["Code"] == "403"
    assert proxy.refused == 3
    proxy.mood = Mood.PASS
    assert put_and_get(client) == BODY
