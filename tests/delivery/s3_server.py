"""A small S3 server of the tests' own: objects in memory, conditional puts, and any answer that a test wants."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from worker.settings import Settings


@dataclass(frozen=True)
class Request:
    """What a client asked for; `key` is empty for the bucket."""

    method: str
    bucket: str
    key: str
    headers: dict[str, str]

    @property
    def access_key(self) -> str:
        found = re.search(r"Credential=([^/]+)/", self.headers.get("authorization", ""))
        return found[1] if found else ""


@dataclass(frozen=True)
class Answer:
    """A refusal, with the XML that S3 sends, or none (`code` is empty)."""

    status: int
    code: str = ""
    extra: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        return (
            f"<Error><Code>{self.code}</Code><Message>no</Message>{self.extra}</Error>".encode() if self.code else b""
        )


DENIED = Answer(403, "AccessDenied")
NO_KEY = Answer(404, "NoSuchKey")


class S3Server:
    """One bucket, on a free port of loopback. The attributes may be changed at any time.

    Attributes:
        refuse: says what is answered in place of the right answer; None for the right answer.
        conditions: how `If-None-Match` and `If-Match` are treated: "kept", "ignored" or "refused".
        may_list: without it, what is missing is forbidden, and so is the bucket.
        lose: the next so many puts take place, and their answers are lost.
    """

    def __init__(self, bucket: str = "pictures") -> None:
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self.labels: dict[str, dict[str, str]] = {}
        self.requests: list[Request] = []
        self.refuse: Callable[[Request], Answer | None] = lambda _: None
        self.conditions = "kept"
        self.may_list = True
        self.lose = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _serve(self) -> None:
                server.serve(self)

            do_GET = do_PUT = do_HEAD = _serve

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.endpoint_url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        bucket, _, key = handler.path.split("?")[0].lstrip("/").partition("/")
        request = Request(handler.command, bucket, key, {name.lower(): v for name, v in handler.headers.items()})
        with self._lock:
            self.requests.append(request)
            answer = self.refuse(request) or self._answer(request, body)
            lost = request.method == "PUT" and isinstance(answer, bytes) and self.lose > 0
            self.lose -= lost
        if lost:
            handler.close_connection = True
            return
        status, data, headers = (
            (200, answer, {}) if isinstance(answer, bytes) else (answer.status, answer.body(), answer.headers)
        )
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if isinstance(answer, bytes) and key:
            handler.send_header("ETag", etag(self.objects[key]))
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)

    def _answer(self, request: Request, body: bytes) -> bytes | Answer:
        if request.bucket != self.bucket:
            return Answer(404, "NoSuchBucket")
        if not request.key:
            return b"" if self.may_list else DENIED
        there = self.objects.get(request.key)
        if request.method != "PUT":
            return there if there is not None else NO_KEY if self.may_list else DENIED
        absent, wanted = request.headers.get("if-none-match"), request.headers.get("if-match")
        if self.conditions == "refused" and (absent or wanted):
            return Answer(501, "NotImplemented")
        if self.conditions == "kept":
            if absent and there is not None:
                return Answer(412, "PreconditionFailed")
            if wanted and there is None:
                return NO_KEY
            if wanted and there is not None and etag(there) != wanted:
                return Answer(412, "PreconditionFailed")
        self.objects[request.key] = body
        self.labels[request.key] = {name: request.headers.get(name, "") for name in ("content-type", "cache-control")}
        return b""


def settings_for(endpoint: str | None, **changes: Any) -> Settings:
    """Settings of a store; nothing is read from files of this machine."""
    defaults: dict[str, Any] = {
        "aws_endpoint_url_s3": endpoint,
        "aws_s3_bucket": "pictures",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret-that-never-prints",
        "cloudfront_url": None,
    }
    return Settings(_env_file=None, **(defaults | changes))


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'
