"""A token endpoint of the tests' own (OAuth 2.0, client credentials), and unsigned tokens as Kafka takes them."""

from __future__ import annotations

import base64
import json
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

from tests.loopback import LoopbackServer


def unsigned_token(subject: str = "worker", lifetime_s: int = 300) -> str:
    """An unsecured JWT (RFC 7519, section 6), which Kafka's default validator accepts."""
    now = int(time.time())
    claims = {"sub": subject, "iat": now, "exp": now + lifetime_s, "iss": "tests", "aud": "kafka", "jti": "1"}
    return f"{_part({'alg': 'none'})}.{_part(claims)}."


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class TokenEndpoint(LoopbackServer):
    """Use as a context manager; answers `client` with `secret`, and notes what was asked in `grants`."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.grants: list[dict[str, list[str]]] = []
        super().__init__(type("Handler", (_Handler,), {"endpoint": self}))
        self.url = f"{self.origin}/token"


class _Handler(BaseHTTPRequestHandler):
    endpoint: TokenEndpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.endpoint.grants.append(parse_qs(body))
        expected = "Basic " + base64.b64encode(b"client:secret").decode()
        is_known = self.headers.get("Authorization") == expected
        answer: dict[str, Any] = {"error": "invalid_client"}
        if is_known:
            token = self.endpoint.token or unsigned_token()
            answer = {"access_token": token, "token_type": "Bearer", "expires_in": 300}
        content = json.dumps(answer).encode()
        self.send_response(200 if is_known else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay quiet: the test's own output matters."""
